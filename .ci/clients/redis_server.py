#!/usr/bin/python3 -B
"""Checks the example redis: against redis-server, with redis-benchmark, redis-cli and the library redis, and with abuse.

usage: redis_server.py PROGRAM [--seed N]

Needs redis-server, redis-tools and python3-redis. Both servers listen on free loopback ports, with redis-server's files
in a temporary folder, and are ended by their process ids.
"""

import argparse
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import redis

import redis_compare
from memcached_servers import Server, read_to_end, start_example
from peer import (
    DEADLINE, CheckFailed, allow_descriptors, check_equal, close_with_reset, must_be_idle, open_descriptors, resident_bytes, wait_until,
)
from redis_compare import Replies, encode

MIB = 1 << 20
CONNECTIONS = 1000


@contextmanager
def start_reference():
    """Starts redis-server on a free port."""
    program = shutil.which("redis-server")
    if program is None:
        raise CheckFailed("redis-server is not installed")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        with Server("redis-server", command) as server:
            server.port = port

            def listens():
                try:
                    server.connect().close()
                    return True
                except OSError:
                    return False

            if not wait_until(listens, DEADLINE):
                raise CheckFailed("redis-server did not start")
            yield server


def compare(program, numbers):
    with start_example(program) as example, start_reference() as reference:
        alone = redis_compare.compare(example, reference, numbers, 3000, 1)
        batched = redis_compare.compare(example, reference, numbers, 400, 50)
        malformed = redis_compare.compare_malformed(example, reference)
        print(f"    {alone} single commands, {batched} in batches, {malformed} malformed: same replies", flush=True)
        example.stop()


# --- Clients --------------------------------------------------------------------------------------


def run(command, **options):
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)
    except FileNotFoundError:
        raise CheckFailed(f"{command[0]} is not installed") from None


def benchmark(server):
    """All default tests of redis-benchmark."""
    for pipelined, number in (("1", "1000"), ("16", "5000")):
        done = run(["redis-benchmark", "-p", str(server.port), "-n", number, "-q", "-P", pipelined])
        text = done.stdout.decode().replace("\r", "\n")
        tests = [line.split(":")[0] for line in text.splitlines() if "requests per second" in line]
        errors = done.stderr.decode() + text
        if done.returncode != 0 or "rror" in errors or len(tests) < 20:
            raise CheckFailed(f"redis-benchmark -P {pipelined} with {len(tests)} tests: {errors[-500:]}")
    print(f"    redis-benchmark: {len(tests)} tests", flush=True)


def command_line(server):
    def cli(*arguments, **options):
        return run(["redis-cli", "-p", str(server.port), *arguments], **options).stdout.decode()

    check_equal(cli("FLUSHALL"), "OK\n", "FLUSHALL")
    check_equal(cli("SET", "key", "a value"), "OK\n", "SET")
    check_equal(cli("--raw", "GET", "key"), "a value\n", "GET")
    check_equal(cli(input=b"RPUSH list a b c\nLRANGE list 0 -1\nINCR list\n"),
                "3\na\nb\nc\nWRONGTYPE Operation against a key holding the wrong kind of value\n\n", "commands of a pipe")
    check_equal(sorted(cli("--scan").split()), ["key", "list"], "redis-cli --scan")
    if "redis_version:7" not in cli("INFO"):
        raise CheckFailed("INFO without a version")
    many = b"".join(encode([b"SET", b"mass:%d" % n, b"%d" % n]) for n in range(10_000))
    if "replies: 10000" not in cli("--pipe", input=many):
        raise CheckFailed("redis-cli --pipe failed")
    check_equal(cli("DBSIZE"), "10002\n", "DBSIZE")
    large = random.randbytes(5_000_000)
    run(["redis-cli", "-p", str(server.port), "-x", "SET", "large"], input=large)
    with server.connect() as sock:
        sock.sendall(encode([b"GET", b"large"]))
        check_equal(Replies(sock).next()[1] == large, True, "a large value is equal")


