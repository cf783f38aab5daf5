"""A SYN flood, the connections that it must not disturb, and those that try to get in meanwhile.
For scripts/flood.sh and the tests on the wire. Each verb speaks one JSON object on a line.

  flood.py send DEVICE --to MAC IP PORT [--random RATE] [--walk RATE FLOWS FLAGS [--reply]] ...
      sends TCP frames from a device: SYNs of random sources, and segments of numbered clients
  flood.py count DEVICE SECONDS...    how many segments of numbered clients come in, by period
  flood.py serve IP PORT              answers connections, and echoes
  flood.py knock IP PORT COUNT RATE   new connections: how many come up, by the first SYN and later
  flood.py hold IP PORT COUNT         opens connections; at a line says who still lives, at another ends

Frames are made by an XDP program that the kernel runs over memory of its own (BPF_PROG_RUN with
live frames): a packet socket reaches a million a second on one core, this some millions.
"""

import argparse
import ctypes
import ipaddress
import json
import os
import platform
import selectors
import signal
import socket
import struct
import sys
import time

# Sources of the flood are all of 64.0.0.0/3; numbered clients are 10.100.0.0/16, ports from 1024.
RANDOM_BASE, RANDOM_BITS = 0x40000000, 29
WALK_BASE, WALK_PORT, WALK_PORT_BITS = 0x0A640000, 1024, 14
FLAGS = {"syn": (0x02, 0, 0), "syn-ack": (0x12, 0, 1), "ack": (0x10, 1, 1)}
FRAME_LEN = 60
BATCH = 64  # frames a pass of the driver; a veth ring holds 256
BEHIND_MAX_NS = 1_000_000  # what is made up for after a pause
REPEAT_MAX = 0xFFFFFFFF

NR_BPF = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, PROG_RUN = 0, 1, 2, 5, 10
LIVE_FRAMES = 2
SOL_PACKET, PACKET_STATISTICS = 263, 6


# --- the generator ----------------------------------------------------------------------------
def bpf(command, attributes):
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(NR_BPF[platform.machine()], command, buffer, len(attributes))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf({command}): {os.strerror(error)}")
    return result


class Assembler:
    """As much of eBPF's machine language as the program needs."""

    def __init__(self):
        self.code, self.labels, self.jumps = [], {}, []

    def emit(self, code, to=0, source=0, offset=0, value=0):
        value &= 0xFFFFFFFF
        self.code.append(struct.pack("<BBhI", code, source << 4 | to, offset, value))

    def set(self, to, value):  # 32 bits, without a sign
        self.emit(0xB4, to, value=value)

    def copy(self, to, source):
        self.emit(0xBF, to, source)

    def math(self, name, to, value):
        codes = {"+": 0x07, "/": 0x37, "|": 0x47, "&": 0x57, "<<": 0x67, ">>": 0x77, "%": 0x97, "^": 0xA7}
        self.emit(codes[name], to, value=value)

    def add(self, to, source):
        self.emit(0x0F, to, source)

    def load(self, size, to, source, offset):
        self.emit({4: 0x61, 8: 0x79}[size], to, source, offset)

    def store(self, size, to, offset, source):
        self.emit({2: 0x6B, 4: 0x63, 8: 0x7B}[size], to, source, offset)

    def big_endian(self, to, bits):
        self.emit(0xDC, to, value=bits)

    def map_address(self, to, descriptor):
        self.emit(0x18, to, 1, value=descriptor)
        self.emit(0x00)

    def call(self, function):
        self.emit(0x85, value=function)

    def jump(self, name, label, to=0, value=0, source=0):
        codes = {"always": 0x05, "==": 0x15, "!=": 0x55, "> register": 0x2D, ">= register": 0x3D}
        self.jumps.append((len(self.code), label))
        self.emit(codes[name], to, source, 0, value)

    def label(self, name):
        self.labels[name] = len(self.code)

    def finish(self):
        for at, label in self.jumps:
            offset = struct.pack("<h", self.labels[label] - at - 1)
            self.code[at] = self.code[at][:2] + offset + self.code[at][4:]
        return b"".join(self.code)


