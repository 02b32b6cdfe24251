#!/usr/bin/env -S python3 -B
"""A peer that sends, half-closes, and then reads: it must receive the whole echo and the end of the stream.

usage: half_close.py HOST PORT [--bytes 1048576] [--times 20] [--seed N]

The first run uses the large buffers of the loopback interface, which accept the whole stream at once. The other runs
use the segment size and the window of a slow link, so that the server probably has queued output when it
receives the peer's FIN.
"""

import select
import socket

import peer

ETHERNET_SEGMENT = 1460
SMALL_WINDOW = 32768
SECONDS_BLOCKED = 0.3


def send_then_read(sock, data, what):
    """Sends everything, half-closes and then reads. Reads earlier only if the server stops reading."""
    sock.setblocking(False)
    sent = send_while_accepted(sock, data, 0, SECONDS_BLOCKED)
    received = 0
    while received < len(data):
        if not select.select([sock], [], [], peer.DEADLINE)[0]:
            raise peer.CheckFailed(f"{what}: nothing received after {received} of {len(data)} bytes, {sent} sent")
        chunk = sock.recv(4096)
        if not chunk:
            raise peer.CheckFailed(f"{what}: end of stream after {received} of {len(data)} bytes, {sent} sent")
        if chunk != data[received : received + len(chunk)]:
            raise peer.CheckFailed(f"{what}: a wrong byte after {received} bytes")
        received += len(chunk)
        if sent < len(data):
            sent = send_while_accepted(sock, data, sent, 0)
    sock.settimeout(peer.DEADLINE)
    peer.expect_end(sock, what)


def send_while_accepted(sock, data, sent, timeout):
    """Sends until the kernel accepts no bytes for `timeout` seconds. Half-closes after the last byte."""
    while sent < len(data):
        if not select.select([], [sock], [], timeout)[1]:
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
    print(f"    {options.bytes} bytes echoed after a half-close, once fast and {options.times} times over a slow link")


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, bytes=1 << 20, times=20))
