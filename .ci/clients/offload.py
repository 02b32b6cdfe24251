#!/usr/bin/python3
"""Checks the example `offload` with nc and with sockets, and with misbehaving clients.

usage: offload.py PROGRAM [--seed N]

The results are compared with a sieve and with products computed here.
"""

import argparse
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import peer
from peer import CheckFailed, check_equal

CONNECTIONS = 1000
MIB = 1 << 20
# Takes a worker about a second in a debug build, and a tenth of that in a release build.
LONG = b"factor 999999999999989\n"
LONG_REPLY = b"factor 999999999999989: 999999999999989\n"
WRONG_REPLY = b"error: the commands are: primes N, factor N, panic\n"
PANICKED_REPLY = b"error: the job has panicked\n"


class Server:
    """The program under test, on a port that the kernel selects."""

    # A failed check leaves some running.
    started = []

    def __init__(self, program, *options):
        command = [program, "--listen", "127.0.0.1:0", *options]
        # Panics are part of the check; their messages are read at the end.
        environment = {**os.environ, "RUST_BACKTRACE": "0"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        Server.started.append(self.process)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise CheckFailed(f"the server printed {line!r}")
        self.port = int(line.rpartition(":")[2])
        self.pid = self.process.pid
        self.errors = []
        # Otherwise a full pipe would block the server.
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def connect(self, **options):
        return peer.connect("127.0.0.1", self.port, **options)

    def end(self):
        """Requires an orderly end, and returns the counts of the last line."""
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise CheckFailed("the server does not end") from None
        self.reader.join()
        check_equal(self.process.returncode, 0, "the exit status")
        totals = self.process.stdout.read().splitlines()[-1]
        found = re.fullmatch(r"(\d+) connections, (\d+) computed, (\d+) panicked, (\d+) busy, (\d+) cancelled", totals)
        if not found:
            raise CheckFailed(f"the totals are {totals!r}")
        for line in self.errors:
            # The message of a panic in a job, and the line that the crate logs for it.
            if not re.search(r"^$|^thread 'offload-\d+' .*panicked|a request wants it|^note: run with|job", line.strip()):
                raise CheckFailed(f"the server printed {line!r}")
        return dict(zip(["connections", "computed", "panicked", "busy", "cancelled"], map(int, found.groups())))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.end()


class Results:
    """The replies that are correct."""

    LARGEST = 300_000

    def __init__(self):
        is_prime = bytearray([1]) * (self.LARGEST + 1)
        is_prime[:2] = b"\0\0"
        for number in range(2, int(self.LARGEST**0.5) + 1):
            if is_prime[number]:
                is_prime[number * number :: number] = bytes(len(range(number * number, self.LARGEST + 1, number)))
        self.counts, self.primes, count = [], [], 0
        for number, flag in enumerate(is_prime):
            count += flag
            self.counts.append(count)
            if flag:
                self.primes.append(number)

    def request(self, generator):
        """Returns a request and its reply."""
        kind = generator.random()
        if kind < 0.4:
            limit = generator.randrange(self.LARGEST)
            return b"primes %d\n" % limit, b"primes %d: %d\n" % (limit, self.counts[limit])
        if kind < 0.9:
            factors, product = [], 1
            while product < 10**9:
                factors.append(self.primes[int(len(self.primes) ** generator.random()) - 1])
                product *= factors[-1]
            listed = "".join(f" {factor}" for factor in sorted(factors))
            return b"factor %d\n" % product, f"factor {product}:{listed}\n".encode()
        if kind < 0.97:
            return generator.choice([b"\n", b"help\n", b"primes1\r\n", b"\xff\0\n"]), WRONG_REPLY
        return b"panic\n", PANICKED_REPLY


def read_to_end(sock):
    received = b""
    while chunk := sock.recv(1 << 16):
        received += chunk
    return received


def expect(sock, request, reply, what):
    sock.sendall(request)
    peer.receive_exactly(sock, reply, what)


def serves(server):
    with server.connect() as sock:
        expect(sock, b"factor 15\n", b"factor 15: 3 5\n", "a small request")


# --- Normal use ---------------------------------------------------------------------------------------


def check_nc(server, results, generator):
    requests = [results.request(generator) for _ in range(200)]
    sent, expected = (b"".join(parts) for parts in zip(*requests))
    command = ["nc", "-N", "127.0.0.1", str(server.port)]
    clients = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    threads = [threading.Thread(target=lambda client=client: setattr(client, "replies", client.communicate(sent, timeout=60)[0])) for client in clients]
    for thread in threads:
        thread.start()
    for thread, client in zip(threads, clients):
        thread.join()
        check_equal((client.returncode, client.replies == expected), (0, True), "the replies to nc")


def check_order(server, results, generator):
    """Clients on several threads, with more requests than one connection may have in work."""
    failures = []

    def run(seed):
        own = random.Random(seed)
        try:
            with server.connect() as sock:
                for _ in range(5):
                    requests = [results.request(own) for _ in range(own.randrange(1, 120))]
                    sock.sendall(b"".join(request for request, _ in requests))
                    for request, reply in requests:
                        peer.receive_exactly(sock, reply, f"the reply to {request!r}")
        except (CheckFailed, OSError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=[generator.random()]) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def check_fairness(program):
    """A client with many long requests delays another by at most one of them, not by all, and occupies one worker."""
    server = Server(program, "--workers", "2", "--pending", "50")
    with server.connect() as greedy, server.connect() as modest:
        greedy.sendall(LONG * 50)
        # Two of its requests never run at a time, so a worker is free.
        expect(modest, b"factor 15\n", b"factor 15: 3 5\n", "a reply beside many requests")
        greedy.setblocking(False)
        try:
            early = len(greedy.recv(1 << 16)) // len(LONG_REPLY)
        except BlockingIOError:
            early = 0
        if early > 25:
            raise CheckFailed(f"a small request waits for {early} long ones of another client")
        # With one worker left, other clients take turns with it.
        others = [server.connect() for _ in range(10)]
        for sock in others:
            sock.sendall(b"factor 15\n")
        for sock in others:
            peer.receive_exactly(sock, b"factor 15: 3 5\n", "a reply of ten")
            sock.close()
        peer.close_with_reset(greedy)
    serves(server)
    totals = server.stop()
    print(f"    fairness: {early} of 50 long requests preceded a small one; {totals['cancelled']} cancelled")
    # A request that a worker has begun ends after its connection, or with the loop.
    if totals["cancelled"] < 10 or not 50 + 12 - 1 <= totals["computed"] + totals["cancelled"] <= 50 + 12:
        raise CheckFailed(f"the requests of a client that has gone: {totals}")


def check_back_pressure(program):
    """A connection with four requests in work is not read; another connection is served."""
    server = Server(program, "--workers", "2", "--pending", "4")
    with server.connect() as sock:
        # One long job, then more than the kernel buffers, in small requests.
        flood = LONG * 4 + b"factor 15\n" * 2_000_000
        sock.setblocking(False)
        sent = 0
        while True:
            try:
                sent += sock.send(flood[sent : sent + (1 << 20)])
            except BlockingIOError:
                break
            if sent == len(flood):
                raise CheckFailed("the server reads 20 MB of requests at once")
        sock.setblocking(True)
        serves(server)
        if peer.resident_bytes(server.pid) > 64 * MIB:
            raise CheckFailed(f"{peer.resident_bytes(server.pid) >> 20} MiB are resident")
        peer.close_with_reset(sock)
    totals = server.stop()
    check_equal(totals["busy"], 0, "the refused requests of one connection")


def check_busy(program):
    """Requests beyond the queue have a reply, in order, and none is lost."""
    server = Server(program, "--workers", "2", "--queue", "3", "--pending", "8")
    socks = [server.connect() for _ in range(20)]
    for sock in socks:
        sock.sendall(b"primes 3000000\n" + b"factor 15\n" * 7)
        sock.shutdown(socket.SHUT_WR)
    busy = 0
    for sock in socks:
        replies = read_to_end(sock).splitlines()
        check_equal(len(replies), 8, "the replies of a connection")
        busy += replies.count(b"error: busy")
        check_equal(set(replies) <= {b"primes 3000000: 216816", b"factor 15: 3 5", b"error: busy"}, True, "replies")
        sock.close()
    totals = server.stop()
    check_equal((totals["busy"], totals["computed"] + totals["busy"], totals["cancelled"]), (busy, 160, 0), "the counts")
    if not busy:
        raise CheckFailed("a queue of 3 has refused nothing")


def check_stop(program):
    """A stop lets the accepted requests of all connections finish; a second signal ends at once."""
    server = Server(program, "--workers", "2", "--pending", "8", "--grace", "60")
    socks = [server.connect() for _ in range(5)]
    for sock in socks:
        sock.sendall(b"factor 15\n" + b"primes 2000000\n" * 7)
    for sock in socks:
        # The other requests came with this one.
        peer.receive_exactly(sock, b"factor 15: 3 5\n", "the first reply")
    server.process.send_signal(signal.SIGINT)
    for sock in socks:
        peer.receive_exactly(sock, b"primes 2000000: 148933\n" * 7, "the replies after a signal")
        peer.expect_end(sock, "a connection at a stop")
        sock.close()
    check_equal(server.end()["computed"], 40, "the computed requests")

    server = Server(program, "--workers", "1", "--pending", "100", "--grace", "3600")
    with server.connect() as sock:
        expect(sock, b"factor 15\n" + LONG * 99, b"factor 15: 3 5\n", "the first reply")
        server.process.send_signal(signal.SIGTERM)
        # The listener closes at the first signal.
        if not peer.wait_until(lambda: peer.refuses(server.port), 15):
            raise CheckFailed("a server that stops accepts connections")
        server.process.send_signal(signal.SIGTERM)
        computed = server.end()["computed"]
        if computed > 50:
            raise CheckFailed(f"{computed} of 100 requests were computed after a second signal")


def check_arguments(program):
    for arguments, status in [(["--help"], 0), (["--workers", "0"], 2), (["x"], 2), (["--listen", "0.0.0.1:1"], 1)]:
        result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20, check=False)
        check_equal(result.returncode, status, f"the status of {arguments}")
        output = result.stdout if status == 0 else result.stderr
        check_equal(output.count("usage: "), 0 if status == 1 else 1, f"the usage for {arguments}")
        check_equal(bool(output.strip()), True, f"the output for {arguments}")