def program(options, state, device):
    """Waits for its time, fills in what varies of one frame, and sends it. A system call begins
    and ends in 24 ms, so that one has to do, and the program keeps the pace itself: what is not
    due is dropped, and the kernel asks again."""
    a = Assembler()
    a.copy(6, 1)
    a.load(4, 8, 6, 0)
    a.load(4, 9, 6, 4)
    a.copy(1, 8)
    a.math("+", 1, 54)
    a.jump("> register", "out", 1, source=9)
    a.set(1, 0)
    a.store(4, 10, -4, 1)
    a.copy(2, 10)
    a.math("+", 2, -4)
    a.map_address(1, state)
    a.call(1)  # map_lookup_elem
    a.jump("==", "out", 0, value=0)
    a.load(8, 7, 0, 0)
    a.load(8, 1, 0, 16)
    a.jump(">= register", "out", 7, source=1)
    a.copy(9, 0)
    a.call(5)  # ktime_get_ns
    a.math("<<", 0, 10)
    a.load(8, 2, 9, 8)
    a.jump("> register", "out", 2, source=0)
    a.math("+", 2, round((1 << 10) * 1e9 / options.rate))
    a.copy(1, 2)
    a.math("+", 1, BEHIND_MAX_NS << 10)
    a.jump("> register", "in time", 1, source=0)
    a.copy(2, 0)
    a.label("in time")
    a.store(8, 9, 8, 2)
    a.copy(1, 7)
    a.math("+", 1, 1)
    a.store(8, 9, 0, 1)
    # From here: r7 the number of the frame, then r6 address, r7 port, r9 sequence number.
    if options.every:
        a.copy(1, 7)
        a.math("%", 1, options.every)
        a.jump("!=", "random", 1, value=0)
        a.math("/", 7, options.every)
        a.math("%", 7, options.flows)
        a.copy(6, 7)
        a.math(">>", 6, WALK_PORT_BITS)
        a.math("+", 6, WALK_BASE)
        a.math("&", 7, (1 << WALK_PORT_BITS) - 1)
        a.math("+", 7, WALK_PORT)
        flags, sequence, acknowledgment = FLAGS[options.flags]
        a.set(9, sequence)
        fill(a, options, flags, acknowledgment, is_valid=False)
        a.jump("always", "send")
    a.label("random")
    for register, bits, base in [(6, RANDOM_BITS, RANDOM_BASE), (7, 16, 0), (9, 31, 0)]:
        a.call(7)  # get_prandom_u32
        a.copy(register, 0)
        a.math("&", register, (1 << bits) - 1)
        a.math("|", register, base)
    fill(a, options, *FLAGS["syn"][::2], is_valid=options.answered)
    a.label("send")
    a.set(1, device)
    a.set(2, 0)
    a.call(23)  # redirect
    a.emit(0x95)
    a.label("out")
    a.set(0, 1)  # XDP_DROP
    a.emit(0x95)
    return a.finish()


def fill(a, options, flags, acknowledgment, is_valid):
    server = int(ipaddress.IPv4Address(options.ip))
    offsets = (30, 26, 36, 34) if options.reply else (26, 30, 34, 36)
    client_at, server_at, client_port_at, server_port_at = offsets
    for size, at, value in [(4, server_at, server), (2, server_port_at, options.port),
                            (4, 42, acknowledgment), (2, 46, 5 << 12 | flags)]:
        a.set(1, value)
        a.big_endian(1, size * 8)
        a.store(size, 8, at, 1)
    for size, at, register in [(4, client_at, 6), (2, client_port_at, 7), (4, 38, 9)]:
        a.copy(1, register)
        a.big_endian(1, size * 8)
        a.store(size, 8, at, 1)
    both = (server >> 16) + (server & 0xFFFF)
    header = 0x4500 + (40) + (64 << 8 | 6)
    pseudo = 6 + 20 + options.port + acknowledgment + (5 << 12 | flags) + 0xFFFF
    checksum(a, both + header, [6], 24)
    # One off is always wrong: then a host drops the segment instead of answering.
    checksum(a, both + pseudo + (not is_valid), [6, 7, 9], 50)


