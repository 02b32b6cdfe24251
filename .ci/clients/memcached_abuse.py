"""Clients that misbehave, and the memory that the example takes for them."""

import os
import time

from memcached_binary import HEADER, packet
from memcached_servers import read_to_end
from peer import (
    CheckFailed, allow_descriptors, close_with_reset, must_be_idle, open_descriptors, resident_bytes, wait_until,
)

MIB = 1 << 20
CONNECTIONS = 1000


def reply_to(sock, command, length):
    """Sends a command, and returns the first `length` bytes of the reply."""
    sock.sendall(command)
    received = b""
    while len(received) < length:
        chunk = sock.recv(length - len(received))
        if not chunk:
            raise CheckFailed(f"the connection ended after {received[-100:]!r}")
        received += chunk
    return received


def expect(sock, command, reply):
    received = reply_to(sock, command, len(reply))
    if received != reply:
        raise CheckFailed(f"the reply to {command[:100]!r} is {received[:100]!r}")


def serves(server):
    with server.connect() as sock:
        expect(sock, b"set alive 0 0 1\r\nx\r\nget alive\r\n", b"STORED\r\nVALUE alive 0 1\r\nx\r\nEND\r\n")


def garbage(server, random):
    """Random bytes, for both protocols; the server may reply or close."""
    for _ in range(200):
        sock = server.connect()
        start = random.choice([b"", b"\x80", b"get ", b"set a 0 0 "])
        noise = start + bytes(random.choices(range(256), k=random.randrange(5000)))
        if random.random() < 0.3:
            noise = b"".join(packet(random.randrange(256), b"", b"", b"") for _ in range(50)) + noise
        try:
            sock.sendall(noise)
        except (BrokenPipeError, ConnectionResetError):
            pass
        close_with_reset(sock) if random.random() < 0.5 else sock.close()
    serves(server)


def killed_clients(server, random):
    """Clients that disappear within a value or within its reply."""
    with server.connect() as sock:
        expect(sock, b"set big 0 0 %d\r\n%s\r\n" % (MIB, b"v" * MIB), b"STORED\r\n")
    for _ in range(100):
        sock = server.connect()
        if random.random() < 0.5:
            sock.sendall(b"set big 0 0 1000000\r\n" + b"w" * random.randrange(500_000))
        else:
            sock.sendall(b"get" + b" big" * 50 + b"\r\n")
            sock.recv(random.randrange(1, 100_000))
        close_with_reset(sock)
    with server.connect() as sock:
        reply = b"VALUE big 0 %d\r\n%s\r\nEND\r\n" % (MIB, b"v" * MIB)
        expect(sock, b"get big\r\n", reply)


def one_byte_at_a_time(server, _):
    with server.connect() as sock:
        for byte in b"set slow 1 0 5\r\nhello\r\ngets none slow none\r\n":
            sock.sendall(bytes([byte]))
            time.sleep(0.0005)
        expect(sock, b"delete slow\r\n", b"STORED\r\nVALUE slow 1 5 ")
    with server.connect() as sock:
        for byte in packet(0x01, bytes(8), b"slow", b"hello") + packet(0x0C, b"", b"slow"):
            sock.sendall(bytes([byte]))
            time.sleep(0.0005)
        replies = reply_to(sock, b"", 2 * HEADER.size + 13)
        if not replies.endswith(b"\0\0\0\0slowhello"):
            raise CheckFailed(f"the reply to single bytes is {replies!r}")


def half_close(server, _):
    """All replies arrive after the end of the input. An incomplete request has none."""
    with server.connect() as sock:
        sock.sendall(b"set half 0 0 2\r\nok\r\n" + b"get half\r\n" * 1000 + b"set half 0 0 100\r\nincomplete")
        sock.shutdown(1)
        if read_to_end(sock) != b"STORED\r\n" + b"VALUE half 0 2\r\nok\r\nEND\r\n" * 1000:
            raise CheckFailed("the replies after a half-close differ")


