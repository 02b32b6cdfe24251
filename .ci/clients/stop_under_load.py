#!/usr/bin/env -S python3 -B
"""SIGTERM during a transfer, with an idle connection, a slow reader, and a peer that never reads.

usage: stop_under_load.py HOST PORT --pid SERVER [--seconds 10] [--seed N]

Sends the signal when 8 MiB of the transfer have been echoed, and continues to send and to read. Until the server
ends the transfer, every echoed byte must be correct. The slow reader still receives all bytes that the server had
read from it, the idle connection ends, new connections are refused, and the server exits in time although one
peer never reads its queued output. The caller is the parent of the server and checks its exit status.
"""

import os
import selectors
import signal
import time

import peer

ECHOED_BEFORE_SIGNAL = 8 << 20
ETHERNET_SEGMENT = 1460
SMALL_WINDOW = 32768
SECONDS_BLOCKED = 0.5
MAX_BLOCKS = 4096
# More than the kernel buffers for such a small window, so that the server itself queues some of the bytes.
SLOW_BYTES = 200_000


class Transfer:
    """An endless stream that repeats one block, and its echo."""

    def __init__(self, options):
        self.block = options.random.randbytes((1 << 18) + 1)
        self.sent = 0
        self.received = 0
        self.sock = peer.connect(options.host, options.port)
        self.sock.setblocking(False)

    def step(self, events):
        """Sends and receives as much as the socket allows. Returns False if the server has ended the connection."""
        try:
            if events & selectors.EVENT_READ and not self.receive():
                return False
            if events & selectors.EVENT_WRITE:
                self.sent += self.sock.send(self.block[self.sent % len(self.block) :])
        except BlockingIOError:
            pass
        except ConnectionError:
            return False
        return True

    def receive(self):
        at = self.received % len(self.block)
        chunk = self.sock.recv(len(self.block) - at)
        if chunk != self.block[at : at + len(chunk)]:
            raise peer.CheckFailed(f"a wrong byte after {self.received} bytes")
        self.received += len(chunk)
        return bool(chunk)


class SlowReader:
    """A peer that does not read. The server has read its message and still holds a part of the echo."""

    def __init__(self, options):
        self.data = options.random.randbytes(SLOW_BYTES)
        self.sock = peer.connect(options.host, options.port, SMALL_WINDOW, ETHERNET_SEGMENT)
        self.sock.sendall(self.data)
        if not peer.wait_until(lambda: peer.unread_by_server(self.sock) == 0, peer.DEADLINE):
            raise peer.CheckFailed(f"the server does not read all {SLOW_BYTES} bytes of a slow peer")

    def read_all(self):
        peer.receive_exactly(self.sock, self.data, "a slow reader, after the signal")
        peer.expect_end(self.sock, "a slow reader, after the signal")
        self.sock.close()


def check(options):
    idle = peer.connect(options.host, options.port)
    peer.round_trip(idle, b"soon idle", "the idle connection")
    slow = SlowReader(options)
    stuck = send_until_blocked(options)
    signalled_at = transfer_until_ended(options)
    slow.read_all()
    expect_idle_to_end(idle, remaining(options, signalled_at))
    connections_took = time.monotonic() - signalled_at
    if not peer.wait_until(lambda: refuses(options), remaining(options, signalled_at)):
        raise peer.CheckFailed("new connections are still accepted after the signal")
    if not peer.wait_until(lambda: peer.has_ended(options.pid), remaining(options, signalled_at)):
        raise peer.CheckFailed(f"with a peer that never reads, the server has not exited after {options.seconds} s")
    server_took = time.monotonic() - signalled_at
    stuck.close()
    print(f"    connections ended {connections_took:.1f} s after the signal, the server {server_took:.1f} s")


def send_until_blocked(options):
    """Returns a connection that reads nothing, and that has sent until the server stopped reading."""
    sock = peer.connect(options.host, options.port, SMALL_WINDOW, ETHERNET_SEGMENT)
    sock.settimeout(SECONDS_BLOCKED)
    block = options.random.randbytes(1 << 16)
    try:
        for _ in range(MAX_BLOCKS):
            sock.sendall(block)
    except TimeoutError:
        return sock
    raise peer.CheckFailed(f"the server read {MAX_BLOCKS} blocks from a peer that reads nothing")


def transfer_until_ended(options):
    """Transfers until the server ends the connection, and sends the signal meanwhile. Returns its time."""
    transfer = Transfer(options)
    signalled_at = None
    with selectors.DefaultSelector() as selector:
        selector.register(transfer.sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        limit = time.monotonic() + peer.DEADLINE
        while True:
            events = selector.select(1)
            if events and not transfer.step(events[0][1]):
                break
            if signalled_at is None and transfer.received >= ECHOED_BEFORE_SIGNAL:
                os.kill(options.pid, signal.SIGTERM)
                signalled_at = time.monotonic()
                limit = signalled_at + options.seconds
            if time.monotonic() > limit:
                what = "was too slow before the signal" if signalled_at is None else "did not end after the signal"
                raise peer.CheckFailed(f"the transfer {what}; {transfer.received} bytes were echoed")
    if signalled_at is None:
        raise peer.CheckFailed(f"the transfer ended before the signal, after {transfer.received} bytes")
    return signalled_at


def remaining(options, signalled_at):
    """The seconds that are left until everything must have ended, at least 0.1."""
    return max(0.1, signalled_at + options.seconds - time.monotonic())


def refuses(options):
    """Whether a new connection is refused."""
    try:
        peer.connect(options.host, options.port).close()
    except ConnectionError:
        return True
    return False


def expect_idle_to_end(idle, seconds):
    """Checks that the idle connection ends, by the end of the stream or by a reset."""
    idle.settimeout(seconds)
    try:
        peer.expect_end(idle, "the idle connection after the signal")
    except ConnectionError:
        pass


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, pid=None, seconds=10))
