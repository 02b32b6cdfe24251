#!/usr/bin/env python3
"""Compares the example `redis` with redis-server: the default tests of redis-benchmark, one loop and one thread.

    cargo build --profile bench --example redis
    benches/redis.py target/release/examples/redis [--requests 200000] [--rounds 5] [--pipeline 1,16] [--tests get,set]
                     [--cpus 1] [--busy-poll 30]

Needs redis-server and redis-benchmark. The servers take turns. For each test it prints the requests per second, and the
microseconds of the server's CPU time per request: the median of the rounds, the range, and the ratio to redis-server, as
median and range of the ratios within a round. redis-server runs without persistence and with one thread for I/O, which is
its default.

With `--cpus 1`, server and client share CPU 0. Then the requests per second depend on the work of both, as on a machine
whose processors are all in use. With `--cpus 2`, the default, the client is on CPU 1. Then it is the limit: the servers
are idle for a third of the time or more, and a client that sends to a server that sleeps has to wake it, which the faster
server causes more often. `--busy-poll` makes the example check for requests before it sleeps, which avoids that.
"""

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

# The names for the option `-t`, and how many tests redis-benchmark runs for each. Those of LRANGE begin with a LPUSH.
TESTS = ["ping_inline", "ping_mbulk", "set", "get", "incr", "lpush", "rpush", "lpop", "rpop", "sadd", "hset", "spop",
         "zadd", "zpopmin", "lrange_100", "lrange_300", "lrange_500", "lrange_600", "mset"]
# Their requests take longer.
FEWER = {"lrange_100": 4, "lrange_300": 10, "lrange_500": 16, "lrange_600": 20, "mset": 2}


class Server:
    def __init__(self, name, command, port):
        self.name, self.port = name, port
        self.process = subprocess.Popen(on_cpu(0, command), stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    sys.exit(f"{command[0]} does not listen")
                time.sleep(0.05)

    def cpu_seconds(self):
        """Of all its threads, in the resolution of the scheduler."""
        total = 0
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{task}/schedstat", encoding="ascii") as stat:
                total += int(stat.read().split()[0])
        return total / 1e9

    def command(self, *arguments):
        parts = [argument.encode() for argument in arguments]
        with socket.create_connection(("127.0.0.1", self.port), 60) as sock:
            sock.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            return sock.recv(1000)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def on_cpu(cpu, command):
    return ["taskset", "-c", str(cpu), *command]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def measure(server, test, requests, pipeline, keyspace, client_cpu):
    """Returns the requests per second, and the microseconds of CPU time per request."""
    server.command("FLUSHALL")
    if test.startswith("lrange"):
        # The list that redis-benchmark would fill in a test of its own, before the measurement.
        for _ in range(6):
            server.command("RPUSH", "mylist", *["xxx"] * 100)
        command = ["LRANGE", "mylist", "0", str(int(test.split("_")[1]) - 1)]
    else:
        command = ["-t", test]
        if test in ("lpop", "rpop"):
            for _ in range(requests // 10_000 + 1):
                server.command("RPUSH", "mylist", *["xxx"] * 10_000)
    options = ["-n", str(requests), "-P", str(pipeline), "-q", *(["-r", str(keyspace)] if keyspace else [])]
    before = server.cpu_seconds()
    run = on_cpu(client_cpu, ["redis-benchmark", "-p", str(server.port), *options, *command])
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    cpu = server.cpu_seconds() - before
    rates = re.findall(r": ([\d.]+) requests per second", output)
    if len(rates) != 1 or "rror" in output:
        sys.exit(f"redis-benchmark: {output}")
    return float(rates[0]), cpu / requests * 1e6


def summary(values, digits=0):
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratio(values, others):
    ratios = [value / other for value, other in zip(values, others)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", help="the program `redis`")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pipeline", default="1,16", help="the numbers of pipelined requests")
    parser.add_argument("--tests", default=",".join(TESTS))
    parser.add_argument("--keyspace", type=int, default=0, help="the number of random keys; default: one key")
    parser.add_argument("--cpus", type=int, choices=(1, 2), default=2, help="of server and client together")
    parser.add_argument("--busy-poll", type=int, default=0, help="the option of the example")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        servers = []
        try:
            port = free_port()
            command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no", "--io-threads", "1"]
            servers.append(Server("redis-server", command, port))
            port = free_port()
            command = [options.program, "--listen", f"127.0.0.1:{port}", "--max-memory", "1024", "--busy-poll", str(options.busy_poll)]
            servers.append(Server("the example", command, port))
            for pipeline in map(int, options.pipeline.split(",")):
                for test in options.tests.split(","):
                    requests = max(options.requests // FEWER.get(test, 1) // (1 if pipeline > 1 else 4), 1000)
                    results = {server.name: [] for server in servers}
                    for _ in range(options.rounds):
                        for server in servers:
                            results[server.name].append(measure(server, test, requests, pipeline, options.keyspace, options.cpus - 1))
                    (rates, costs), (own_rates, own_costs) = (zip(*results[server.name]) for server in servers)
                    print(f"-P {pipeline} {test}: {summary(rates)} requests/s of redis-server, {summary(own_rates)} of the example, "
                          f"ratio {ratio(own_rates, rates)}; CPU {summary(costs, 2)} us and {summary(own_costs, 2)} us per request, "
                          f"ratio {ratio(costs, own_costs)}", flush=True)
        finally:
            for server in servers:
                server.stop()


main()
