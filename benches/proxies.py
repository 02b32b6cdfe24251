#!/usr/bin/env python3
"""Compares the examples `balance` and `socks` with HAProxy in TCP mode: one loop each, and one thread of HAProxy.

    cargo build --profile bench --example balance --example socks --example echo
    benches/proxies.py target/release/examples [--seconds 3] [--rounds 5] [--loads bulk,messages,connections]

Needs haproxy. The proxies take turns, on CPU 0. The back end and the clients are on CPU 1. The loads:

- bulk: 4 connections; the back end sends as fast as the proxy reads. It sends a file of memory by sendfile(2), and the
  client discards the bytes in the kernel (MSG_TRUNC), so neither copies them.
- messages: 64 connections with one message of 128 bytes each in flight; the back end is the example `echo`.
- connections: 32 at a time: connect, one message, its echo, close. Those of `socks` include the handshake.

For each it prints bytes, messages or connections per second, and per second of the proxy's CPU time, which does not depend
on other programs: the median of the rounds, the range, and the ratio to HAProxy, as median and range of the ratios within
a round. HAProxy runs twice: as it is by default, and with the option `splice-auto`.
"""

import argparse
import os
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HAPROXY = """global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  {option}
listen bulk
  bind 127.0.0.1:{bulk_port}
  server s 127.0.0.1:{bulk}
listen echo
  bind 127.0.0.1:{echo_port}
  server s 127.0.0.1:{echo}
"""

MESSAGE = b"m" * 128
MIB = 1 << 20


# --- Processes --------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(port, process, name):
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                sys.exit(f"{name} does not listen")
            time.sleep(0.05)


def start(cpu, command, ports):
    process = subprocess.Popen(["taskset", "-c", str(cpu), *command], stdout=subprocess.DEVNULL)
    for port in ports:
        wait_for(port, process, command[0])
    return process


def cpu_seconds(process):
    """With the precision of the scheduler, in contrast to the ticks of /proc/PID/stat."""
    with open(f"/proc/{process.pid}/schedstat", encoding="ascii") as stat:
        return int(stat.read().split()[0]) / 1e9


def serve_bulk(listener):
    """The back end of the bulk load. Sends without an end to each client."""
    memory = os.memfd_create("bulk")
    os.write(memory, b"x" * MIB)
    poller = select.epoll()
    listener.setblocking(False)
    poller.register(listener, select.EPOLLIN)
    clients = {}
    while True:
        for fd, events in poller.poll():
            if fd == listener.fileno():
                client = listener.accept()[0]
                client.setblocking(False)
                clients[client.fileno()] = client
                poller.register(client, select.EPOLLOUT | select.EPOLLRDHUP)
            elif events & ~select.EPOLLOUT:
                # Without this, a proxy would still read while the next one is measured.
                clients.pop(fd).close()
            else:
                try:
                    os.sendfile(fd, memory, 0, MIB)
                except BlockingIOError:
                    pass
                except OSError:
                    clients.pop(fd).close()


# --- Loads ------------------------------------------------------------------------------------------


