#!/usr/bin/python3
"""Checks the example `socks` with curl, nc, ncat and PySocks, with its own client, and with abuse.

usage: socks_proxy.py PROGRAM

The proxy and the servers behind it listen on free loopback ports. Needs curl, netcat-openbsd, ncat and python3-socks; this
interpreter is that of Debian, which has python3-socks.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import socks

from peer import (
    DEADLINE, CheckFailed, check_equal, close_with_reset, expect_end, open_descriptors, refuses, wait_until,
)
from proxy_peers import (
    Listener, Program, abuse, echo, must_echo, must_fail, must_not_run, read_to_end, whole,
)

CONNECT, BIND, ASSOCIATE = 1, 2, 3


# --- A client ---------------------------------------------------------------------------------------


def address(host, port):
    """The address of a request; a host that is not numeric is sent as a name."""
    for family, kind in ((socket.AF_INET, 1), (socket.AF_INET6, 4)):
        with contextlib.suppress(OSError):
            return bytes([kind]) + socket.inet_pton(family, host) + struct.pack("!H", port)
    return b"\3" + bytes([len(host)]) + host.encode() + struct.pack("!H", port)


def exactly(sock, length):
    received = b""
    while len(received) < length:
        chunk = sock.recv(length - len(received))
        if not chunk:
            raise CheckFailed(f"the connection ended after {received!r}")
        received += chunk
    return received


def request(sock, command, host, port):
    """Sends a request of version 5, and returns the code and the address of the reply."""
    sock.sendall(bytes([5, command, 0]) + address(host, port))
    version, code, _, kind = exactly(sock, 4)
    check_equal(version, 5, "the version of the reply")
    ip = exactly(sock, 4 if kind == 1 else 16)
    text = socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, ip)
    return code, (text, struct.unpack("!H", exactly(sock, 2))[0])


def open_proxy(proxy):
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=DEADLINE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def greeted(proxy):
    sock = open_proxy(proxy)
    sock.sendall(b"\5\1\0")
    check_equal(exactly(sock, 2), b"\5\0", "the selected method")
    return sock


def connect(proxy, host, port):
    sock = greeted(proxy)
    check_equal(request(sock, CONNECT, host, port)[0], 0, f"the code for {host}:{port}")
    return sock


def code_for(proxy, host, port, command=CONNECT):
    with greeted(proxy) as sock:
        code, _ = request(sock, command, host, port)
        if code:
            expect_end(sock, "after a refusal")
        return code


# --- Real clients -----------------------------------------------------------------------------------


def http(sock):
    """One request of curl."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += sock.recv(1 << 16)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n" + b"p" * 300_000)


def run(*command, **options):
    options = {"capture_output": True, "timeout": DEADLINE, **options}
    return subprocess.run(command, **options)


def curl(proxy, page, option, host="localhost", *more):
    url = f"http://{host}:{page.port}/"
    return run("curl", "-sS", "--noproxy", "", option, f"127.0.0.1:{proxy.port}", *more, url)


def check_curl(proxy, page):
    for option in ("--socks4", "--socks4a", "--socks5", "--socks5-hostname"):
        for host in ("localhost", "127.0.0.1"):
            result = curl(proxy, page, option, host)
            check_equal((result.returncode, len(result.stdout)), (0, 300_000), f"curl {option} {host}: {result.stderr}")
    result = curl(proxy, page, "--socks5-hostname", "does-not-exist.invalid")
    check_equal(result.returncode, 97, "curl for a name that does not exist")


def check_netcats(proxy, whole_port):
    message = b"a message\n" * 20_000
    expected = b"%d:" % len(message) + message
    via = f"127.0.0.1:{proxy.port}"
    for version in ("4", "5"):
        # A pipe as standard input, whose end is relayed.
        result = run("nc", "-N", "-X", version, "-x", via, "127.0.0.1", str(whole_port), input=message)
        check_equal(result.stdout == expected, True, f"nc -X {version} returns the reply: {result.stderr}")
        result = run("ncat", "--proxy-type", f"socks{version}", "--proxy", via, "127.0.0.1", str(whole_port), input=message)
        check_equal(result.stdout == expected, True, f"ncat socks{version} returns the reply: {result.stderr}")


def pysocks(proxy, kind, rdns=True, **credentials):
    sock = socks.socksocket()
    sock.settimeout(DEADLINE)
    sock.set_proxy(kind, "127.0.0.1", proxy.port, rdns=rdns, **credentials)
    return sock


