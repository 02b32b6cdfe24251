#!/usr/bin/env -S python3 -B
"""Misbehaving peers: one that sends single bytes, one that stalls inside a message, and one that never reads.

usage: bad_peers.py HOST PORT --pid SERVER [--seed N]

Each peer costs the server only a bounded amount of memory. Other clients are served meanwhile, and the server
uses no CPU time while such a peer is inactive.
"""

import time

import peer

MIB = 1 << 20
MAX_SENT = 256 * MIB
SECONDS_OF_SENDING = 3.0
MAX_WAIT_OF_OTHERS = 2.0


class Others:
    """A well-behaved client, which must be served while other peers misbehave."""

    def __init__(self, options):
        self.options = options
        self.message = options.random.randbytes(5000)

    def are_served(self, while_what):
        """Connects, exchanges a message and closes, within a time limit that a starved client would exceed."""
        begin = time.monotonic()
        with peer.connect(self.options.host, self.options.port) as sock:
            peer.round_trip(sock, self.message, f"another client, while {while_what}")
        took = time.monotonic() - begin
        if took > MAX_WAIT_OF_OTHERS:
            raise peer.CheckFailed(f"another client waited {took:.1f} s while {while_what}")


def one_byte_at_a_time(options, _others):
    """Sends each byte as a separate segment. Reads the echo only at the end."""
    data = options.random.randbytes(4000)
    with peer.connect(options.host, options.port) as sock:
        for at in range(len(data)):
            sock.send(data[at : at + 1])
        peer.receive_exactly(sock, data, "one byte at a time")
    print(f"    one byte at a time: {len(data)} bytes echoed")


def stalls_inside_a_message(options, others):
    """Sends half a message, pauses, and sends the rest. In the pause the server must be idle and serve others."""
    data = options.random.randbytes(100_000)
    half = len(data) // 2
    with peer.connect(options.host, options.port) as sock:
        peer.round_trip(sock, data[:half], "the half before a stall")
        peer.must_be_idle(options.pid, "a peer stalls")
        others.are_served("a peer stalls")
        peer.round_trip(sock, data[half:], "the half after a stall")
    print(f"    a stalling peer: {len(data)} bytes echoed, the server idle meanwhile")


def never_reads(options, others):
    """Sends for a limited time and reads nothing. If the connection still exists then, reads the whole echo."""
    start = peer.resident_bytes(options.pid)
    block = options.random.randbytes(MIB + 1)
    with peer.connect(options.host, options.port) as sock:
        sent, most, dropped = send_without_reading(sock, block, options.pid, others)
        peer.must_be_idle(options.pid, "a peer does not read")
        others.are_served("a peer does not read")
        if not dropped:
            read_back(sock, block, sent)
    outcome = "closed by the server" if dropped else "all bytes echoed in the end"
    print(f"    a peer that never reads: {sent >> 20} MiB sent, {(most - start) >> 20} MiB of memory, {outcome}")


def send_without_reading(sock, block, pid, others):
    """Returns the number of bytes sent, the server's peak memory, and whether it ended the connection."""
    allowed = peer.resident_bytes(pid) + peer.MAX_MEMORY_PER_PEER
    end = time.monotonic() + SECONDS_OF_SENDING
    sock.settimeout(0.1)
    sent, most, dropped = 0, 0, False
    while time.monotonic() < end and sent < MAX_SENT and not dropped:
        try:
            sent += sock.send(block[sent % len(block) :])
        except TimeoutError:
            others.are_served("a peer sends and does not read")
        except ConnectionError:
            dropped = True
        most = max(most, peer.resident_bytes(pid))
        if most > allowed:
            grown = (most - allowed + peer.MAX_MEMORY_PER_PEER) >> 20
            raise peer.CheckFailed(f"a peer that never reads costs {grown} MiB, {sent >> 20} MiB sent")
    if sent >= MAX_SENT:
        raise peer.CheckFailed(f"the server read {sent >> 20} MiB from a peer that reads nothing")
    sock.settimeout(peer.DEADLINE)
    return sent, most, dropped


def read_back(sock, block, sent):
    """Reads `sent` bytes and compares them with the stream, which repeats `block`."""
    left = sent
    while left:
        expected = block[: min(left, len(block))]
        peer.receive_exactly(sock, expected, "a peer that reads after the pause")
        left -= len(expected)


def check(options):
    others = Others(options)
    for bad_peer in (one_byte_at_a_time, stalls_inside_a_message, never_reads):
        bad_peer(options, others)


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, pid=None))