class Proxy:
    """Connects through a proxy. `bulk` and `echo` are the ports to connect to; for SOCKS, those of the back ends."""

    def __init__(self, process, bulk, echo, socks_port=None):
        self.process, self.bulk, self.echo, self.socks_port = process, bulk, echo, socks_port

    def connect(self, port):
        sock = socket.create_connection(("127.0.0.1", self.socks_port or port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.socks_port:
            sock.sendall(b"\5\1\0")
            must_be(sock.recv(2), b"\5\0")
            sock.sendall(request(port))
            must_be(sock.recv(10)[:2], b"\5\0")
        return sock

    def address(self, port):
        return "127.0.0.1", self.socks_port or port


def request(port):
    return b"\5\1\0\1\x7f\0\0\1" + struct.pack("!H", port)


def must_be(found, expected):
    if found != expected:
        sys.exit(f"{found!r} instead of {expected!r}")


def bulk(proxy, seconds):
    """The number of bytes that were received."""
    poller, total, space = select.epoll(), 0, bytearray(MIB)
    socks = {}
    for _ in range(4):
        sock = proxy.connect(proxy.bulk)
        sock.setblocking(False)
        socks[sock.fileno()] = sock
        poller.register(sock, select.EPOLLIN)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for fd, _ in poller.poll(1):
            received = socks[fd].recv_into(space, MIB, socket.MSG_TRUNC)
            if received == 0:
                sys.exit("the proxy closed a connection")
            total += received
    for sock in socks.values():
        sock.close()
    return total


def messages(proxy, seconds):
    """The number of messages whose echo was received."""
    poller, total, socks = select.epoll(), 0, {}
    for _ in range(64):
        sock = proxy.connect(proxy.echo)
        socks[sock.fileno()] = [sock, len(MESSAGE)]
        poller.register(sock, select.EPOLLIN)
        sock.sendall(MESSAGE)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for fd, _ in poller.poll(1):
            entry = socks[fd]
            received = len(entry[0].recv(entry[1]))
            if received == 0:
                sys.exit("the proxy closed a connection")
            entry[1] -= received
            if entry[1] == 0:
                total += 1
                entry[1] = len(MESSAGE)
                entry[0].send(MESSAGE)
    for sock, _ in socks.values():
        sock.close()
    return total


def one_connection(proxy):
    """A generator that yields a socket and the event that it waits for. One connection from its begin to its end."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(proxy.address(proxy.echo))
    yield sock, select.EPOLLOUT
    steps = [(MESSAGE, len(MESSAGE))]
    if proxy.socks_port:
        steps = [(b"\5\1\0", 2), (request(proxy.echo), 10)] + steps
    for sent, length in steps:
        sock.send(sent)
        while length:
            yield sock, select.EPOLLIN
            received = sock.recv(length)
            if not received:
                sys.exit("the proxy closed a connection")
            length -= len(received)
    sock.close()


def connections(proxy, seconds):
    """The number of connections that were finished."""
    poller, total, running = select.epoll(), 0, {}

    def begin():
        steps = one_connection(proxy)
        sock, event = next(steps)
        running[sock.fileno()] = steps
        poller.register(sock, event)

    for _ in range(32):
        begin()
    end = time.monotonic() + seconds
    while running:
        for fd, _ in poller.poll(1):
            try:
                sock, event = next(running[fd])
                poller.modify(sock, event)
            except StopIteration:
                del running[fd]
                total += 1
                if time.monotonic() < end:
                    begin()
    return total


LOADS = {
    "bulk": (bulk, 1e6, "MB"),
    "messages": (messages, 1, "messages"),
    "connections": (connections, 1, "connections"),
}


# --- Comparison -------------------------------------------------------------------------------------


def summary(values):
    return f"{statistics.median(values):9,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratio(values, others):
    ratios = [value / other for value, other in zip(values, others)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def measure(proxy, load, seconds):
    before, begin = cpu_seconds(proxy.process), time.monotonic()
    count = load(proxy, seconds)
    elapsed, cpu = time.monotonic() - begin, cpu_seconds(proxy.process) - before
    return count / elapsed, count / cpu


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", help="the directory of the examples")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", default=",".join(LOADS))
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})
    program = lambda name: os.path.join(options.programs, name)
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            bulk_port, echo_port = listener.getsockname()[1], free_port()
            child = os.fork()
            if child == 0:
                serve_bulk(listener)
            processes.append(start(1, [program("echo"), "--listen", f"127.0.0.1:{echo_port}"], [echo_port]))
            proxies = {}
            for name, option in [("haproxy", ""), ("haproxy, splice-auto", "option splice-auto")]:
                ports, conf = (free_port(), free_port()), os.path.join(folder, f"{len(proxies)}.conf")
                with open(conf, "w", encoding="ascii") as file:
                    values = {"bulk_port": ports[0], "echo_port": ports[1], "bulk": bulk_port, "echo": echo_port}
                    file.write(HAPROXY.format(option=option, **values))
                processes.append(start(0, ["haproxy", "-db", "-f", conf], ports))
                proxies[name] = Proxy(processes[-1], *ports)
            ports = free_port(), free_port()
            for port, backend in zip(ports, (bulk_port, echo_port)):
                command = [program("balance"), "--check", "0", "--listen", f"127.0.0.1:{port}"]
                processes.append(start(0, command + [f"127.0.0.1:{backend}"], [port]))
            by_bulk, by_echo = processes[-2:]
            port = free_port()
            processes.append(start(0, [program("socks"), "--listen", f"127.0.0.1:{port}"], [port]))
            proxies["balance"] = None
            proxies["socks"] = Proxy(processes[-1], bulk_port, echo_port, port)
            for name in options.loads.split(","):
                load, unit, what = LOADS[name]
                # One process for each back end.
                proxies["balance"] = Proxy(by_bulk if name == "bulk" else by_echo, *ports)
                results = {proxy: [] for proxy in proxies}
                for _ in range(options.rounds):
                    for proxy, value in proxies.items():
                        results[proxy].append(measure(value, load, options.seconds))
                print(name)
                base = list(zip(*results["haproxy"]))
                for proxy, result in results.items():
                    rates, per_cpu = ([value / unit for value in values] for values in zip(*result))
                    of_base = [[value / unit for value in values] for values in base]
                    print(f"  {proxy:21} {summary(rates)} {what}/s, {ratio(rates, of_base[0])} of haproxy", end="; ")
                    print(f"{summary(per_cpu)} per CPU second, {ratio(per_cpu, of_base[1])}", flush=True)
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGTERM)
                process.wait(10)
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


main()