# --- Abuse --------------------------------------------------------------------------------------------


def garbage(server, generator):
    for _ in range(200):
        sock = server.connect()
        start = generator.choice([b"", b"primes ", b"factor 1", LONG])
        try:
            sock.sendall(start + generator.randbytes(generator.randrange(3000)))
        except (BrokenPipeError, ConnectionResetError):
            pass
        peer.close_with_reset(sock) if generator.random() < 0.5 else sock.close()
    with server.connect() as sock:
        sock.sendall(b"factor 15\n" + b"x" * 1000)
        replies = read_to_end(sock)
        check_equal(replies, b"factor 15: 3 5\nerror: the line is longer than 64 bytes\n", "the replies to a long line")


def wrong_requests_behind_a_long_one(server, _):
    """Their replies wait in memory for the first one; at some number the connection is not read."""
    before = peer.resident_bytes(server.pid)
    count = 400_000
    with server.connect() as sock:
        sender = threading.Thread(target=sock.sendall, args=[LONG * 4 + b"\n" * count])
        sender.start()
        serves(server)
        taken = peer.resident_bytes(server.pid) - before
        if taken > 32 * MIB:
            raise CheckFailed(f"wrong requests take {taken >> 20} MiB")
        peer.receive_exactly(sock, LONG_REPLY * 4 + WRONG_REPLY * count, "the replies to wrong requests")
        sender.join()