def checksum(a, constant, registers, at):
    a.set(1, constant)
    for register in registers:
        a.copy(2, register)
        a.math("&", 2, 0xFFFF)
        a.add(1, 2)
        a.copy(2, register)
        a.math(">>", 2, 16)
        a.add(1, 2)
    for _ in range(2):
        a.copy(2, 1)
        a.math(">>", 2, 16)
        a.math("&", 1, 0xFFFF)
        a.add(1, 2)
    a.math("^", 1, 0xFFFF)
    a.big_endian(1, 16)
    a.store(2, 8, at, 1)


def load(instructions):
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"Dual MIT/GPL")
    log = ctypes.create_string_buffer(1 << 16)
    attributes = struct.pack("<IIQQIIQII16s", 6, len(instructions) // 8, ctypes.addressof(code),
                             ctypes.addressof(license_text), 1, len(log), ctypes.addressof(log),
                             0, 0, b"flood")
    try:
        return bpf(PROG_LOAD, attributes)
    except OSError as error:
        raise SystemExit(f"flood.py: {error}\n{log.value.decode()[-2000:]}") from error


def template(options):
    with open(f"/sys/class/net/{options.device}/address", encoding="ascii") as file:
        own = bytes.fromhex(file.read().strip().replace(":", ""))
    far = bytes.fromhex(options.mac.replace(":", ""))
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 40, 0, 0, 64, 6, 0, 0, 0)
    tcp = struct.pack("!HHIIHHHH", 0, 0, 0, 0, 5 << 12, 0xFFFF, 0, 0)
    return (far + own + b"\x08\x00" + ip + tcp).ljust(FRAME_LEN, b"\0")


def send(options):
    options.rate = options.random + options.walk
    options.every = round(options.rate / options.walk) if options.walk else 0
    key = ctypes.c_uint32(0)
    # Frames sent, when the next is due (in 1024ths of a nanosecond), and where it ends.
    first = options.skip * options.every
    value = (ctypes.c_uint64 * 3)(first, 0, first + (options.count or 1 << 62))
    state = bpf(MAP_CREATE, struct.pack("<IIIII", 2, 4, ctypes.sizeof(value), 1, 0))

    def ask(command):
        bpf(command, struct.pack("<IIQQQ", state, 0, ctypes.addressof(key),
                                 ctypes.addressof(value), 0))

    ask(MAP_UPDATE)
    prog = load(program(options, state, socket.if_nametoindex(options.device)))
    frame = template(options)
    data = ctypes.create_string_buffer(frame, len(frame))
    run = struct.pack("<IIIIQQIIIIQQIIII", prog, 0, len(frame), 0, ctypes.addressof(data), 0,
                      REPEAT_MAX, 0, 0, 0, 0, 0, LIVE_FRAMES, 0, BATCH, 0)
    signal.signal(signal.SIGALRM, lambda *_: None)
    started = time.monotonic()
    left = min(options.seconds, options.count / options.rate if options.count else 1e9)
    while left > 0 and value[0] < value[2]:
        signal.setitimer(signal.ITIMER_REAL, left + 0.002)
        try:
            bpf(PROG_RUN, run)
        except InterruptedError:
            pass
        ask(MAP_LOOKUP)
        left = options.seconds - (time.monotonic() - started)
        left = min(left, max((value[2] - value[0]) / options.rate, 0.001))
    taken, sent = time.monotonic() - started, value[0] - first
    say(sent=sent, seconds=round(taken, 4), rate=round(sent / taken))


# --- the other verbs --------------------------------------------------------------------------
def say(**values):
    print(json.dumps(values), flush=True)


def count(options):
    """Counted by the kernel, in a packet socket that nobody reads."""
    code = [(0x28, 0, 0, 12), (0x15, 0, 4, 0x0800), (0x20, 0, 0, 26),
            (0x54, 0, 0, 0xFFFF0000), (0x15, 0, 1, WALK_BASE), (0x06, 0, 0, 1), (0x06, 0, 0, 0)]
    code = b"".join(struct.pack("<HBBI", *one) for one in code)
    buffer = ctypes.create_string_buffer(code, len(code))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        attached = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
        sock.setsockopt(socket.SOL_SOCKET, 26, attached)  # SO_ATTACH_FILTER
        sock.bind((options.device, 0x0800))
        say(ready=True)
        for seconds in options.seconds:
            sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # which sets it to nothing
            started = time.monotonic()
            time.sleep(seconds)
            packets = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[0]
            say(packets=packets, rate=round(packets / (time.monotonic() - started)))


