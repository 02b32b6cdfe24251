#!/usr/bin/env -S python3 -B
"""Thousands of open connections. Each exchanges a message in turn, then all are closed.

usage: many_open.py HOST PORT --pid SERVER [--connections 5000] [--seed N]

Afterwards the server must have the same number of open descriptors as before. Otherwise it leaks descriptors.
"""

import peer

SECONDS_TO_SETTLE = 10


def check(options):
    peer.allow_descriptors(options.connections)
    # The first connection may make the server open descriptors that it keeps, so they are counted only after it.
    with peer.connect(options.host, options.port) as first:
        peer.round_trip(first, b"warm up", "the first connection")
    before = settled_descriptors(options.pid)
    open_sockets = [peer.connect(options.host, options.port) for _ in range(options.connections)]
    for number, sock in enumerate(open_sockets):
        message = f"{number}:".encode() + options.random.randbytes(options.random.randrange(1, 200))
        peer.round_trip(sock, message, f"connection {number} of {options.connections}")
    most = peer.open_descriptors(options.pid)
    if most < options.connections:
        raise peer.CheckFailed(f"{options.connections} connections, but only {most} descriptors")
    for sock in open_sockets:
        sock.close()
    if not peer.wait_until(lambda: peer.open_descriptors(options.pid) == before, SECONDS_TO_SETTLE):
        after = peer.open_descriptors(options.pid)
        raise peer.CheckFailed(f"descriptors: {before} before, {after} {SECONDS_TO_SETTLE} s after the end")
    print(f"    {options.connections} connections; descriptors {before}, then {most}, then {before} again")


def settled_descriptors(pid):
    """The number of the server's descriptors after the first peer has disconnected: the minimum over a short time."""
    counts = []

    def enough():
        counts.append(peer.open_descriptors(pid))
        return len(counts) >= 15

    peer.wait_until(enough, SECONDS_TO_SETTLE)
    return min(counts)


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, pid=None, connections=5000))
