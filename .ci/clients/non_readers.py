#!/usr/bin/env -S python3 -B
"""Many peers that send as fast as possible and never read, with a server whose memory is limited.

usage: non_readers.py HOST PORT --pid SERVER [--peers N] [--seconds N] [--seed N]

The server must survive, and must reply to other clients within a second: to one that stays connected, and to new
clients.
"""

import select
import socket
import time

import peer

BLOCK = b"z" * (1 << 20)
MAX_WAIT_OF_OTHERS = 1.0


def timed_round_trip(sock, message, what):
    begin = time.monotonic()
    peer.round_trip(sock, message, what)
    took = time.monotonic() - begin
    if took > MAX_WAIT_OF_OTHERS:
        raise peer.CheckFailed(f"{what}: the reply took {took:.2f} s")
    return took


def flood(socks):
    """Sends on each writable socket. Returns the sockets that the server has not closed, and the bytes sent."""
    open_socks, sent = list(socks), 0
    _, writable, _ = select.select([], open_socks, [], 0.02)
    for sock in writable:
        try:
            sent += sock.send(BLOCK)
        except BlockingIOError:
            pass
        except OSError:
            open_socks.remove(sock)
            sock.close()
    return open_socks, sent


def check(options):
    peer.allow_descriptors(options.peers)
    non_readers = []
    for _ in range(options.peers):
        sock = peer.connect(options.host, options.port, receive_buffer=2048)
        sock.setblocking(False)
        non_readers.append(sock)
    sizes = (5, 1000, 20_000)
    regular = peer.connect(options.host, options.port)
    sent = echoes = 0
    worst = 0.0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        non_readers, more = flood(non_readers)
        sent += more
        message = options.random.randbytes(sizes[echoes % len(sizes)])
        worst = max(worst, timed_round_trip(regular, message, "a client while other peers do not read"))
        with peer.connect(options.host, options.port) as new:
            worst = max(worst, timed_round_trip(new, message, "a new client while other peers do not read"))
        echoes += 2
    memory = peer.resident_bytes(options.pid) >> 20
    for sock in non_readers:
        sock.close()
    regular.close()
    print(
        f"    {options.peers} peers that do not read: {sent >> 20} MiB sent, {len(non_readers)} still open,"
        f" {memory} MiB of memory; {echoes} echoes to others, the slowest {worst:.3f} s"
    )


if __name__ == "__main__":
    socket.setdefaulttimeout(peer.DEADLINE)
    peer.run(check, peer.arguments(__doc__, pid=None, peers=150, seconds=10))
