#!/usr/bin/env -S python3 -B
"""The four services of the `simple` example: discard, daytime, chargen and time, all on one loop.

usage: services.py HOST DISCARD --daytime PORT --chargen PORT --time PORT --pid SERVER [--seed N]

Each service must behave as its RFC specifies. The chargen stream is compared byte by byte. One loop serves all
four, so daytime and time must reply quickly while chargen sends as fast as its peers read. A chargen peer that
does not read must cost only bounded memory and no CPU time.
"""

import calendar
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import peer

READERS = 2
READ_BY_EACH = 32 << 20
DISCARDED = 16 << 20
MAX_REPLY_SECONDS = 2.0
# The maximum difference between the time in a reply and the time at which the reply is checked. Server and checks
# use the same clock.
MAX_SECONDS_APART = 5
SECONDS_FROM_1900_TO_1970 = 2_208_988_800
# Each line starts with the next of 95 characters, so the stream repeats after 95 lines.
CHARGEN = b"".join(bytes(32 + (n + c) % 95 for c in range(72)) + b"\r\n" for n in range(95))


def discard(options):
    """Discard must read all bytes, send nothing, and end after its peer's half-close."""
    with peer.connect(options.host, options.port) as sock:
        sock.sendall(options.random.randbytes(DISCARDED))
        sock.shutdown(socket.SHUT_WR)
        peer.expect_end(sock, "discard")


def daytime(options):
    text = whole_reply(options.host, options.daytime, "daytime").decode("ascii")
    try:
        stated = calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S UTC\r\n"))
    except ValueError:
        raise peer.CheckFailed(f"daytime sent {text!r}") from None
    must_be_now(stated, "daytime")


def time_since_1900(options):
    reply = whole_reply(options.host, options.time, "time")
    if len(reply) != 4:
        raise peer.CheckFailed(f"time sent {len(reply)} bytes instead of 4")
    stated = struct.unpack("!I", reply)[0]
    # The number of seconds has 32 bits and wraps around in 2036.
    now = int(time.time()) + SECONDS_FROM_1900_TO_1970
    must_be_now(int(time.time()) + (stated - now + (1 << 31)) % (1 << 32) - (1 << 31), "time")


def whole_reply(host, port, what):
    """Returns all bytes that a service sends before it ends the connection. Fails if that takes too long."""
    begin = time.monotonic()
    reply = b""
    with peer.connect(host, port) as sock:
        while chunk := sock.recv(100):
            reply += chunk
    took = time.monotonic() - begin
    if took > MAX_REPLY_SECONDS:
        raise peer.CheckFailed(f"{what} took {took:.1f} s to reply")
    return reply


def must_be_now(stated, what):
    if abs(stated - time.time()) > MAX_SECONDS_APART:
        raise peer.CheckFailed(f"{what} differs from the present by {stated - time.time():.0f} s")


def read_chargen(sock, length):
    """Reads the first `length` bytes of the stream and compares them."""
    while length:
        expected = CHARGEN[: min(length, len(CHARGEN))]
        peer.receive_exactly(sock, expected, "chargen")
        length -= len(expected)


def replies_while_chargen_is_busy(options):
    """Returns how often daytime and time replied while the readers read."""
    sockets = [peer.connect(options.host, options.chargen) for _ in range(READERS)]
    rounds = 0
    with ThreadPoolExecutor(READERS) as pool:
        reading = [pool.submit(read_chargen, sock, READ_BY_EACH) for sock in sockets]
        while rounds == 0 or not all(reader.done() for reader in reading):
            daytime(options)
            time_since_1900(options)
            rounds += 1
        for reader in reading:
            reader.result()
    for sock in sockets:
        sock.close()
    return rounds


def chargen_with_a_peer_that_does_not_read(options):
    """Checks bounded memory and no CPU time. When the peer reads again, the stream must continue without a gap."""
    allowed = peer.resident_bytes(options.pid) + peer.MAX_MEMORY_PER_PEER
    with peer.connect(options.host, options.chargen) as sock:
        peer.must_be_idle(options.pid, "a chargen peer does not read")
        if peer.resident_bytes(options.pid) > allowed:
            raise peer.CheckFailed("a chargen peer that does not read costs more than 64 MiB")
        read_chargen(sock, READ_BY_EACH)


def chargen_ends_with_its_peer(options):
    """Chargen must stop sending after its peer's half-close."""
    with peer.connect(options.host, options.chargen) as sock:
        read_chargen(sock, len(CHARGEN))
        sock.shutdown(socket.SHUT_WR)
        end = time.monotonic() + peer.DEADLINE
        try:
            while sock.recv(1 << 16):
                if time.monotonic() > end:
                    raise peer.CheckFailed("chargen still sends after its peer's half-close")
        except ConnectionError:
            pass


def check(options):
    discard(options)
    daytime(options)
    time_since_1900(options)
    chargen_ends_with_its_peer(options)
    rounds = replies_while_chargen_is_busy(options)
    chargen_with_a_peer_that_does_not_read(options)
    peer.must_be_idle(options.pid, "no peer is connected")
    print(f"    discard, daytime, time, chargen; {rounds} rounds of replies while chargen was busy")


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, daytime=None, chargen=None, time=None, pid=None))