def serve(options):
    selector = selectors.DefaultSelector()
    with socket.create_server((options.ip, options.port), backlog=4096) as server:
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
        say(ready=True)
        while True:
            for key, _ in selector.select():
                try:
                    if key.fileobj is server:
                        connection, _ = server.accept()
                        connection.setblocking(False)
                        selector.register(connection, selectors.EVENT_READ)
                        connection.send(b"!")
                        continue
                    data = key.fileobj.recv(4096)
                    if data:
                        key.fileobj.send(data)
                        continue
                except BlockingIOError:
                    continue
                except OSError:
                    pass  # its client has reset it
                if key.fileobj is not server:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


def connecting(options):
    sock = socket.socket()
    sock.setblocking(False)
    # Closed by a reset: no TIME-WAIT, and the gateway knows it at once.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.connect_ex((options.ip, options.port))
    return sock


def knock(options):
    """A SYN is sent again after a second: who is connected before that is so by the first one. A
    connection is up when the server's first byte is there, for which an ACK has to come through."""
    selector = selectors.DefaultSelector()
    begun, up, waited = 0, 0, []
    started = time.monotonic()
    while True:
        now = time.monotonic()
        while begun < options.count and now - started >= begun / options.rate:
            sock = connecting(options)
            selector.register(sock, selectors.EVENT_WRITE, [now, None])
            begun += 1
        for key, _ in selector.select(timeout=0.002):
            born, connected = key.data
            error = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error and connected is None:
                waited.append(time.monotonic() - born)
                selector.modify(key.fileobj, selectors.EVENT_READ, [born, True])
                continue
            up += not error and key.fileobj.recv(1) == b"!"
            selector.unregister(key.fileobj)
            key.fileobj.close()
        for key in list(selector.get_map().values()):
            if now - key.data[0] > options.patience:
                selector.unregister(key.fileobj)
                key.fileobj.close()
        if begun == options.count and not selector.get_map():
            break
    waited.sort()
    median = round(waited[len(waited) // 2] * 1000, 2) if waited else None
    first = sum(seconds < 0.95 for seconds in waited)
    say(tried=begun, first_syn=first, in_time=len(waited), up=up, median_ms=median)


def hold(options):
    held = []
    for _ in range(options.count):
        sock = socket.create_connection((options.ip, options.port), timeout=10)
        if sock.recv(1) != b"!":
            raise SystemExit("flood.py: the server does not answer")
        held.append(sock)
    say(ready=True, held=len(held))
    sys.stdin.readline()
    alive = 0
    for sock in held:
        try:
            sock.send(b"alive")
            alive += sock.recv(5) == b"alive"
        except OSError:
            pass
    say(held=len(held), alive=alive)
    sys.stdin.readline()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    verbs = parser.add_subparsers(required=True)

    def verb(function, *positional):
        added = verbs.add_parser(function.__name__)
        added.set_defaults(function=function)
        for name, kind in positional:
            added.add_argument(name, type=kind)
        return added

    sender = verb(send, ("device", str), ("mac", str), ("ip", str), ("port", int))
    sender.add_argument("--random", type=float, default=0, help="SYNs of the flood a second")
    sender.add_argument("--answered", action="store_true", help="with checksums, to be answered")
    sender.add_argument("--walk", type=float, default=0, help="segments of clients a second")
    sender.add_argument("--flows", type=int, default=1, help="how many numbered clients")
    sender.add_argument("--flags", choices=FLAGS, default="ack", help="of those segments")
    sender.add_argument("--reply", action="store_true", help="they are the server's")
    sender.add_argument("--skip", type=int, default=0, help="clients passed over at first")
    sender.add_argument("--seconds", type=float, default=1e9)
    sender.add_argument("--count", type=int, default=0)
    counter = verb(count, ("device", str))
    counter.add_argument("seconds", type=float, nargs="+")
    verb(serve, ("ip", str), ("port", int))
    knocker = verb(knock, ("ip", str), ("port", int), ("count", int), ("rate", float))
    knocker.add_argument("--patience", type=float, default=3)
    verb(hold, ("ip", str), ("port", int), ("count", int))
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    options.function(options)
