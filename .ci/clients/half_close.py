#!/usr/bin/env -S python3 -B
"""A peer that sends, half-closes, and reads only then: it must get everything back, then the end.

usage: half_close.py HOST PORT [--bytes 1048576] [--times 20] [--seed N]

Once over loopback's large buffers, which take the whole stream at once, and some times with the segments and
the window of a slow link, so that the server is likely to have output queued when it meets the peer's FIN.
"""

import select
import socket

import peer

ETHERNET_SEGMENT = 1460
SMALL_WINDOW = 32768
SECONDS_BLOCKED = 0.3


def send_then_read(sock, data, what):
    """Sends everything and half-closes, then reads; it reads earlier only if the server takes no more."""
    sock.setblocking(False)
    sent = send_while_accepted(sock, data, 0, SECONDS_BLOCKED)
    received = 0
    while received < len(data):
        if not select.select([sock], [], [], peer.DEADLINE)[0]:
            raise peer.CheckFailed(f"{what}: silence after {received} of {len(data)} bytes, {sent} sent")
        chunk = sock.recv(4096)
        if not chunk:
            raise peer.CheckFailed(f"{what}: the end after {received} of {len(data)} bytes, {sent} sent")
        if chunk != data[received : received + len(chunk)]:
            raise peer.CheckFailed(f"{what}: a wrong byte after {received}")
        received += len(chunk)
        if sent < len(data):
            sent = send_while_accepted(sock, data, sent, 0)
    sock.settimeout(peer.DEADLINE)
    peer.expect_end(sock, what)


def send_while_accepted(sock, data, sent, patience):
    """Sends until the kernel takes no more for `patience` seconds; half-closes after the last byte."""
    while sent < len(data):
        if not select.select([], [sock], [], patience)[1]:
            return sent
        sent += sock.send(data[sent : sent + 65536])
    sock.shutdown(socket.SHUT_WR)
    return sent


def check(options):
    data = options.random.randbytes(options.bytes)
    with peer.connect(options.host, options.port) as sock:
        send_then_read(sock, data, "a half-close")
    for _ in range(options.times):
        with peer.connect(options.host, options.port, SMALL_WINDOW, ETHERNET_SEGMENT) as sock:
            send_then_read(sock, data, "a half-close over a slow link")
    print(f"    {options.bytes} bytes back after the half-close, and {options.times} times over a slow link")


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, bytes=1 << 20, times=20))