def killed_clients(server, generator):
    for _ in range(100):
        sock = server.connect()
        sock.sendall(b"primes 100000\n" * generator.randrange(1, 30) + b"factor 1"[: generator.randrange(8)])
        peer.close_with_reset(sock) if generator.random() < 0.5 else sock.close()
    for _ in range(5):
        client = subprocess.Popen(["nc", "127.0.0.1", str(server.port)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        client.stdin.write(LONG * 10)
        client.stdin.flush()
        client.kill()
        client.wait()
        client.stdin.close()


def one_byte_at_a_time(server, _):
    with server.connect() as sock:
        for byte in b"primes 1000\r\nfactor 1001\n\n":
            sock.sendall(bytes([byte]))
            time.sleep(0.0005)
        peer.receive_exactly(sock, b"primes 1000: 168\nfactor 1001: 7 11 13\n" + WRONG_REPLY, "single bytes")


def half_close(server, _):
    """All replies arrive after the end of the input; an incomplete line has an error."""
    with server.connect() as sock:
        sock.sendall(b"primes 200000\n" * 100 + b"primes 2")
        sock.shutdown(socket.SHUT_WR)
        expected = b"primes 200000: 17984\n" * 100 + b"error: the line is incomplete\n"
        check_equal(read_to_end(sock) == expected, True, "the replies after a half-close")


def clients_that_do_not_read(server, _):
    before = peer.resident_bytes(server.pid)
    socks = [server.connect(receive_buffer=4096) for _ in range(20)]
    for sock in socks:
        sock.setblocking(False)
        try:
            while True:
                sock.send(b"\n" * 65536)
        except BlockingIOError:
            pass
    serves(server)
    peer.must_be_idle(server.pid, "no client reads")
    if peer.resident_bytes(server.pid) - before > 64 * MIB:
        raise CheckFailed("20 clients that do not read take more than 64 MiB")
    for sock in socks:
        peer.close_with_reset(sock)


def many_connections(server, generator):
    peer.allow_descriptors(CONNECTIONS)
    socks = [server.connect() for _ in range(CONNECTIONS)]
    for number, sock in enumerate(socks):
        sock.sendall(b"primes %d\n" % (30_000 + number))
    counts = Results.instance.counts
    for number, sock in enumerate(socks):
        reply = b"primes %d: %d\n" % (30_000 + number, counts[30_000 + number])
        peer.receive_exactly(sock, reply, "one of 1,000 connections")
    peer.must_be_idle(server.pid, f"{CONNECTIONS} connections are idle")
    for sock in socks:
        peer.close_with_reset(sock) if generator.random() < 0.5 else sock.close()


def check_abuse(server, generator):
    before = peer.open_descriptors(server.pid)
    for check in [
        garbage, wrong_requests_behind_a_long_one, killed_clients, one_byte_at_a_time, half_close,
        clients_that_do_not_read, many_connections,
    ]:
        started = time.monotonic()
        check(server, generator)
        serves(server)
        if not peer.wait_until(lambda: peer.open_descriptors(server.pid) <= before, 30):
            raise CheckFailed(f"{check.__name__}: {peer.open_descriptors(server.pid) - before} descriptors are left open")
        print(f"    {check.__name__.replace('_', ' ')}: {time.monotonic() - started:.1f} s", flush=True)
    peer.must_be_idle(server.pid, "all clients have left")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"  seed {options.seed}", flush=True)
    generator = random.Random(options.seed)
    Results.instance = results = Results()
    try:
        check_arguments(options.program)
        server = Server(options.program, "--threads", "2", "--workers", "2", "--queue", "4096")
        check_nc(server, results, generator)
        check_order(server, results, generator)
        print("    replies to nc and to 16 connections are correct and in order", flush=True)
        check_abuse(server, generator)
        print(f"    {server.stop()}", flush=True)
        for check in [check_fairness, check_back_pressure, check_busy, check_stop]:
            check(options.program)
    except (CheckFailed, OSError) as failure:
        sys.exit(f"offload.py: {failure} (seed {options.seed})")
    finally:
        for process in Server.started:
            if process.poll() is None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
