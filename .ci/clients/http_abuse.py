"""Clients of the example `http` that violate the protocol, are slow, or disappear. Used by http_server.py."""

import errno
import http.client
import os
import random
import re
import select
import socket
import time

import peer
from peer import CheckFailed, check_equal

GET = b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"PUT /incoming/bad HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def head(text):
    return text.replace("\n", "\r\n").encode("latin-1")


# What is sent, and the status of the only response.
REFUSED = [
    (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", 400),
    (head("GET / HTTP/1.1\nHost: x\nX: a\n b\n\n"), 400),
    (head("GET / HTTP/1.1\nHost: x\nX : y\n\n"), 400),
    (head("GET / HTTP/1.1\nHost : x\n\n"), 400),
    (head("GET / HTTP/1.1\n Host: x\n\n"), 400),
    (head("GET  / HTTP/1.1\nHost: x\n\n"), 400),
    (head("GET / HTTP/1.1 \nHost: x\n\n"), 400),
    (head("GET /\n\n"), 400),
    (head("GET / HTTP/1.1\n\n"), 400),
    (head("GET / HTTP/1.1\nHost: x\nHost: x\n\n"), 400),
    (head("GET / HTTP/1.1\nHost: x y\n\n"), 400),
    (head("GET ftp://x/ HTTP/1.1\nHost: x\n\n"), 400),
    (head("GET /a#b HTTP/1.1\nHost: x\n\n"), 400),
    (head("GET /../small.txt HTTP/1.1\nHost: x\n\n"), 400),
    (head("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\nHost: x\n\n"), 400),
    (head("GET /..%2fetc%2fpasswd HTTP/1.1\nHost: x\n\n"), 400),
    (head("GET /small.txt%00 HTTP/1.1\nHost: x\n\n"), 400),
    (head("GET /%zz HTTP/1.1\nHost: x\n\n"), 400),
    (head("PUT /incoming/bad HTTP/1.1\nHost: x\nContent-Length: 3\nContent-Length: 3\n\nabc"), 400),
    (head("PUT /incoming/bad HTTP/1.1\nHost: x\nContent-Length: 3, 4\n\nabc"), 400),
    (head("PUT /incoming/bad HTTP/1.1\nHost: x\nContent-Length: +3\n\nabc"), 400),
    (head("PUT /incoming/bad HTTP/1.1\nHost: x\nContent-Length: 3\nTransfer-Encoding: chunked\n\n0\n\n"), 400),
    (head("PUT /incoming/bad HTTP/1.1\nHost: x\nTransfer-Encoding: chunked, identity\n\n0\n\n"), 400),
    (head("PUT /incoming/bad HTTP/1.1\nHost: x\nTransfer-Encoding: gzip, chunked\n\n0\n\n"), 501),
    (head("PUT /incoming/bad HTTP/1.0\nTransfer-Encoding: chunked\n\n0\n\n"), 400),
    (CHUNKED + b"3\nabc\n0\n\n", 400),
    (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    (CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n", 400),
    (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", 400),
    (CHUNKED + b"0\r\nX : y\r\n\r\n", 400),
    (CHUNKED + b"10000000000000000\r\n", 413),
    (CHUNKED + b"ffffffff\r\n" + b"x" * (3 << 20), 413),
    (head("PUT /incoming/bad HTTP/1.1\nHost: x\nContent-Length: 9999999\n\n"), 413),
    (head("PUT /incoming/bad HTTP/1.1\nHost: x\nContent-Length: 3\nExpect: magic\n\nabc"), 417),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 17000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
    (head("BREW / HTTP/1.1\nHost: x\n\n"), 501),
    (head("GET / HTTP/2.0\nHost: x\n\n"), 505),
    (head("GET / HTTP/0.9\nHost: x\n\n"), 505),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
]


def read_to_end(sock):
    received = bytearray()
    while True:
        try:
            piece = sock.recv(1 << 18)
        except TimeoutError:
            raise CheckFailed(f"no end after {bytes(received[-200:])!r}") from None
        if not piece:
            return bytes(received)
        received += piece


def send_all(sock, data):
    """Sends what the server takes: it may refuse the rest by a reset."""
    try:
        sock.sendall(data)
    except OSError:
        pass


def refusals(connect):
    """Each malformed request gets one response, and nothing after it is read as a request."""
    for data, status in REFUSED:
        with connect() as sock:
            send_all(sock, data + GET)
            reply = read_to_end(sock)
            check_equal(reply.split(b"\r\n")[0].split(b" ")[1:2], [str(status).encode()], data[:80])
            check_equal(reply.count(b"HTTP/1.1 "), 1, f"responses to {data[:80]!r}")
            check_equal(b"\r\nConnection: close\r\n" in reply, True, f"close after {data[:80]!r}")
    # After good requests only the bad one is refused.
    with connect() as sock:
        sock.sendall(GET * 3 + b"BAD\r\n\r\n" + GET)
        reply = read_to_end(sock)
        check_equal((reply.count(b" 200 OK"), reply.count(b" 400 ")), (3, 1), "pipelined after a bad request")


def unwanted_bodies(connect):
    """A short body of a refused request is skipped; a long one ends the connection."""
    post = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for size, following in [(60_000, 2), (70_000, 0)]:
        with connect() as sock:
            send_all(sock, post + b"%x\r\n%s\r\n0\r\n\r\n" % (size, GET * (size // len(GET)) + b"x" * (size % len(GET))) + GET)
            send_all(sock, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            reply = read_to_end(sock)
            found = (reply.count(b"HTTP/1.1 405 "), reply.count(b" 200 OK"))
            check_equal(found, (1, following), f"responses after a body of {size} bytes")
    with connect() as sock:
        send_all(sock, post + b"x\r\n" + GET)
        found = re.findall(rb"HTTP/1.1 (\d+)", read_to_end(sock))
        check_equal(found, [b"405"], "the responses to a malformed body that is not wanted")


def garbage(connect, seed):
    generator = random.Random(seed)
    for number in range(200):
        with connect() as sock:
            data = generator.randbytes(generator.randrange(1, 4000))
            if number % 2:
                data = bytes(generator.choice(b"GET / HTTP1.:\r\n\t ;0aZ\xff") for _ in data)
            send_all(sock, data)
            sock.shutdown(socket.SHUT_WR)
            try:
                read_to_end(sock)
            except ConnectionError:
                pass


def single_bytes(connect, small):
    upload = CHUNKED.replace(b"bad", b"slow") + b"3;x\r\nabc\r\n2\r\nde\r\n0\r\nT: u\r\n\r\n"
    with connect() as sock:
        for byte in GET + upload + GET:
            sock.sendall(bytes([byte]))
        sock.shutdown(socket.SHUT_WR)
        reply = read_to_end(sock)
    check_equal((reply.count(small), reply.count(b" 201 Created")), (2, 1), "a request in single bytes")


def half_close(connect, big):
    with connect() as sock:
        sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        check_equal(read_to_end(sock).partition(b"\r\n\r\n")[2] == big, True, "a file after a half-close")
    with connect() as sock:
        sock.sendall(GET[:-2])
        sock.shutdown(socket.SHUT_WR)
        check_equal(read_to_end(sock)[:12], b"HTTP/1.1 400", "half of a head")
    with connect() as sock:
        sock.sendall(b"PUT /incoming/half HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        sock.shutdown(socket.SHUT_WR)
        check_equal(read_to_end(sock)[:12], b"HTTP/1.1 400", "half of a body")


def killed(connect):
    """Clients that are reset in the middle of a head, a body and a response."""
    upload = b"PUT /incoming/killed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 300000
    for number in range(150):
        sock = connect()
        sock.sendall([GET[:20], upload, b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n" * 3][number % 3])
        if number % 2:
            sock.recv(1) if number % 3 == 2 else time.sleep(0.002)
        peer.close_with_reset(sock)


def many_connections(connect, small, number=1000):
    peer.allow_descriptors(number)
    socks = [connect() for _ in range(number)]
    for sock in socks:
        sock.sendall(GET[:10])
    for sock in socks:
        sock.sendall(GET[10:])
    for sock in socks:
        response = http.client.HTTPResponse(sock)
        response.begin()
        check_equal(response.read(), small, "one of many connections")
        response.close()
    for sock in socks:
        sock.close()


class Slow:
    """Clients that make no progress. The deadlines pass while other checks run."""

    def __init__(self, connect):
        self.heads = [connect(), connect()]
        self.heads[0].sendall(GET[:20])
        self.heads[1].sendall(GET + GET[:20])
        self.body = connect()
        self.body.sendall(b"PUT /incoming/late HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        # A small receive buffer: the output of the server waits in the server.
        self.readers = [connect(receive_buffer=4096) for _ in range(20)]
        for sock in self.readers:
            sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        self.idle = connect()

    def check(self, small):
        """A late head and a late body get 408; a reader that does not read is reset before it counts as idle."""
        for sock in [*self.heads, self.body]:
            sock.settimeout(60)
            check_equal(read_to_end(sock).rpartition(b"HTTP/1.1 ")[2][:3], b"408", "a late request")
        for sock in self.readers:
            # Without events, only an error or the end of both directions is reported.
            poller = select.poll()
            poller.register(sock, 0)
            if not poller.poll(60_000):
                raise CheckFailed("a client that does not read was not reset")
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            check_equal(error, errno.ECONNRESET, "the error of a client that does not read")
            sock.close()
        self.idle.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        check_equal(read_to_end(self.idle).endswith(small), True, "a client that was idle")


def leftovers(folder):
    """The files of unfinished uploads."""
    return [name for name in os.listdir(folder) if name.startswith(".upload")]
