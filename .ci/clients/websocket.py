#!/usr/bin/env -S python3 -B
"""Cases of RFC 6455 for the `websocket` example: its handshake, frames, messages, closes, and limits.

usage: websocket.py HOST PORT --pid SERVER [--connections 1000] [--maximum 1048576] [--seed N]

The frames are made by hand, so that they can also be wrong. A message may arrive in fragments with control frames
between them, or one byte at a time. A violation must be answered by a close with the code that the RFC assigns to it.
Killed clients, a client that does not read, and 1,000 connections must cost bounded memory, and no CPU time when they
are idle.
"""

import base64
import hashlib
import os
import socket
import struct

import peer

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80
NORMAL, AWAY, PROTOCOL, INVALID, TOO_BIG = 1000, 1001, 1002, 1007, 1009
KILLED = 100


class Client:
    """A client after its handshake."""

    def __init__(self, options, receive_buffer=None):
        self.options = options
        self.sock = peer.connect(options.host, options.port, receive_buffer)
        key = base64.b64encode(os.urandom(16))
        self.sock.sendall(request(key))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.receive(1, "the handshake")
            if not byte:
                raise peer.CheckFailed(f"the handshake ended after {head!r}")
            head += byte
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        headers = head.lower().split(b"\r\n")
        if not head.startswith(b"HTTP/1.1 101 ") or b"sec-websocket-accept: " + accept.lower() not in headers:
            raise peer.CheckFailed(f"a wrong reply to the handshake: {head!r}")
        if any(line.startswith(b"sec-websocket-extensions") for line in headers):
            raise peer.CheckFailed("the server uses an extension that was not offered")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def receive(self, n, what):
        try:
            return self.sock.recv(n)
        except TimeoutError:
            raise peer.CheckFailed(f"{what}: nothing received") from None

    def receive_all(self, n, what):
        received = bytearray()
        while len(received) < n:
            chunk = self.receive(n - len(received), what)
            if not chunk:
                raise peer.CheckFailed(f"{what}: the stream ended within a frame")
            received += chunk
        return bytes(received)

    def send(self, first, payload=b"", **wrong):
        self.sock.sendall(frame(self.options, first, payload, **wrong))

    def read_frame(self, what):
        """Returns the opcode and the payload of a frame, which must be whole and not masked."""
        first, second = self.receive_all(2, what)
        length = second & 0x7F
        if second & 0x80 or first & 0x70 or not first & FIN:
            raise peer.CheckFailed(f"{what}: the frame begins with {first:02x} {second:02x}")
        if length == 126:
            (length,) = struct.unpack("!H", self.receive_all(2, what))
            shortest = length > 125
        elif length == 127:
            (length,) = struct.unpack("!Q", self.receive_all(8, what))
            shortest = length > 0xFFFF
        else:
            shortest = True
        if not shortest:
            raise peer.CheckFailed(f"{what}: the length {length} is not in its shortest form")
        return first & 0x0F, self.receive_all(length, what)

    def expect(self, opcode, payload, what):
        received = self.read_frame(what)
        if received != (opcode, payload):
            got = (received[0], len(received[1]), received[1][:40])
            raise peer.CheckFailed(f"{what}: not {opcode} with {len(payload)} bytes, but {got}")

    def expect_close(self, code, what):
        """Requires a close with the code, `None` for one without, and then the end of the stream."""
        opcode, payload = self.read_frame(what)
        received = struct.unpack("!H", payload[:2])[0] if payload else None
        if (opcode, received) != (CLOSE, code):
            raise peer.CheckFailed(f"{what}: opcode {opcode}, code {received} instead of a close with {code}")
        try:
            if self.receive(1, what):
                raise peer.CheckFailed(f"{what}: more after the close")
        except ConnectionError:
            pass

    def round_trip(self, what):
        self.send(FIN | TEXT, b"hello")
        self.expect(TEXT, b"hello", what)


def request(key, method=b"GET", version=b"13", upgrade=b"Upgrade: websocket\r\n"):
    return (
        method + b" / HTTP/1.1\r\nHost: a\r\n" + upgrade + b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Version: " + version + b"\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )


