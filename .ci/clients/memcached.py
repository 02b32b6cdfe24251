#!/usr/bin/python3
"""Checks the example memcached: against the memcached of Debian, with client libraries and programs, and with abuse.

usage: memcached.py PROGRAM [--seed N]

Needs memcached, libmemcached-tools, python3-pymemcache, python3-memcache and python3-pylibmc. Both servers listen on free
loopback ports, and are ended by their process ids.
"""

import argparse
import random
import sys

import memcached_abuse
import memcached_binary
import memcached_clients
import memcached_text
from memcached_servers import start_example, start_reference
from peer import CheckFailed


def compare(program, numbers):
    """The same commands to both servers. Byte for byte, except for versions of items and of the server."""
    with start_example(program, "--threads", "2", "--memory-limit", "256") as example, start_reference("-t", "1", "-m", "256") as reference:
        for name, protocol in (("text", memcached_text), ("binary", memcached_binary)):
            alone = protocol.compare(example, reference, numbers, 1500, 1)
            batched = protocol.compare(example, reference, numbers, 150, 40)
            closing = protocol.compare_closing(example, reference)
            large = protocol.compare_large(example, reference, numbers)
            print(f"    {name}: {alone} single commands, {batched} in batches, {closing} that close, {large} large: same replies", flush=True)
        print(f"    expiry times: {memcached_text.compare_times(example, reference, numbers)} commands, same replies", flush=True)
        example.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"  seed {options.seed}", flush=True)
    numbers = random.Random(options.seed)
    try:
        print("  compared with memcached", flush=True)
        compare(options.program, numbers)
        with start_example(options.program, "--threads", "2") as server:
            print("  clients", flush=True)
            memcached_clients.check_all(server.port)
            print("  abuse", flush=True)
            memcached_abuse.check_all(server, numbers)
            print(f"    {server.stop().splitlines()[-1]}", flush=True)
        with start_example(options.program) as server:
            memcached_abuse.memory_limit(server, numbers)
            print(f"    {server.stop().splitlines()[-1]}", flush=True)
    except (CheckFailed, OSError) as failure:
        sys.exit(f"memcached.py: {failure} (seed {options.seed})")


if __name__ == "__main__":
    main()