def library(server):
    client = redis.Redis(port=server.port, socket_timeout=DEADLINE)
    client.flushall()
    check_equal(client.ping(), True, "ping")
    with client.pipeline(transaction=False) as pipeline:
        for number in range(1000):
            pipeline.hset("hash", f"field {number}", number)
            pipeline.zadd("scores", {f"member {number}": number / 4})
            pipeline.rpush("list", number)
            pipeline.set(f"key {number}", number, ex=1000)
        pipeline.execute()
    check_equal(len(client.hgetall("hash")), 1000, "hgetall")
    check_equal(client.zrange("scores", 0, 1, withscores=True), [(b"member 0", 0.0), (b"member 1", 0.25)], "zrange")
    check_equal(client.lrange("list", -2, -1), [b"998", b"999"], "lrange")
    check_equal(len(set(client.scan_iter("key *", count=17))), 1000, "scan")
    check_equal(900 <= client.ttl("key 5") <= 1000, True, "ttl")
    try:
        client.lpush("hash", 1)
        raise CheckFailed("no error for a wrong type")
    except redis.ResponseError as error:
        check_equal(str(error), "WRONGTYPE Operation against a key holding the wrong kind of value", "an error")
    client.set("short", 1, px=50)
    check_equal(wait_until(lambda: client.get("short") is None, DEADLINE), True, "expiry")
    check_equal(client.info()["redis_mode"], "standalone", "info")
    check_equal(client.config_get("maxmemory")["maxmemory"], str(256 * MIB), "config get")
    client.close()


# --- Abuse ----------------------------------------------------------------------------------------


def expect(sock, command, reply):
    sock.sendall(command)
    received = b""
    while len(received) < len(reply):
        chunk = sock.recv(len(reply) - len(received))
        if not chunk:
            break
        received += chunk
    if received != reply:
        raise CheckFailed(f"the reply to {command[:100]!r} is {received[:100]!r}")


def serves(server):
    with server.connect() as sock:
        expect(sock, b"SET alive x\r\nGET alive\r\n", b"+OK\r\n$1\r\nx\r\n")


def garbage(server, numbers):
    for _ in range(200):
        sock = server.connect()
        start = numbers.choice([b"", b"*", b"*3\r\n$", b"*2\r\n$3\r\nGET\r\n", b"SET a "])
        try:
            sock.sendall(start + numbers.randbytes(numbers.randrange(5000)))
        except (BrokenPipeError, ConnectionResetError):
            pass
        close_with_reset(sock) if numbers.random() < 0.5 else sock.close()
    serves(server)


def killed_clients(server, numbers):
    """Clients that disappear within a value or within its reply."""
    with server.connect() as sock:
        expect(sock, encode([b"SET", b"big", b"v" * MIB]), b"+OK\r\n")
    for _ in range(100):
        sock = server.connect()
        if numbers.random() < 0.5:
            sock.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$1000000\r\n" + b"w" * numbers.randrange(500_000))
        else:
            sock.sendall(b"GET big\r\n" * 50)
            sock.recv(numbers.randrange(1, 100_000))
        close_with_reset(sock)
    with server.connect() as sock:
        expect(sock, b"GET big\r\n", b"$%d\r\n%s\r\n" % (MIB, b"v" * MIB))


def one_byte_at_a_time(server, _):
    with server.connect() as sock:
        for byte in encode([b"SET", b"slow", b"hello\r\n"]) + b"GET slow\r\n":
            sock.sendall(bytes([byte]))
            time.sleep(0.0005)
        expect(sock, b"", b"+OK\r\n$7\r\nhello\r\n\r\n")


def half_close(server, _):
    with server.connect() as sock:
        sock.sendall(b"PING\r\n" * 1000 + b"*2\r\n$3\r\nGET\r\n")
        sock.shutdown(socket.SHUT_WR)
        received = read_to_end(sock)
    if not received.startswith(b"+PONG\r\n" * 1000):
        raise CheckFailed(f"after a half-close: {received[-100:]!r}")


def many_connections(server, _):
    allow_descriptors(CONNECTIONS)
    before = open_descriptors(server.pid)
    sockets = [server.connect() for _ in range(CONNECTIONS)]
    for index, sock in enumerate(sockets):
        sock.sendall(encode([b"SET", b"c%d" % index, b"%d" % index]) + encode([b"GET", b"c%d" % index]))
    for index, sock in enumerate(sockets):
        expect(sock, b"", b"+OK\r\n$%d\r\n%d\r\n" % (len(str(index)), index))
        sock.close()
    if not wait_until(lambda: open_descriptors(server.pid) <= before, DEADLINE):
        raise CheckFailed("connections were not closed")


