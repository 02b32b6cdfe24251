#!/usr/bin/python3
"""Checks the example `balance` with nginx as back end, HAProxy in front of it, curl, and with abuse.

usage: balance.py PROGRAM

All servers listen on free loopback ports, with their configuration in a temporary folder. Needs curl, haproxy and nginx.
"""

import argparse
import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from peer import DEADLINE, CheckFailed, check_equal, close_with_reset, receive_exactly, wait_until
from proxy_peers import Listener, Program, abuse, echo, must_echo, must_fail, must_not_run, read_to_end, whole

# Status lines that a check causes on purpose.
HEALTH = r"is (down|up)$|no back end is available"


# --- Back ends --------------------------------------------------------------------------------------


def named(name):
    """A back end that states its name, one letter, and then is an echo."""
    return Listener(named_serve(name))


def named_serve(name):
    def serve(sock):
        sock.sendall(name.encode())
        echo(sock)

    return serve


class Process:
    """A program of Debian that listens on a port, ended by its id."""

    def __init__(self, command, port):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        if not wait_until(lambda: self.process.poll() is not None or accepts(port), DEADLINE) or self.process.poll():
            self.__exit__()
            raise CheckFailed(f"{command[0]} does not listen")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(DEADLINE)


def accepts(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# A back end that can be killed: it sends without an end.
SENDER = """import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    sock, _ = listener.accept()
    try:
        while True:
            sock.sendall(b"s" * 65536)
    except OSError:
        pass
"""


# --- Clients ----------------------------------------------------------------------------------------


def connect(program):
    sock = socket.create_connection(("127.0.0.1", program.port), timeout=DEADLINE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def name_of(sock):
    """The name of the back end that the connection is with: one letter."""
    name = sock.recv(1).decode()
    must_echo(sock)
    return name


def distribution(program, count):
    """Makes one connection after another. Returns how many each back end got."""
    names = collections.Counter()
    for _ in range(count):
        with connect(program) as sock:
            names[name_of(sock)] += 1
    return dict(names)


def backends(program, count):
    """The lines that SIGUSR1 prints."""
    program.signal(signal.SIGUSR1)
    return [program.line() for _ in range(count)]


def wait_for(program, lines):
    """Waits until SIGUSR1 prints these lines."""
    found = []

    def is_so():
        found[:] = backends(program, len(lines))
        return found == lines

    if not wait_until(is_so, DEADLINE):
        raise CheckFailed(f"the back ends are {found} instead of {lines}")


def line(server, state="up", connections=0):
    return f"127.0.0.1:{server.port}: {state}, {connections} connections"


# --- Selection, failures, reload --------------------------------------------------------------------


def check_selection(program):
    a, b, c = (named(name) for name in "abc")
    targets = [f"127.0.0.1:{server.port}" for server in (a, b, c)]
    with Program(program, "--check", "0", *targets) as balance:
        check_equal(distribution(balance, 30), {"a": 10, "b": 10, "c": 10}, "round-robin")
        wait_for(balance, [line(server) for server in (a, b, c)])
        balance.stop()
    with Program(program, "--check", "0", "--policy", "least-connections", *targets) as balance:
        held = [connect(balance) for _ in range(6)]
        names = [name_of(sock) for sock in held]
        check_equal(collections.Counter(names), {"a": 2, "b": 2, "c": 2}, "least connections")
        for sock, name in zip(held, names):
            if name == "b":
                sock.close()
        wait_for(balance, [line(a, connections=2), line(b), line(c, connections=2)])
        more = [connect(balance) for _ in range(2)]
        check_equal([name_of(sock) for sock in more], ["b", "b"], "the back end with the fewest connections")
        for sock in held + more:
            sock.close()
        balance.stop()


def check_failures(program):
    """A back end that is down is skipped without a loss, is probed, and returns."""
    a, b = named("a"), named("b")
    # Known to be free, and bound again later.
    port = b.port
    b.close()
    with Program(program, "--check", "0", f"127.0.0.1:{a.port}", f"127.0.0.1:{port}") as balance:
        check_equal(distribution(balance, 20), {"a": 20}, "connections beside a back end that is down")
        wait_for(balance, [line(a), f"127.0.0.1:{port}: down, 0 connections"])
        b = Listener(named_serve("b"), port=port)
        wait_for(balance, [line(a), line(b)])
        check_equal(distribution(balance, 20), {"a": 10, "b": 10}, "connections after its return")
        # All are down: clients are reset, and served again later.
        a.close()
        b.close()
        must_be_reset(balance)
        balance.stop(permitted=HEALTH)
    # The regular check finds a failure without a client.
    c = named("c")
    with Program(program, "--check", "1", f"127.0.0.1:{c.port}") as balance:
        wait_for(balance, [line(c)])
        c.close()
        wait_for(balance, [line(c, "down")])
        balance.stop(permitted=HEALTH)


def must_be_reset(program):
    """Connects; the reset may arrive before the connect has returned."""
    try:
        with connect(program) as sock:
            received = sock.recv(1)
    except ConnectionResetError:
        return
    raise CheckFailed(f"{received!r} instead of a reset")


def check_kill(program):
    """A back end that is killed while it sends: its clients see the end, others continue."""
    other = named("o")
    with subprocess.Popen([sys.executable, "-c", SENDER], stdout=subprocess.PIPE, text=True) as sender:
        port = int(sender.stdout.readline())
        with Program(program, "--check", "0", f"127.0.0.1:{port}", f"127.0.0.1:{other.port}") as balance:
            sending, steady = connect(balance), connect(balance)
            check_equal(name_of(steady), "o", "the second back end")
            receive_exactly(sending, b"s" * 1_000_000, "the transfer")
            sender.kill()
            sender.wait()
            end = time.monotonic() + DEADLINE
            while read := read_or_reset(sending):
                if time.monotonic() > end or read.strip(b"s"):
                    raise CheckFailed("the transfer does not end")
            must_echo(steady)
            check_equal(distribution(balance, 5), {"o": 5}, "connections after the kill")
            sending.close()
            steady.close()
            balance.stop(permitted=HEALTH)


def read_or_reset(sock):
    try:
        return sock.recv(1 << 16)
    except ConnectionResetError:
        return b""


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def check_reload(program, folder):
    """A back end that is removed drains: its connection continues, and it gets no new ones."""
    a, b, c = (named(name) for name in "abc")
    path = os.path.join(folder, "balance.conf")
    write(path, f"# comment\nbackend 127.0.0.1:{a.port}\nbackend 127.0.0.1:{b.port}  # b\n")
    with Program(program, "--config", path, "--check", "0", "--threads", "2") as balance:
        kept = connect(balance)
        check_equal(name_of(kept), "a", "the first back end")
        write(path, f"policy least-connections\nbackend 127.0.0.1:{b.port}\nbackend 127.0.0.1:{c.port} limit 1\n")
        balance.signal(signal.SIGHUP)
        check_equal(balance.line(), "loaded again: 1 back ends added, 1 kept, 1 draining, 0 removed", "the line")
        wait_for(balance, [line(b), line(c), line(a, "up, draining", 1)])
        held = [connect(balance) for _ in range(4)]
        names = collections.Counter(map(name_of, held))
        check_equal(names, {"b": 3, "c": 1}, "new connections, with a limit of one")
        must_echo(kept, 500_000)
        kept.close()
        wait_for(balance, [line(b, connections=3), line(c, connections=1)])
        write(path, "policy nonsense\n")
        balance.signal(signal.SIGHUP)
        if not wait_until(lambda: "line 1: `nonsense`" in balance.error_text(), DEADLINE):
            raise CheckFailed("a wrong file is not reported")
        for sock in held:
            must_echo(sock)
            sock.close()
        balance.stop(permitted="the old configuration stays in use")
    # Only one connection in total.
    write(path, f"backend 127.0.0.1:{a.port} limit 1\n")
    with Program(program, "--config", path, "--check", "0") as balance:
        with connect(balance) as held:
            check_equal(name_of(held), "a", "the first client")
            must_be_reset(balance)
        balance.stop(permitted=HEALTH)


# --- The PROXY protocol -----------------------------------------------------------------------------

NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
  log_format addresses '$proxy_protocol_addr:$proxy_protocol_port'; access_log {folder}/access.log addresses;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port} proxy_protocol; location / {{ return 200 "hello\\n"; }} }}
}}
"""

HAPROXY = """defaults
  mode tcp
  timeout connect 10s
  timeout client 10s
  timeout server 10s
