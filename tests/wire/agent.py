"""Network work inside one namespace, asked for by JSON lines on stdin, answered on stdout.

Only the standard library. One agent a namespace, started by the wire tests; it ends with them.
"""

import ctypes
import errno
import json
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_OUTGOING = 4
TP_STATUS_VLAN_VALID = 0x10
TP_STATUS_VLAN_TPID_VALID = 0x40
SO_RCVBUFFORCE = 33
PR_SET_PDEATHSIG = 1

connections = {}
children = {}
ears = {}


def end_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def outcome(error):
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return "timeout"
    return {
        errno.ECONNREFUSED: "refused",
        errno.ECONNRESET: "reset",
        errno.ETIMEDOUT: "timeout",
        errno.EHOSTUNREACH: "unreachable",
        errno.ENETUNREACH: "unreachable",
        errno.EPIPE: "closed",
    }.get(error.errno, str(error))


def echo(connection):
    try:
        while True:
            data = connection.recv(65536)
            if not data:
                break
            connection.sendall(data)
    except OSError:
        pass
    connection.close()


def serve_tcp(address, port):
    server = socket.socket(family(address), socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen(64)

    def accept():
        while True:
            connection, _ = server.accept()
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return "ok"


def serve_udp(address, port):
    server = socket.socket(family(address), socket.SOCK_DGRAM)
    server.bind((address, port))

    def answer():
        while True:
            try:
                data, peer = server.recvfrom(65536)
                server.sendto(data, peer)
            except OSError:
                pass

    threading.Thread(target=answer, daemon=True).start()
    return "ok"


def open_socket(kind, to, port, source, source_port, timeout):
    s = socket.socket(family(to), kind)
    s.settimeout(timeout)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source or source_port:
        s.bind((source or ("::" if ":" in to else "0.0.0.0"), source_port))
    s.connect((to, port))
    return s


def exchange(s, size, timeout):
    """Sends bytes and waits for the same bytes."""
    s.settimeout(timeout)
    sent = bytes(i & 255 for i in range(size))
    s.send(sent)
    heard = b""
    while len(heard) < size:
        data = s.recv(65536)
        if not data:
            return "closed"
        heard += data
    return "ok" if heard == sent else "corrupt"


def talk(kind, to, port, source="", source_port=0, timeout=1.0, size=32, keep=None):
    s = None
    try:
        s = open_socket(kind, to, port, source, source_port, timeout)
        result = exchange(s, size, timeout)
    except OSError as error:
        result = outcome(error)
    if keep and result == "ok":
        connections[keep] = s
    elif s:
        s.close()
    return result


def say(name, size=32, timeout=1.0):
    try:
        return exchange(connections[name], size, timeout)
    except OSError as error:
        return outcome(error)


def run(argv, timeout=30):
    try:
        done = subprocess.run(argv, capture_output=True, timeout=timeout, text=True)
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr}
    except subprocess.TimeoutExpired:
        return {"code": -1, "out": "", "err": "timeout"}


def start(name, argv):
    children[name] = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,
    )
    return "ok"


def finish(name, timeout=30, stop=False):
    child = children.pop(name)
    if stop:
        child.send_signal(signal.SIGINT)
    try:
        out, _ = child.communicate(timeout=timeout)
        return {"code": child.returncode, "out": out, "err": ""}
    except subprocess.TimeoutExpired:
        child.kill()
        out, _ = child.communicate()
        return {"code": -1, "out": out, "err": "timeout"}


def sysctl(values):
    for key, value in values.items():
        with open("/proc/sys/" + key.replace(".", "/"), "w") as file:
            file.write(str(value))
    return "ok"


def send(device, frames, gap=0.0):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        s.bind((device, 0))
        for frame in frames:
            s.send(bytes.fromhex(frame))
            if gap:
                time.sleep(gap)
    return "ok"


def listen(device):
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    ear.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    ear.bind((device, ETH_P_ALL))
    old = ears.pop(device, None)
    if old:
        old.close()
    ears[device] = ear
    return "ok"


def retagged(data, extra):
    """The frame as it was on the wire: the kernel takes the outer VLAN tag out and lays it beside."""
    for level, kind, value in extra:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", value[:20])
            if status & TP_STATUS_VLAN_VALID:
                tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                return data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
    return data


def heard(device, wait, until=None):
    """Frames that came in since `listen`, or the last `heard`; ends early at a frame that has
    `until` in it."""
    ear, frames, deadline = ears[device], [], time.monotonic() + wait
    mark = bytes.fromhex(until) if until else None
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([ear], [], [], left)[0]:
            return frames
        data, extra, _, source = ear.recvmsg(65536, 256)
        if source[2] == PACKET_OUTGOING:
            continue
        frame = retagged(data, extra)
        if mark and mark in frame:
            return frames
        frames.append(frame.hex())


COMMANDS = {
    "serve_tcp": serve_tcp,
    "serve_udp": serve_udp,
    "tcp": lambda **a: talk(socket.SOCK_STREAM, **a),
    "udp": lambda **a: talk(socket.SOCK_DGRAM, **a),
    "say": say,
    "run": run,
    "start": start,
    "finish": finish,
    "sysctl": sysctl,
    "send": send,
    "listen": listen,
    "heard": heard,
}


def main():
    end_with_parent()
    for line in sys.stdin:
        request = json.loads(line)
        command = COMMANDS[request.pop("do")]
        try:
            answer = {"ok": command(**request)}
        except Exception as error:  # the test shows it, whatever it is
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