def client_that_does_not_read(server, _):
    """Its replies are limited, and it costs no CPU time."""
    with server.connect() as sock:
        expect(sock, encode([b"SET", b"big", b"v" * MIB]), b"+OK\r\n")
        before = resident_bytes(server.pid)
        sock.settimeout(1)
        requests = 0
        try:
            while requests < 20_000:
                sock.sendall(b"GET big\r\n" * 100)
                requests += 100
        except TimeoutError:
            pass
        must_be_idle(server.pid, "a client does not read its replies")
        if resident_bytes(server.pid) > before + 64 * MIB:
            raise CheckFailed("a client that does not read costs more than 64 MiB")
    serves(server)


def declared_lengths(server, _):
    """A length that is announced must not reserve memory."""
    before = resident_bytes(server.pid)
    sockets = []
    for data in (b"*1048576\r\n", b"*2\r\n$3\r\nGET\r\n$200000000\r\nx", b"*1000000\r\n" + b"$0\r\n\r\n" * 1000):
        for _ in range(20):
            sock = server.connect()
            sock.sendall(data)
            sockets.append(sock)
    serves(server)
    if resident_bytes(server.pid) > before + 32 * MIB:
        raise CheckFailed("announced lengths cost more than 32 MiB")
    for sock in sockets:
        sock.close()


def memory_limit(program):
    """With 8 MiB, the server refuses more, and continues."""
    with start_example(program, "--max-memory", "8") as server:
        with server.connect() as sock:
            refused = 0
            replies = Replies(sock)
            for number in range(200):
                sock.sendall(encode([b"SET", b"key%d" % number, b"v" * 100_000]))
                refused += replies.next()[0].startswith(b"-OOM ")
            if not 100 < refused < 150:
                raise CheckFailed(f"{refused} of 200 values of 100 kB were refused with a limit of 8 MiB")
            sock.sendall(b"DEL key1\r\nSET key1 x\r\n")
            check_equal([replies.next()[0] for _ in range(2)], [b":1\r\n", b"+OK\r\n"], "after a removal")
            # The reply would be longer than the limit: the connection ends, and not the server.
            sock.sendall(encode([b"MGET", *[b"key2"] * 1000]))
            read_to_end(sock)
        with server.connect() as sock:
            sock.sendall(b"*2\r\n$4\r\nECHO\r\n$9000000\r\n")
            check_equal(read_to_end(sock), b"-ERR Protocol error: the command is longer than the limit of memory\r\n", "a long command")
        serves(server)
        if resident_bytes(server.pid) > 64 * MIB:
            raise CheckFailed("a limit of 8 MiB takes more than 64 MiB")
        server.stop()


def abuse(server, numbers):
    checks = [garbage, killed_clients, one_byte_at_a_time, half_close, many_connections, client_that_does_not_read, declared_lengths]
    for check in checks:
        check(server, numbers)
        serves(server)
    must_be_idle(server.pid, "no client is connected")
    print(f"    {', '.join(check.__name__.replace('_', ' ') for check in checks)}", flush=True)


def wrong_arguments(program):
    for arguments, status in ((["--listen", "x"], 2), (["--max-memory", "0"], 2), (["x"], 2), (["--help"], 0)):
        check_equal(run([program, *arguments]).returncode, status, f"the status with {arguments}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"  seed {options.seed}", flush=True)
    numbers = random.Random(options.seed)
    try:
        print("  compared with redis-server", flush=True)
        compare(options.program, numbers)
        with start_example(options.program) as server:
            print("  clients", flush=True)
            benchmark(server)
            command_line(server)
            library(server)
            print("  abuse", flush=True)
            abuse(server, numbers)
            print(f"    {server.stop().splitlines()[-1]}", flush=True)
        memory_limit(options.program)
        wrong_arguments(options.program)
    except (CheckFailed, OSError, redis.RedisError) as failure:
        sys.exit(f"redis_server.py: {failure} (seed {options.seed})")


if __name__ == "__main__":
    main()