listen v1
  bind 127.0.0.1:{v1}
  server s 127.0.0.1:{port} send-proxy
listen v2
  bind 127.0.0.1:{v2}
  server s 127.0.0.1:{port} send-proxy-v2
"""


def local_port_of_curl(port):
    command = ["curl", "-sS", "--noproxy", "*", "-w", "%{local_port}", f"http://127.0.0.1:{port}/"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    check_equal((result.returncode, result.stdout[:6]), (0, "hello\n"), f"curl: {result.stderr}")
    return result.stdout[6:]


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def check_proxy_protocol(program, folder):
    """nginx logs the address and port of curl, through `balance` and through HAProxy in front of it."""
    port, log = free_port(), os.path.join(folder, "access.log")
    write(os.path.join(folder, "nginx.conf"), NGINX.format(folder=folder, port=port))
    with Process(["nginx", "-p", folder, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"], port):
        expected = []

        def must_log(through):
            expected.append("127.0.0.1:" + local_port_of_curl(through))
            if not wait_until(lambda: lines_of(log) == expected, DEADLINE):
                raise CheckFailed(f"nginx logged {lines_of(log)} instead of {expected}")

        for version in ("v1", "v2"):
            with Program(program, "--check", "1", "--send-proxy", version, f"127.0.0.1:{port}") as balance:
                for _ in range(3):
                    must_log(balance.port)
                balance.stop()
        arguments = ("--accept-proxy", "127.0.0.0/8", "--check", "0", "--timeout", "1", "--send-proxy", "v2")
        with Program(program, *arguments, f"127.0.0.1:{port}") as balance:
            fronts = {"v1": free_port(), "v2": free_port()}
            write(os.path.join(folder, "haproxy.cfg"), HAPROXY.format(port=balance.port, **fronts))
            with Process(["haproxy", "-db", "-f", os.path.join(folder, "haproxy.cfg")], fronts["v1"]):
                for front in fronts.values():
                    for _ in range(3):
                        must_log(front)
            # Without a header, with a wrong one, and with one that does not end in time.
            for sent in (b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", b"PROXY TCP4 1.2.3.4", b""):
                with connect(balance) as sock:
                    sock.sendall(sent)
                    check_equal(read_to_end(sock), b"", f"the reply to {sent!r}")
            # One byte at a time, with the request behind the header.
            with connect(balance) as sock:
                for byte in b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\nGET / HTTP/1.0\r\n\r\n":
                    sock.sendall(bytes([byte]))
                check_equal(read_to_end(sock)[-6:], b"hello\n", "the reply")
            expected.append("2001:db8::1:4711")
            check_equal(wait_until(lambda: lines_of(log) == expected, DEADLINE), True, "nginx logs the stated address")
            balance.stop()


# --- Abuse and the end ------------------------------------------------------------------------------


def check_abuse(program, folder):
    servers = {"echo": Listener(echo), "whole": Listener(whole)}
    by_echo = [f"127.0.0.1:{servers['echo'].port}"]
    by_whole = [f"127.0.0.1:{servers['whole'].port}"]
    with Program(program, "--threads", "2", *by_echo) as balance, Program(program, *by_whole) as other:
        abuse(balance, lambda name: connect(balance if name == "echo" else other), garbage)
        other.stop()
        print(f"    {balance.stop()}", flush=True)
    with Program(program, "--idle", "1", "--check", "0", *by_echo) as balance:
        with connect(balance) as idle:
            must_echo(idle)
            check_equal(read_or_reset(idle), b"", "the end of an idle connection")
        balance.stop()


def garbage(balance, connect_to):
    """Any bytes are relayed."""
    for _ in range(100):
        with connect_to("echo") as sock:
            must_echo(sock, 1 + int.from_bytes(os.urandom(2)))


def check_end(program):
    server = Listener(echo)
    with Program(program, "--grace", "60", f"127.0.0.1:{server.port}") as balance:
        sock = connect(balance)
        must_echo(sock)
        balance.signal(signal.SIGTERM)
        must_echo(sock)
        sock.close()
        check_equal(balance.process.wait(DEADLINE), 0, "the status")
    with Program(program, "--grace", "60", f"127.0.0.1:{server.port}") as balance:
        sock = connect(balance)
        must_echo(sock)
        balance.signal(signal.SIGINT)
        if not wait_until(lambda: not accepts(balance.port), DEADLINE):
            raise CheckFailed("the balancer still accepts after a signal")
        balance.signal(signal.SIGINT)
        check_equal(balance.process.wait(DEADLINE), 0, "the status after two signals")
        close_with_reset(sock)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    program = parser.parse_args().program
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)  # for the worker of nginx
            wrong = (
                [], ["nowhere"], ["--policy", "nonsense", "127.0.0.1:1"], ["--send-proxy", "v3", "127.0.0.1:1"],
                ["127.0.0.1:1", "127.0.0.1:1"], ["--config", "file", "127.0.0.1:1"], ["--accept-proxy", "10.0.0.1/8", "127.0.0.1:1"],
            )
            for arguments in wrong:
                must_fail(program, *arguments)
            must_not_run(program, "--config", os.path.join(folder, "missing"))
            for title, check in (
                ("selection", check_selection), ("failures", check_failures), ("a killed back end", check_kill),
                ("reload and draining", lambda program: check_reload(program, folder)),
                ("PROXY protocol, with nginx and HAProxy", lambda program: check_proxy_protocol(program, folder)),
                ("end", check_end), ("abuse", lambda program: check_abuse(program, folder)),
            ):
                begin = time.monotonic()
                check(program)
                print(f"  {title}: {time.monotonic() - begin:.1f} s", flush=True)
    except (CheckFailed, OSError, subprocess.TimeoutExpired) as failure:
        sys.exit(f"balance.py: {type(failure).__name__}: {failure}")


if __name__ == "__main__":
    main()
