#!/usr/bin/env python3
"""Compares the example `http` with nginx: a file of 1 KiB, one loop and one worker.

    cargo build --profile bench -p integrations --bin http
    benches/http.py target/release/http [--seconds 4] [--rounds 5]

Needs nginx, wrk and h2load. The servers take turns, on CPU 0; the client is on CPU 1. For each load it prints the requests
per second, and the requests per second of the server's CPU time, which do not depend on the client or on other programs:
the median of the rounds, the range, and the ratio to nginx, as median and range of the ratios within a round. nginx runs
twice: as it is by default, where it opens the file for each request, and with its cache of open files.
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

LOADS = {
    "wrk, 64 connections": ["wrk", "-t1", "-c64", "-d{seconds}s", "{url}"],
    "wrk, 64 connections, 16 requests pipelined": ["wrk", "-t1", "-c64", "-d{seconds}s", "-s", "{script}", "{url}"],
    "h2load --h1, 64 connections": ["h2load", "--h1", "-t1", "-c64", "-D{seconds}", "{url}"],
}

PIPELINE = """init = function(args)
  local requests = {}
  for i = 1, 16 do requests[i] = wrk.format(nil, wrk.path) end
  pipeline = table.concat(requests)
end
request = function() return pipeline end
"""

NGINX = """daemon off; worker_processes 1; pid {folder}/{port}.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  include /etc/nginx/mime.types; default_type application/octet-stream; access_log off;
  sendfile on; tcp_nopush on; keepalive_requests 1000000000; {more}
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port} backlog=1024; root {root}; }}
}}
"""


class Server:
    def __init__(self, command, port):
        self.port = port
        self.process = subprocess.Popen(["taskset", "-c", "0", *command], stdout=subprocess.DEVNULL)
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
        """Of the process and its children: the worker of nginx is a child of its master."""
        pids = [self.process.pid]
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as children:
            pids += children.read().split()
        total = 0
        for pid in pids:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                fields = stat.read().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def measure(server, load, seconds, script):
    """Returns the requests per second, and per second of CPU time."""
    values = {"seconds": seconds, "script": script, "url": f"http://127.0.0.1:{server.port}/1k.txt"}
    command = [part.format(**values) for part in load]
    before, start = server.cpu_seconds(), time.monotonic()
    output = subprocess.run(["taskset", "-c", "1", *command], capture_output=True, text=True, check=True).stdout
    cpu, elapsed = server.cpu_seconds() - before, time.monotonic() - start
    if command[0] == "wrk":
        requests = int(re.search(r"(\d+) requests in", output).group(1))
        failed = re.search(r"Socket errors|Non-2xx", output)
    else:
        requests, failed = map(int, re.search(r"(\d+) succeeded, (\d+) failed", output).groups())
    if failed:
        sys.exit(f"{command[0]}: {output}")
    return requests / elapsed, requests / cpu


def summary(values):
    return f"{statistics.median(values):9,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratio(values, others):
    ratios = [value / other for value, other in zip(values, others)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", help="the program `http`")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # for the worker of nginx
        root = os.path.join(folder, "root")
        os.mkdir(root)
        with open(os.path.join(root, "1k.txt"), "w", encoding="ascii") as file:
            file.write("x" * 1024)
        os.utime(os.path.join(root, "1k.txt"), (1e9, 1e9))
        script = os.path.join(folder, "pipeline.lua")
        with open(script, "w", encoding="ascii") as file:
            file.write(PIPELINE)
        servers = {}
        caching = "open_file_cache max=1000; open_file_cache_valid 1s;"
        for name, more in [("nginx", ""), ("nginx, open_file_cache", caching)]:
            port, conf = free_port(), os.path.join(folder, f"{len(servers)}.conf")
            with open(conf, "w", encoding="ascii") as file:
                file.write(NGINX.format(folder=folder, port=port, root=root, more=more))
            servers[name] = Server(["nginx", "-p", folder, "-c", conf], port)
        port = free_port()
        servers["http"] = Server([options.program, "--root", root, "--listen", f"127.0.0.1:{port}"], port)
        try:
            for title, load in LOADS.items():
                results = {name: [] for name in servers}
                for _ in range(options.rounds):
                    for name, server in servers.items():
                        results[name].append(measure(server, load, options.seconds, script))
                print(title)
                for name, result in results.items():
                    rates, per_cpu = zip(*result)
                    base = list(zip(*results["nginx"]))
                    print(f"  {name:24} {summary(rates)}/s, {ratio(rates, base[0])} of nginx", end="; ")
                    print(f"{summary(per_cpu)} per CPU second, {ratio(per_cpu, base[1])}", flush=True)
        finally:
            for server in servers.values():
                server.stop()


main()
