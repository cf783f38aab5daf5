"""Sends and receives numbered raw Ethernet frames, for tests.

  frames.py send DEVICE COUNT LENGTH KIND      KIND: plain, vlan, qinq, udp
  frames.py receive DEVICE COUNT LENGTH KIND SECONDS

The receiver prints "ready", then one line "whole=N changed=N twice=N" when COUNT frames came or
the time is up. A frame's bytes follow from its number, so that every changed one is seen.
"""

import random
import socket
import struct
import sys
import time

ETH_P_ALL = 3
SOL_PACKET, PACKET_AUXDATA = 263, 8
VLAN_VALID = 1 << 4
TYPE = 0x88B5  # local experimental
ADDRESSES = bytes.fromhex("020000000a02") + bytes.fromhex("020000000a01")


def body(number, length):
    return struct.pack("!I", number) + random.Random(number).randbytes(length - 4)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def frame(number, length, kind):
    if kind == "udp":
        payload = body(number, length - 42)
        udp = struct.pack("!HHHH", 10000 + number % 50000, 9, 8 + len(payload), 0)
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + 8 + len(payload), 0, 0, 64, 17, 0,
                           bytes([10, 9, 0, 1]), bytes([10, 9, 0, 99]))
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        return ADDRESSES + struct.pack("!H", 0x0800) + head + udp + payload
    tags = {"plain": b"", "vlan": bytes.fromhex("8100a014"),
            "qinq": bytes.fromhex("88a800648100a014")}[kind]
    header = ADDRESSES + tags + struct.pack("!H", TYPE)
    return header + body(number, length - len(header))


def number_of(data, kind):
    at = {"plain": 14, "vlan": 18, "qinq": 22, "udp": 42}[kind]
    return struct.unpack_from("!I", data, at)[0] if len(data) >= at + 4 else None


def send(device, count, length, kind):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((device, 0))
        for number in range(count):
            sock.send(frame(number, length, kind))
            if number % 32 == 31:
                time.sleep(0.002)


def receive(device, count, length, kind, seconds):
    seen, changed, twice = set(), 0, 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        sock.bind((device, ETH_P_ALL))
        print("ready", flush=True)
        end = time.monotonic() + seconds
        while len(seen) < count and (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                data, extra, _, address = sock.recvmsg(1 << 16, 256)
            except TimeoutError:
                break
            for _, _, aux in extra:  # the stack takes the outer tag out; put it back
                status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", aux[:20])
                if status & VLAN_VALID:
                    data = data[:12] + struct.pack("!HH", tpid or 0x8100, tci) + data[12:]
            if address[2] == socket.PACKET_OUTGOING or data[:12] != ADDRESSES:
                continue
            number = number_of(data, kind)
            if number is None or number >= count or data != frame(number, length, kind):
                changed += 1
            elif number in seen:
                twice += 1
            seen.add(number)
    print(f"whole={len(seen) - changed} changed={changed} twice={twice}", flush=True)


if __name__ == "__main__":
    verb, device, count, length, kind = sys.argv[1:6]
    if verb == "send":
        send(device, int(count), int(length), kind)
    else:
        receive(device, int(count), int(length), kind, float(sys.argv[6]))