def check_pysocks(proxy, echo_port):
    for kind in (socks.SOCKS4, socks.SOCKS5):
        for rdns in (True, False):
            with pysocks(proxy, kind, rdns) as sock:
                sock.connect(("localhost", echo_port))
                must_echo(sock, 100_000)
    udp = datagram_echo()
    with contextlib.closing(socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(DEADLINE)
        sock.set_proxy(socks.SOCKS5, "127.0.0.1", proxy.port)
        for host in ("127.0.0.1", "localhost"):
            sock.sendto(b"hello", (host, udp))
            check_equal(sock.recvfrom(100), (b"hello", ("127.0.0.1", udp)), f"the datagram from {host}")


# --- Users, rules, codes ----------------------------------------------------------------------------


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def reload(proxy):
    proxy.signal(signal.SIGHUP)
    check_equal(proxy.line(), "the files are loaded again", "the line after SIGHUP")


def check_users(program, folder, page, echo_port):
    users = os.path.join(folder, "users")
    write(users, "# comment\nalice:secret\nbob:pass:word with spaces\n")
    with Program(program, "--users", users, "--threads", "2") as proxy:
        for name, password, status in (
            ("alice", "secret", 0), ("bob", "pass:word with spaces", 0), ("alice", "wrong", 97), ("carol", "secret", 97),
        ):
            result = curl(proxy, page, "--socks5", "127.0.0.1", "--proxy-user", f"{name}:{password}")
            check_equal(result.returncode, status, f"curl as {name} with {password}")
        for option in ("--socks5", "--socks4"):
            check_equal(curl(proxy, page, option).returncode, 97, f"curl {option} without a password")
        with pysocks(proxy, socks.SOCKS5, username="alice", password="secret") as sock:
            sock.connect(("localhost", echo_port))
            must_echo(sock)
            write(users, "dave:other\n")
            reload(proxy)
            must_echo(sock)
        via = ("--proxy-type", "socks5", "--proxy", f"127.0.0.1:{proxy.port}")
        for login, expected in (("dave:other", b"2:hi"), ("alice:secret", b"")):
            with contextlib.closing(Listener(whole)) as server:
                result = run("ncat", *via, "--proxy-auth", login, "127.0.0.1", str(server.port), input=b"hi")
                check_equal(result.stdout, expected, f"ncat as {login}")
        write(users, "no colon\n")
        proxy.signal(signal.SIGHUP)
        if not wait_until(lambda: "the old files stay in use" in proxy.error_text(), DEADLINE):
            raise CheckFailed("a wrong file is not reported")
        result = curl(proxy, page, "--socks5", "127.0.0.1", "--proxy-user", "dave:other")
        check_equal(result.returncode, 0, "the old user after a wrong file")
        proxy.stop(permitted="the old files stay in use")


def full_listener():
    """A listener that does not accept and whose backlog is full, so that a connect to it gets no reply."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    fillers = []
    for _ in range(16):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return listener, fillers


def check_codes(program, folder, echo_port):
    rules = os.path.join(folder, "rules")
    write(rules, f"# comment\nallow 127.0.0.1 {echo_port}  # the echo\ndeny 127.0.0.1 25-110\ndeny 127.0.0.2\ndeny ::1\n")
    with Program(program, "--rules", rules) as proxy:
        closed = socket.socket()
        closed.bind(("127.0.0.1", 0))  # not listening
        for host, port, code in (
            ("127.0.0.1", echo_port, 0), ("localhost", echo_port, 0), ("::ffff:127.0.0.1", echo_port, 0),
            ("127.0.0.1", closed.getsockname()[1], 5),
            ("127.0.0.1", 80, 2), ("0.0.0.0", 80, 2), ("::ffff:127.0.0.1", 80, 2), ("127.0.0.2", echo_port, 2),
            ("::1", echo_port, 2), ("::", echo_port, 2), ("localhost", 80, 2),
            ("255.255.255.255", 80, 3),
            ("does-not-exist.invalid", 80, 4),
            ("not a name", 80, 1),
        ):
            check_equal(code_for(proxy, host, port), code, f"the code for {host}:{port}")
        check_equal(code_for(proxy, "127.0.0.1", echo_port, BIND), 7, "the code for BIND")
        check_equal(code_for(proxy, "127.0.0.1", echo_port, 9), 7, "the code for an unknown command")
        for sent, reply in (
            (b"\5\1\0\5\1\0\7", b"\5\0\5\10\0\1" + bytes(6)),  # unknown type of address
            (b"\5\1\1", b"\5\xff"),  # only GSSAPI
            (b"\5\0", b"\5\xff"),
            (b"\4\2" + struct.pack("!H", 80) + b"\x7f\0\0\1user\0", b"\0\x5b" + bytes(6)),  # BIND
            (b"\4\1" + struct.pack("!H", 80) + b"\x7f\0\0\1user\0", b"\0\x5b" + bytes(6)),  # denied
            (b"\4\1" + struct.pack("!H", 80) + b"\0\0\0\1\0" + b"n" * 300, b"\0\x5b" + bytes(6)),
            (b"GET / HTTP/1.1\r\n\r\n", b""),
        ):
            with open_proxy(proxy) as sock:
                sock.sendall(sent)
                check_equal(read_to_end(sock), reply, f"the reply to {sent[:40]!r}")
        with greeted(proxy) as kept:
            check_equal(request(kept, CONNECT, "127.0.0.1", echo_port)[0], 0, "the code")
            write(rules, "deny all\n")
            reload(proxy)
            must_echo(kept)  # relayed already
        check_equal(code_for(proxy, "127.0.0.1", echo_port), 2, "the code after a reload")
        closed.close()
        proxy.stop()
    hanging, fillers = full_listener()
    with Program(program, "--timeout", "1") as proxy:
        check_equal(code_for(proxy, "127.0.0.1", hanging.getsockname()[1]), 6, "the code for a server that does not respond")
        proxy.stop()
    for sock in (hanging, *fillers):
        sock.close()


def check_deadlines(program, echo_port):
    """A silent client, an unfinished handshake, and an idle connection end; one with traffic continues."""
    with Program(program, "--timeout", "1", "--idle", "2") as proxy:
        silent, partial = open_proxy(proxy), greeted(proxy)
        partial.sendall(b"\5\1\0\3\10local")
        idle, busy = (connect(proxy, "127.0.0.1", echo_port) for _ in range(2))
        relay, _ = associate(proxy)
        for sock, what in ((silent, "a silent client"), (partial, "an unfinished handshake")):
            expect_end(sock, what)
        ended = threading.Event()
        watcher = threading.Thread(target=lambda: (idle.recv(1), relay.recv(1), ended.set()), daemon=True)
        watcher.start()
        while not ended.is_set():
            must_echo(busy)
            time.sleep(0.1)
            check_equal(watcher.is_alive() or ended.is_set(), True, "an idle connection ends without an error")
        for sock in (silent, partial, idle, busy, relay):
            sock.close()
        proxy.stop()


# --- UDP --------------------------------------------------------------------------------------------


def datagram_echo(host="127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, 0))

    def serve():
        while True:
            data, sender = sock.recvfrom(1 << 16)
            sock.sendto(data, sender)

    threading.Thread(target=serve, daemon=True).start()
    return sock.getsockname()[1]


def associate(proxy):
    sock = greeted(proxy)
    code, relay = request(sock, ASSOCIATE, "0.0.0.0", 0)
    check_equal(code, 0, "the code for UDP ASSOCIATE")
    return sock, relay


def udp_client(relay, host="127.0.0.1"):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE)
    sock.bind((host, 0))
    sock.connect(relay)
    return sock


def check_udp(program, folder):
    rules = os.path.join(folder, "udp rules")
    write(rules, "deny 127.0.0.9\n")
    target, denied = datagram_echo(), datagram_echo("127.0.0.9")
    with Program(program, "--rules", rules) as proxy:
        before = open_descriptors(proxy.pid)
        control, relay = associate(proxy)
        client, stranger, neighbour = udp_client(relay), udp_client(relay, "127.0.0.2"), udp_client(relay)
        to = b"\0\0\0" + address("127.0.0.1", target)

        def must_return(data):
            client.send(to + data)
            check_equal(client.recv(1 << 16), to + data, "the datagram")

        # Of another host. The relay takes the port of the client from the first datagram that is not dropped.
        stranger.send(to + b"from a stranger")
        must_return(b"first")
        neighbour.send(to + b"from another port")
        for dropped in (
            b"", b"\0\0", b"\0\0\1" + address("127.0.0.1", target) + b"a fragment",
            b"\0\0\0\7" + b"an unknown type", b"\0\0\0\3\xffa short name", b"\0\0\0" + address("127.0.0.9", denied) + b"denied",
        ):
            client.send(dropped)
            must_return(b"after what is dropped")
        must_return(b"")
        must_return(os.urandom(60_000))
        client.send(b"\0\0\0" + address("localhost", target) + b"by name")
        check_equal(client.recv(1 << 16), to + b"by name", "the datagram by name")
        for sock in (stranger, neighbour):
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                raise CheckFailed(f"the relay replies to another client: {sock.recv(100)!r}")
        # Data on the connection has no meaning, and ends nothing.
        control.sendall(b"data")
        must_return(b"after data on the connection")
        if socket.has_ipv6 and has_loopback_v6():
            v6 = b"\0\0\0" + address("::1", datagram_echo("::1"))
            client.send(v6 + b"six")
            check_equal(client.recv(1 << 16), v6 + b"six", "the datagram by IPv6")
        close_with_reset(control) if random.random() < 0.5 else control.close()
        if not wait_until(lambda: open_descriptors(proxy.pid) <= before, DEADLINE):
            raise CheckFailed("a relay outlives its connection")
        for sock in (client, stranger, neighbour):
            sock.close()
        check_equal("1 with UDP" in proxy.stop(), True, "the totals count the relay")


def has_loopback_v6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


# --- Abuse and the end ------------------------------------------------------------------------------


def garbage(proxy, _):
    for _ in range(200):
        noise = random.choice([b"", b"\4\1", b"\5\1\0\5\1\0", b"\5\1\0\5\3\0"]) + os.urandom(random.randrange(1, 2000))
        with open_proxy(proxy) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(noise)
                if random.random() < 0.3:
                    sock.shutdown(socket.SHUT_WR)
                    read_to_end(sock)


def slow_handshakes(proxy, connect_to):
    """The handshake one byte at a time, and all of it with data in one piece."""
    with connect_to("echo", lambda sock, data: [sock.sendall(bytes([byte])) for byte in data]) as sock:
        must_echo(sock)


def check_abuse(program, servers):
    with Program(program, "--threads", "2") as proxy:

        def connect_to(name, send=None):
            port = servers[name].port
            if send is None:
                return connect(proxy, "127.0.0.1", port)
            sock = open_proxy(proxy)
            send(sock, b"\5\1\0" + b"\5\1\0" + address("localhost", port))
            check_equal(exactly(sock, 4), b"\5\0\5\0", "the replies")
            exactly(sock, 8)
            return sock

        # Data that follows the request without waiting for the reply.
        with open_proxy(proxy) as sock:
            sock.sendall(b"\5\1\0" + b"\5\1\0" + address("127.0.0.1", servers["echo"].port) + b"early")
            check_equal(exactly(sock, 17)[12:], b"early", "early data")
        abuse(proxy, connect_to, garbage, slow_handshakes)
        print(f"    {proxy.stop()}", flush=True)


def check_end(program, echo_port):
    """A stop lets connections finish within the grace; a second signal ends at once."""
    with Program(program, "--grace", "60") as proxy:
        sock = connect(proxy, "127.0.0.1", echo_port)
        proxy.signal(signal.SIGTERM)
        must_echo(sock)
        sock.close()
        check_equal(proxy.process.wait(DEADLINE), 0, "the status")
    with Program(program, "--grace", "60") as proxy:
        sock = connect(proxy, "127.0.0.1", echo_port)
        proxy.signal(signal.SIGINT)
        if not wait_until(lambda: refuses(proxy.port), DEADLINE):
            raise CheckFailed("the proxy still accepts after a signal")
        proxy.signal(signal.SIGINT)
        check_equal(proxy.process.wait(DEADLINE), 0, "the status after two signals")
        sock.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    program = parser.parse_args().program
    servers = {"echo": Listener(echo), "whole": Listener(whole), "page": Listener(http)}
    echo_port = servers["echo"].port
    try:
        with tempfile.TemporaryDirectory() as folder:
            for arguments in (["--nonsense"], ["extra"], ["--timeout", "0"], ["--listen", "nowhere"], ["--threads"]):
                must_fail(program, *arguments)
            must_not_run(program, "--rules", os.path.join(folder, "missing"))
            with Program(program) as proxy:
                print("  curl, nc, ncat, PySocks", flush=True)
                check_curl(proxy, servers["page"])
                check_netcats(proxy, servers["whole"].port)
                check_pysocks(proxy, echo_port)
                proxy.stop()
            print("  users, rules and codes, UDP, deadlines", flush=True)
            check_users(program, folder, servers["page"], echo_port)
            check_codes(program, folder, echo_port)
            check_udp(program, folder)
            check_deadlines(program, echo_port)
            check_end(program, echo_port)
            print("  abuse", flush=True)
            check_abuse(program, servers)
    except (CheckFailed, OSError, subprocess.TimeoutExpired) as failure:
        sys.exit(f"socks_proxy.py: {type(failure).__name__}: {failure}")


if __name__ == "__main__":
    main()
