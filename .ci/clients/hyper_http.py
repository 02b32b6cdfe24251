#!/usr/bin/env -S python3 -B
"""Misbehaving and unusual clients of the `hyper_http` example, with HTTP/1.1 and HTTP/2.

usage: hyper_http.py HOST PORT --pid SERVER [--connections 1000] [--seed N]

A request may arrive one byte at a time, with others in one segment, or before a half-close. Garbage, killed clients, a
client that does not read, and 1,000 connections must cost bounded memory and no CPU time when they are idle. After
each case the server must serve another client.
"""

import socket
import struct

import peer

HELLO = b"hello\n"
PERIOD = 251
PATTERN = bytes(range(PERIOD)) * 64
KILLED = 100
PIPELINED = 200

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
# GET http://a/ from the static table of HPACK, and GET /bytes/N with a literal path.
GET_ROOT = b"\x82\x86\x84\x41\x01a"
RESETS = 5000


def get(path, close=False):
    connection = b"close" if close else b"keep-alive"
    return b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: %s\r\n\r\n" % (path, connection)


def read_head(sock, what):
    """Reads the head of a response, one byte at a time. Returns the status and the headers."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = receive(sock, 1, what)
        if not byte:
            raise peer.CheckFailed(f"{what}: the stream ended after {head!r}")
        head += byte
    lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    return int(lines[0].split()[1]), headers


def receive(sock, n, what):
    try:
        return sock.recv(n)
    except TimeoutError:
        raise peer.CheckFailed(f"{what}: nothing received") from None


def expect_hello(sock, what):
    status, headers = read_head(sock, what)
    if (status, headers.get("content-length")) != (200, str(len(HELLO))):
        raise peer.CheckFailed(f"{what}: status {status}, headers {headers}")
    peer.receive_exactly(sock, HELLO, what)


def still_serves(options, after):
    with peer.connect(options.host, options.port) as sock:
        sock.sendall(get(b"/"))
        expect_hello(sock, f"a client after {after}")


def read_to_end(sock, what):
    """Reads until the end of the stream, or a reset."""
    received = b""
    try:
        while chunk := receive(sock, 1 << 16, what):
            received += chunk
    except ConnectionError:
        pass
    return received


def one_byte_at_a_time(options):
    with peer.connect(options.host, options.port) as sock:
        body = options.random.randbytes(100)
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        for byte in head + body:
            sock.sendall(bytes([byte]))
        status, _ = read_head(sock, "one byte at a time")
        if status != 200:
            raise peer.CheckFailed(f"one byte at a time: status {status}")
        peer.receive_exactly(sock, body, "one byte at a time")


def pipelined(options):
    """Many requests at once, and then a half-close: all responses must come, in their order."""
    with peer.connect(options.host, options.port) as sock:
        numbers = [options.random.randrange(2000) for _ in range(PIPELINED)]
        sock.sendall(b"".join(get(b"/bytes/%d" % number) for number in numbers))
        sock.shutdown(socket.SHUT_WR)
        for number in numbers:
            status, _ = read_head(sock, "pipelined requests")
            if status != 200:
                raise peer.CheckFailed(f"pipelined requests: status {status}")
            peer.receive_exactly(sock, PATTERN[:number], "pipelined requests")
        peer.expect_end(sock, "pipelined requests")


def half_close(options):
    """A client that ends its output after a request must get the whole response."""
    length = 3_000_000
    with peer.connect(options.host, options.port) as sock:
        sock.sendall(get(b"/bytes/%d" % length))
        sock.shutdown(socket.SHUT_WR)
        read_head(sock, "a half-close")
        at = 0
        while at < length:
            n = min(length - at, len(PATTERN))
            peer.receive_exactly(sock, PATTERN[:n], "a half-close")
            at += n
        peer.expect_end(sock, "a half-close")


def garbage(options):
    """Each is refused with an error of the client, or by the end of the connection."""
    samples = [
        options.random.randbytes(4096),
        b"\x16\x03\x01\x02\x00" + options.random.randbytes(512),
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Long: " + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(500)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\x00: a\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        PREFACE + b"GET / HTTP/1.1\r\n\r\n",
    ]
    for number, sample in enumerate(samples):
        with peer.connect(options.host, options.port) as sock:
            try:
                sock.sendall(sample)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            reply = read_to_end(sock, f"garbage {number}")
        is_echo_of_bad_chunk = b"Transfer-Encoding" in sample
        if reply.startswith(b"HTTP/1.1 2") and not is_echo_of_bad_chunk:
            raise peer.CheckFailed(f"garbage {number} was accepted: {reply[:100]!r}")
    still_serves(options, "garbage")


def killed_clients(options):
    """Clients that reset the connection in a request, in a body, or in a response."""
    starts = [
        b"",
        b"GET / HT",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(5000),
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + bytes(500),
        get(b"/bytes/100000000"),
        PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, GET_ROOT),
    ]
    for number in range(KILLED):
        sock = peer.connect(options.host, options.port)
        sock.sendall(starts[number % len(starts)])
        if number % 2:
            sock.settimeout(0.02)
            try:
                sock.recv(1000)
            except (TimeoutError, ConnectionError):
                pass
        peer.close_with_reset(sock)
    still_serves(options, "killed clients")


def does_not_read(options):
    """A response to a client that does not read waits, and then continues without a gap."""
    allowed = peer.resident_bytes(options.pid) + peer.MAX_MEMORY_PER_PEER
    with peer.connect(options.host, options.port) as sock:
        sock.sendall(get(b"/bytes/1000000000"))
        peer.must_be_idle(options.pid, "a client does not read its response")
        if peer.resident_bytes(options.pid) > allowed:
            raise peer.CheckFailed("a client that does not read costs more than 64 MiB")
        read_head(sock, "a client that reads late")
        for _ in range(500):
            peer.receive_exactly(sock, PATTERN, "a client that reads late")
        peer.close_with_reset(sock)


def echo_that_is_not_read(options):
    """A body whose echo is not read must not be read either."""
    allowed = peer.resident_bytes(options.pid) + peer.MAX_MEMORY_PER_PEER
    with peer.connect(options.host, options.port) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        sock.settimeout(1)
        sent = 0
        try:
            while sent < 1_000_000_000:
                sent += sock.send(bytes(1 << 16))
        except TimeoutError:
            pass
        if sent == 1_000_000_000:
            raise peer.CheckFailed("a whole body was read while its echo was not")
        peer.must_be_idle(options.pid, "a client does not read its echo")
        if peer.resident_bytes(options.pid) > allowed:
            raise peer.CheckFailed("an echo that is not read costs more than 64 MiB")
        peer.close_with_reset(sock)


def many_connections(options):
    peer.allow_descriptors(options.connections)
    sockets = [peer.connect(options.host, options.port) for _ in range(options.connections)]
    for turn in range(2):
        for sock in sockets:
            sock.sendall(get(b"/"))
        for sock in sockets:
            expect_hello(sock, f"{options.connections} connections, request {turn}")
    peer.must_be_idle(options.pid, f"{options.connections} connections are idle")
    resident = peer.resident_bytes(options.pid)
    for sock in sockets:
        sock.close()
    return resident


# --- HTTP/2 ---------------------------------------------------------------------------------------


def frame(kind, flags, stream, payload):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def read_frame(sock, what):
    """Returns the type, the flags, the stream and the payload of the next frame, or `None` at the end."""
    head = b""
    while len(head) < 9:
        chunk = receive(sock, 9 - len(head), what)
        if not chunk:
            return None
        head += chunk
    length = int.from_bytes(head[:3], "big")
    kind, flags, stream = struct.unpack("!BBI", head[3:])
    payload = b""
    while len(payload) < length:
        payload += receive(sock, length - len(payload), what)
    return kind, flags, stream, payload


def connect_http2(options, settings=b""):
    sock = peer.connect(options.host, options.port)
    sock.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))
    return sock


def await_frame(sock, wanted, what):
    """Reads until a frame of the type `wanted`. Returns its flags and payload."""
    while True:
        received = read_frame(sock, what)
        if received is None:
            raise peer.CheckFailed(f"{what}: the stream ended before a frame of type {wanted}")
        if received[0] == wanted:
            return received[1], received[3]


def http2_dialogue(options):
    """Requests of one byte at a time; a ping; many streams at once."""
    with connect_http2(options) as sock:
        for byte in frame(HEADERS, END_HEADERS | END_STREAM, 1, GET_ROOT):
            sock.sendall(bytes([byte]))
        _, body = await_frame(sock, DATA, "HTTP/2")
        if body != HELLO:
            raise peer.CheckFailed(f"HTTP/2: the body is {body!r}")
        sock.sendall(frame(PING, 0, 0, b"12345678"))
        flags, payload = await_frame(sock, PING, "HTTP/2")
        if (flags, payload) != (ACK, b"12345678"):
            raise peer.CheckFailed("HTTP/2: a wrong reply to a ping")
        streams = range(3, 3 + 2 * 90, 2)
        sock.sendall(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET_ROOT) for stream in streams))
        received = sum(await_frame(sock, DATA, "HTTP/2")[1] == HELLO for _ in streams)
        if received != len(streams):
            raise peer.CheckFailed(f"HTTP/2: {received} of {len(streams)} bodies are right")


def http2_violations(options):
    """Each must be answered by GOAWAY and the end of the connection (RFC 9113)."""
    violations = {
        "a frame larger than 16 KiB": frame(DATA, 0, 1, bytes(20_000)),
        "data on stream 0": frame(DATA, 0, 0, b"a"),
        "headers on an even stream": frame(HEADERS, END_HEADERS | END_STREAM, 2, GET_ROOT),
        "headers that cannot be decoded": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff"),
        "settings of a wrong length": frame(SETTINGS, 0, 0, b"abc"),
        "a ping of a wrong length": frame(PING, 0, 0, b"abc"),
        "a window update of 0": frame(WINDOW_UPDATE, 0, 0, bytes(4)),
        "a reset of an idle stream": frame(RST_STREAM, 0, 1, bytes(4)),
    }
    for what, violation in violations.items():
        with connect_http2(options) as sock:
            sock.sendall(violation)
            await_frame(sock, GOAWAY, what)
            sock.shutdown(socket.SHUT_WR)
            read_to_end(sock, what)


def http2_window(options):
    """With a window of 100 bytes, the body comes in pieces, as the client opens the window."""
    path = b"/bytes/1000"
    request = b"\x82\x86\x04" + bytes([len(path)]) + path + b"\x41\x01a"
    with connect_http2(options, struct.pack("!HI", 4, 100)) as sock:
        sock.sendall(frame(HEADERS, END_HEADERS | END_STREAM, 1, request))
        body = b""
        while len(body) < 1000:
            _, part = await_frame(sock, DATA, "a small window")
            if len(part) > 100:
                raise peer.CheckFailed(f"a small window: {len(part)} bytes")
            body += part
            sock.sendall(frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", len(part))) if part else b"")
        if body != PATTERN[:1000]:
            raise peer.CheckFailed("a small window: the body differs")


def http2_resets(options):
    """Requests that are reset at once (CVE-2023-44487) must not accumulate."""
    allowed = peer.resident_bytes(options.pid) + peer.MAX_MEMORY_PER_PEER
    with connect_http2(options) as sock:
        try:
            for stream in range(1, 2 * RESETS, 2):
                sock.sendall(
                    frame(HEADERS, END_HEADERS | END_STREAM, stream, GET_ROOT)
                    + frame(RST_STREAM, 0, stream, struct.pack("!I", 8))
                )
        except OSError:
            pass
        if peer.resident_bytes(options.pid) > allowed:
            raise peer.CheckFailed("requests that are reset cost more than 64 MiB")
    still_serves(options, "requests that are reset")


def check(options):
    descriptors = peer.open_descriptors(options.pid)
    one_byte_at_a_time(options)
    pipelined(options)
    half_close(options)
    garbage(options)
    killed_clients(options)
    does_not_read(options)
    echo_that_is_not_read(options)
    http2_dialogue(options)
    http2_violations(options)
    http2_window(options)
    http2_resets(options)
    resident = many_connections(options)
    if not peer.wait_until(lambda: peer.open_descriptors(options.pid) <= descriptors, peer.DEADLINE):
        raise peer.CheckFailed("the server keeps descriptors of its clients")
    print(f"    garbage, killed clients, HTTP/2; {options.connections} connections: {resident >> 20} MiB resident")


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, pid=None, connections=1000))