def many_connections(server, random):
    allow_descriptors(CONNECTIONS)
    socks = [server.connect() for _ in range(CONNECTIONS)]
    for number, sock in enumerate(socks):
        sock.sendall(b"set many%d 0 0 4\r\n%04d\r\nget many%d\r\n" % (number, number, number))
    for number, sock in enumerate(socks):
        expect(sock, b"", b"STORED\r\nVALUE many%d 0 4\r\n%04d\r\nEND\r\n" % (number, number))
    must_be_idle(server.pid, f"{CONNECTIONS} connections are idle")
    for sock in socks:
        close_with_reset(sock) if random.random() < 0.5 else sock.close()


def slow_values(server, _):
    """Values that are announced and do not arrive take no memory, and those that arrive in part take their part."""
    before = resident_bytes(server.pid)
    socks = [server.connect() for _ in range(500)]
    for sock in socks:
        sock.sendall(b"set slow 0 0 %d\r\nx" % MIB)
    serves(server)
    taken = resident_bytes(server.pid) - before
    if taken > 16 * MIB:
        raise CheckFailed(f"500 announced values take {taken >> 20} MiB")
    for sock in socks:
        sock.close()


def slow_readers(server, _):
    """Clients that do not read: their replies are bounded, others are served, and what they read later is complete."""
    with server.connect() as sock:
        expect(sock, b"set big 0 0 500000\r\n%s\r\n" % (b"v" * 500_000), b"STORED\r\n")
    before = resident_bytes(server.pid)
    readers = [server.connect() for _ in range(20)]
    for reader in readers:
        reader.sendall(b"get" + b" big" * 100 + b"\r\n")
    for _ in range(10):
        serves(server)
    must_be_idle(server.pid, "no client reads")
    taken = resident_bytes(server.pid) - before
    if taken > 64 * MIB:
        raise CheckFailed(f"20 clients that do not read 1 GB of replies take {taken >> 20} MiB")
    expect(readers[0], b"", b"VALUE big 0 500000\r\n%s\r\n" % (b"v" * 500_000) * 100 + b"END\r\n")
    for reader in readers:
        close_with_reset(reader)


def memory_limit(server, random):
    """Stores three times the memory limit, which is 64 MiB, in values of several sizes. The newest items remain.

    The limit counts the blocks of items. What the allocator keeps free between them comes on top.
    """
    with server.connect() as sock:
        expect(sock, b"flush_all\r\n", b"OK\r\n")
        for sizes in ([100], [2000], [50, 500, 5000, 50_000], [900_000]):
            # The same pieces in turn, under new names.
            pieces = [b" 0 0 %d noreply\r\n%s\r\n" % (size, b"x" * size) for size in random.choices(sizes, k=20)]
            stored, number = 0, 0
            while stored < 192 * MIB:
                batch = []
                for piece in pieces:
                    number += 1
                    batch.append(b"set item%d" % number + piece)
                batch = b"".join(batch)
                stored += len(batch) + 60 * len(pieces)
                sock.sendall(batch)
            value = pieces[-1].partition(b"\r\n")[2]
            expect(sock, b"get item%d\r\n" % number, b"VALUE item%d 0 %d\r\n" % (number, len(value) - 2) + value + b"END\r\n")
            # An idle loop returns free memory to the system.
            if not wait_until(lambda: resident_bytes(server.pid) < 192 * MIB, 15):
                raise CheckFailed(f"{resident_bytes(server.pid) >> 20} MiB are resident with a limit of 64 MiB")
            resident = resident_bytes(server.pid)
            print(f"      values of {sizes} bytes: {number} stored, {resident >> 20} MiB resident", flush=True)


def check_all(server, random):
    """Runs all checks."""
    before = open_descriptors(server.pid)
    for check in (
        garbage, killed_clients, one_byte_at_a_time, half_close, many_connections, slow_values, slow_readers,
    ):
        started = time.monotonic()
        check(server, random)
        serves(server)
        if not wait_until(lambda: open_descriptors(server.pid) <= before, 15):
            raise CheckFailed(f"{check.__name__}: {open_descriptors(server.pid) - before} descriptors are left open")
        print(f"    {check.__name__.replace('_', ' ')}: {time.monotonic() - started:.1f} s", flush=True)
    must_be_idle(server.pid, "all clients have left")
