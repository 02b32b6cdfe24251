#!/usr/bin/env -S python3 -B
"""The four services of the `simple` example: discard, daytime, chargen and time, all on one loop.

usage: services.py HOST DISCARD --daytime PORT --chargen PORT --time PORT --pid SERVER [--seed N]

Each does what its RFC says; chargen's stream is compared byte by byte. As one loop serves all four, the short
services must answer quickly while chargen sends as fast as its readers take it, and a chargen peer that does
not read costs bounded memory and no CPU.
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
ANSWERED_AT_MOST = 2.0
# How far the server's clock, the same as ours, may be from ours by the time its answer is here.
SECONDS_APART = 5
SECONDS_FROM_1900_TO_1970 = 2_208_988_800
# Each line begins one character further on, so the stream repeats after 95 lines.
CHARGEN = b"".join(bytes(32 + (n + c) % 95 for c in range(72)) + b"\r\n" for n in range(95))


def discard(options):
    """Takes everything, says nothing, and ends when its peer has."""
    with peer.connect(options.host, options.port) as sock:
        sock.sendall(options.random.randbytes(DISCARDED))
        sock.shutdown(socket.SHUT_WR)
        peer.expect_end(sock, "discard")


def daytime(options):
    text = whole_answer(options.host, options.daytime, "daytime").decode("ascii")
    try:
        stated = calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S UTC\r\n"))
    except ValueError:
        raise peer.CheckFailed(f"daytime answered {text!r}") from None
    must_be_now(stated, "daytime")


def time_since_1900(options):
    answer = whole_answer(options.host, options.time, "time")
    if len(answer) != 4:
        raise peer.CheckFailed(f"time answered with {len(answer)} bytes instead of 4")
    stated = struct.unpack("!I", answer)[0]
    # The count is 32 bits wide and starts again in 2036.
    now = int(time.time()) + SECONDS_FROM_1900_TO_1970
    must_be_now(int(time.time()) + (stated - now + (1 << 31)) % (1 << 32) - (1 << 31), "time")


def whole_answer(host, port, what):
    """What a service sends unasked before it ends the connection, soon enough for nobody to be starved."""
    begin = time.monotonic()
    answer = b""
    with peer.connect(host, port) as sock:
        while chunk := sock.recv(100):
            answer += chunk
    took = time.monotonic() - begin
    if took > ANSWERED_AT_MOST:
        raise peer.CheckFailed(f"{what} took {took:.1f} s to answer")
    return answer


def must_be_now(stated, what):
    if abs(stated - time.time()) > SECONDS_APART:
        raise peer.CheckFailed(f"{what} is {stated - time.time():.0f} s from now")


def read_chargen(sock, length):
    """Reads so much of the stream, from its beginning, and compares all of it."""
    while length:
        expected = CHARGEN[: min(length, len(CHARGEN))]
        peer.receive_exactly(sock, expected, "chargen")
        length -= len(expected)


def answers_while_chargen_is_busy(options):
    """Returns how often the short services answered while the readers read."""
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
    """Bounded memory, no CPU, and the stream goes on where it was when the peer reads again."""
    allowed = peer.resident_bytes(options.pid) + peer.MOST_MEMORY_FOR_ONE_PEER
    with peer.connect(options.host, options.chargen) as sock:
        peer.must_be_idle(options.pid, "a chargen peer does not read")
        if peer.resident_bytes(options.pid) > allowed:
            raise peer.CheckFailed("a chargen peer that does not read costs more than 64 MiB")
        read_chargen(sock, READ_BY_EACH)


def chargen_ends_with_its_peer(options):
    """A peer that has said its last is sent no more."""
    with peer.connect(options.host, options.chargen) as sock:
        read_chargen(sock, len(CHARGEN))
        sock.shutdown(socket.SHUT_WR)
        end = time.monotonic() + peer.DEADLINE
        try:
            while sock.recv(1 << 16):
                if time.monotonic() > end:
                    raise peer.CheckFailed("chargen goes on after its peer's half-close")
        except ConnectionError:
            pass


def check(options):
    discard(options)
    daytime(options)
    time_since_1900(options)
    chargen_ends_with_its_peer(options)
    rounds = answers_while_chargen_is_busy(options)
    chargen_with_a_peer_that_does_not_read(options)
    peer.must_be_idle(options.pid, "nobody is connected")
    print(f"    discard, daytime, time, chargen; {rounds} rounds of answers while chargen was busy")


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, daytime=None, chargen=None, time=None, pid=None))