def frame(options, first, payload=b"", masked=True, length=None):
    """A frame. `length` overrides the length in its head."""
    stated = len(payload) if length is None else length
    mask_bit = 0x80 if masked else 0
    if stated < 126:
        head = struct.pack("!BB", first, mask_bit | stated)
    elif stated < 1 << 16:
        head = struct.pack("!BBH", first, mask_bit | 126, stated)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, stated)
    if not masked:
        return head + payload
    key = options.random.randbytes(4)
    repeated = int.from_bytes(key * (len(payload) // 4 + 1), "big") >> 8 * (4 - len(payload) % 4)
    return head + key + (int.from_bytes(payload, "big") ^ repeated).to_bytes(len(payload), "big")


def sizes(options):
    with Client(options) as client:
        for size in (0, 1, 125, 126, 127, 128, 65535, 65536, options.maximum):
            data, text = options.random.randbytes(size), "aé€😀".encode() * (size // 10)
            client.send(FIN | BINARY, data)
            client.expect(BINARY, data, f"{size} bytes")
            client.send(FIN | TEXT, text)
            client.expect(TEXT, text, f"text of {len(text)} bytes")


def fragments(options):
    """Fragments of any size, with control frames between them. A character may be divided."""
    with Client(options) as client:
        for number in range(20):
            is_text = number % 2
            whole = ("a€😀" * 30).encode() if is_text else options.random.randbytes(5000)
            opcode = TEXT if is_text else BINARY
            at, first = 0, opcode
            while at < len(whole):
                n = options.random.choice([0, 1, 2, 7, 100, 2000])
                client.send(first, whole[at : at + n])
                at, first = at + n, CONTINUATION
                if options.random.random() < 0.3:
                    client.send(FIN | PING, b"between")
                    client.expect(PONG, b"between", "a ping between fragments")
            client.send(FIN | CONTINUATION)
            client.expect(opcode, whole, "a message in fragments")
        # All of it at once.
        parts = [frame(options, TEXT, b"one "), frame(options, FIN | PING), frame(options, FIN | CONTINUATION, b"two")]
        client.sock.sendall(b"".join(parts))
        client.expect(PONG, b"", "a ping between fragments in one segment")
        client.expect(TEXT, b"one two", "fragments in one segment")


def one_byte_at_a_time(options):
    with Client(options) as client:
        text = "aé€😀".encode() * 20
        for byte in frame(options, TEXT, text[:99]) + frame(options, FIN | CONTINUATION, text[99:]):
            client.sock.sendall(bytes([byte]))
        client.expect(TEXT, text, "one byte at a time")


def pings(options):
    with Client(options) as client:
        for size in (0, 1, 124, 125):
            data = options.random.randbytes(size)
            client.send(FIN | PING, data)
            client.expect(PONG, data, f"a ping of {size} bytes")
        client.send(FIN | PONG, b"not requested")
        client.round_trip("a message after a pong")
        # A server may reply to the last of several pings only.
        client.sock.sendall(b"".join(frame(options, FIN | PING, bytes([n])) for n in range(10)))
        while client.read_frame("ten pings") != (PONG, bytes([9])):
            pass


def many_messages(options):
    """Messages in one segment are returned in their order."""
    with Client(options) as client:
        messages = [options.random.randbytes(options.random.randrange(300)) for _ in range(500)]
        client.sock.sendall(b"".join(frame(options, FIN | BINARY, message) for message in messages))
        for message in messages:
            client.expect(BINARY, message, "500 messages at once")


def violations(options):
    """Frames that are wrong, and the code of the close that they cause."""
    invalid_utf8 = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"ok \xe2\x82"]
    cases = [(f"the text {text!r}", [(FIN | TEXT, text)], {}, INVALID) for text in invalid_utf8]
    cases += [(f"a reserved bit {bit:02x}", [(FIN | bit | TEXT, b"a")], {}, PROTOCOL) for bit in (0x10, 0x20, 0x40)]
    cases += [(f"the opcode {code}", [(FIN | code, b"a")], {}, PROTOCOL) for code in (3, 4, 5, 6, 7, 11, 12, 15)]
    cases += [
        ("invalid text in fragments", [(TEXT, b"a\xe2"), (FIN | CONTINUATION, b"b")], {}, INVALID),
        ("a frame without a mask", [(FIN | TEXT, b"a")], {"masked": False}, PROTOCOL),
        ("a ping in fragments", [(PING, b"a")], {}, PROTOCOL),
        ("a ping of 126 bytes", [(FIN | PING, bytes(126))], {}, PROTOCOL),
        ("a continuation of nothing", [(FIN | CONTINUATION, b"a")], {}, PROTOCOL),
        ("a message within another", [(TEXT, b"a"), (FIN | TEXT, b"b")], {}, PROTOCOL),
        ("a message that is too long", [(FIN | BINARY, b"")], {"length": options.maximum + 1}, TOO_BIG),
        ("a message of 1 TiB", [(FIN | BINARY, b"")], {"length": 1 << 40}, TOO_BIG),
        ("a message of 2^63 bytes", [(FIN | BINARY, b"")], {"length": 1 << 63}, TOO_BIG),
        ("a close of one byte", [(FIN | CLOSE, b"a")], {}, PROTOCOL),
        ("a close of 126 bytes", [(FIN | CLOSE, bytes(126))], {}, PROTOCOL),
        ("a reason that is not text", [(FIN | CLOSE, b"\x03\xe8\xff")], {}, INVALID),
    ]
    half = options.maximum // 2 + 1
    cases.append(("too much in fragments", [(BINARY, bytes(half)), (FIN | CONTINUATION, bytes(half))], {}, TOO_BIG))
    for what, frames, wrong, code in cases:
        with Client(options) as client:
            client.round_trip(what)
            for first, payload in frames:
                client.send(first, payload, **wrong)
            client.expect_close(code, what)
    return len(cases)


def closes(options):
    """The server returns a valid code of the client, and refuses the others."""
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        with Client(options) as client:
            client.send(FIN | CLOSE, struct.pack("!H", code) + "why: €".encode())
            client.expect_close(code, f"a close with {code}")
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        with Client(options) as client:
            client.send(FIN | CLOSE, struct.pack("!H", code))
            client.expect_close(PROTOCOL, f"a close with {code}")
    with Client(options) as client:
        client.send(FIN | CLOSE)
        client.expect_close(None, "a close without a code")
    with Client(options) as client:
        # What follows a close is not a message.
        ignored = frame(options, FIN | TEXT, b"late") + frame(options, FIN | PING)
        client.sock.sendall(frame(options, FIN | CLOSE, struct.pack("!H", NORMAL)) + ignored)
        client.expect_close(NORMAL, "a message after a close")


def handshakes(options):
    """A request that is not a handshake gets no 101, and its connection ends."""
    key = base64.b64encode(bytes(16))
    samples = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        request(key, method=b"POST"),
        request(key, version=b"8"),
        request(key, upgrade=b""),
        request(key).replace(b"Sec-WebSocket-Key", b"X-Key"),
        request(key).replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 5000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 500_000,
        options.random.randbytes(1000) + b"\r\n\r\n",
        b"",
    ]
    for number, sample in enumerate(samples):
        with peer.connect(options.host, options.port) as sock:
            reply = b""
            try:
                sock.sendall(sample)
                sock.shutdown(socket.SHUT_WR)
                while chunk := sock.recv(1000):
                    reply += chunk
            except TimeoutError:
                raise peer.CheckFailed(f"handshake {number}: the connection did not end") from None
            except OSError:
                pass
            if reply.startswith(b"HTTP/1.1 101"):
                raise peer.CheckFailed(f"handshake {number} was accepted: {sample[:200]!r}")


def killed_clients(options):
    for number in range(KILLED):
        if number % 4 == 0:
            sock = peer.connect(options.host, options.port)
            sock.sendall(request(b"a")[: options.random.randrange(1, 100)])
            peer.close_with_reset(sock)
            continue
        client = Client(options)
        message = frame(options, FIN | BINARY, options.random.randbytes(100_000))
        client.sock.sendall(message[: options.random.randrange(len(message))] if number % 4 == 1 else message)
        if number % 4 == 3:
            client.sock.close()
        else:
            peer.close_with_reset(client.sock)
    with Client(options) as client:
        client.round_trip("a client after killed ones")


def does_not_read(options):
    """A client that sends and does not read is not read. When it reads, it gets all."""
    allowed = peer.resident_bytes(options.pid) + peer.MAX_MEMORY_PER_PEER
    message = options.random.randbytes(100_000)
    with Client(options, receive_buffer=32768) as client:
        client.sock.settimeout(1)
        framed = frame(options, FIN | BINARY, message)
        sent, rest = 0, b""
        while sent < 2000 and not rest:
            at = 0
            try:
                while at < len(framed):
                    at += client.sock.send(framed[at:])
                sent += 1
            except TimeoutError:
                rest = framed[at:]
        if not rest:
            raise peer.CheckFailed("200 MB were read while their echo was not")
        peer.must_be_idle(options.pid, "a client does not read its echo")
        if peer.resident_bytes(options.pid) > allowed:
            raise peer.CheckFailed("a client that does not read costs more than 64 MiB")
        client.sock.settimeout(peer.DEADLINE)
        for _ in range(sent):
            client.expect(BINARY, message, "a client that reads late")
        client.sock.sendall(rest)
        client.expect(BINARY, message, "a client that reads late")


def many_connections(options):
    peer.allow_descriptors(options.connections)
    clients = [Client(options) for _ in range(options.connections)]
    for _ in range(2):
        for client in clients:
            client.send(FIN | TEXT, b"hello")
        for client in clients:
            client.expect(TEXT, b"hello", f"{options.connections} connections")
    peer.must_be_idle(options.pid, f"{options.connections} connections are idle")
    resident = peer.resident_bytes(options.pid)
    for client in clients:
        client.sock.close()
    return resident


def check(options):
    descriptors = peer.open_descriptors(options.pid)
    sizes(options)
    fragments(options)
    one_byte_at_a_time(options)
    pings(options)
    many_messages(options)
    number = violations(options)
    closes(options)
    handshakes(options)
    killed_clients(options)
    does_not_read(options)
    resident = many_connections(options)
    if not peer.wait_until(lambda: peer.open_descriptors(options.pid) <= descriptors, peer.DEADLINE):
        raise peer.CheckFailed("the server keeps descriptors of its clients")
    print(f"    RFC 6455: {number} violations, 26 closes; {options.connections} connections: {resident >> 20} MiB resident")


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, pid=None, connections=1000, maximum=1 << 20))
