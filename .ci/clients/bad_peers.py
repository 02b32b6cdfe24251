#!/usr/bin/env -S python3 -B
"""Peers that behave badly: one byte at a time, a stall inside a message, sending without ever reading.

usage: bad_peers.py HOST PORT --pid SERVER [--seed N]

Each costs the server a bounded amount of memory and nobody else a turn: other clients are served meanwhile,
and while such a peer does nothing the server uses no CPU for it.
"""

import time

import peer

MIB = 1 << 20
MOST_SENT = 256 * MIB
SECONDS_OF_SENDING = 3.0
OTHERS_WAIT_AT_MOST = 2.0


class Others:
    """A well-behaved client that must be served whatever the bad peers do."""

    def __init__(self, options):
        self.options = options
        self.message = options.random.randbytes(5000)

    def are_served(self, while_what):
        """One whole life of a connection, within a time that no starved client would make."""
        begin = time.monotonic()
        with peer.connect(self.options.host, self.options.port) as sock:
            peer.round_trip(sock, self.message, f"another client, while {while_what}")
        took = time.monotonic() - begin
        if took > OTHERS_WAIT_AT_MOST:
            raise peer.CheckFailed(f"another client waited {took:.1f} s while {while_what}")


def one_byte_at_a_time(options, _others):
    """Every byte is a segment and a message of its own; the echo is read only at the end."""
    data = options.random.randbytes(4000)
    with peer.connect(options.host, options.port) as sock:
        for at in range(len(data)):
            sock.send(data[at : at + 1])
        peer.receive_exactly(sock, data, "one byte at a time")
    print(f"    one byte at a time: {len(data)} bytes back")


def stalls_inside_a_message(options, others):
    """Half a message, a pause in which the server must be idle and serve others, the other half."""
    data = options.random.randbytes(100_000)
    half = len(data) // 2
    with peer.connect(options.host, options.port) as sock:
        peer.round_trip(sock, data[:half], "the half before a stall")
        peer.must_be_idle(options.pid, "a peer stalls")
        others.are_served("a peer stalls")
        peer.round_trip(sock, data[half:], "the half after a stall")
    print(f"    a stalling peer: {len(data)} bytes back, the server idle meanwhile")


def never_reads(options, others):
    """Sends for a bounded time, reads nothing; then, if the server has kept it, reads all of it."""
    start = peer.resident_bytes(options.pid)
    block = options.random.randbytes(MIB + 1)
    with peer.connect(options.host, options.port) as sock:
        sent, most, dropped = send_without_reading(sock, block, options.pid, others)
        peer.must_be_idle(options.pid, "a peer does not read")
        others.are_served("a peer does not read")
        if not dropped:
            read_back(sock, block, sent)
    fate = "dropped by the server" if dropped else "all of it back in the end"
    print(f"    a peer that never reads: {sent >> 20} MiB sent, {(most - start) >> 20} MiB of memory, {fate}")


def send_without_reading(sock, block, pid, others):
    """Returns the bytes sent, the server's greatest memory meanwhile, and whether it ended the connection."""
    allowed = peer.resident_bytes(pid) + peer.MOST_MEMORY_FOR_ONE_PEER
    end = time.monotonic() + SECONDS_OF_SENDING
    sock.settimeout(0.1)
    sent, most, dropped = 0, 0, False
    while time.monotonic() < end and sent < MOST_SENT and not dropped:
        try:
            sent += sock.send(block[sent % len(block) :])
        except TimeoutError:
            others.are_served("a peer sends and does not read")
        except ConnectionError:
            dropped = True
        most = max(most, peer.resident_bytes(pid))
        if most > allowed:
            grown = (most - allowed + peer.MOST_MEMORY_FOR_ONE_PEER) >> 20
            raise peer.CheckFailed(f"a peer that never reads costs {grown} MiB, {sent >> 20} MiB sent")
    if sent >= MOST_SENT:
        raise peer.CheckFailed(f"the server took {sent >> 20} MiB from a peer that reads nothing back")
    sock.settimeout(peer.DEADLINE)
    return sent, most, dropped


def read_back(sock, block, sent):
    """The stream repeats `block`, so it is compared block by block."""
    left = sent
    while left:
        expected = block[: min(left, len(block))]
        peer.receive_exactly(sock, expected, "a peer that reads at last")
        left -= len(expected)


def check(options):
    others = Others(options)
    for bad_peer in (one_byte_at_a_time, stalls_inside_a_message, never_reads):
        bad_peer(options, others)


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, pid=None))
