#!/usr/bin/python3 -B
"""Checks the example chat with nc, curl, the library websockets, Redis, HAProxy and Chromium, and with abuse.

usage: chat.py PROGRAM LOAD [--seed N] [--screenshots DIRECTORY]

LOAD is the program chat_load. Needs python3-websockets, netcat-openbsd, curl, redis-server, redis-tools, haproxy and
chromium. All servers listen on the loopback interface, and are ended by their process ids.
"""

import argparse
import random
import shutil
import sys

import chat_abuse
import chat_backplane
import chat_page
import chat_rooms
from peer import CheckFailed

PROGRAMS = ["nc", "curl", "redis-server", "redis-cli", "haproxy", "chromium"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("load")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--screenshots", help="where the pictures of the page are kept")
    options = parser.parse_args()
    print(f"  seed {options.seed}", flush=True)
    try:
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise CheckFailed(f"{program} is not installed")
        print("  rooms", flush=True)
        chat_rooms.check_all(options.program)
        print("  backplane", flush=True)
        chat_backplane.check_all(options.program)
        print("  page", flush=True)
        chat_page.check_all(options.program, options.screenshots)
        print("  abuse", flush=True)
        chat_abuse.check_all(options.program, options.load, random.Random(options.seed))
    except (CheckFailed, OSError) as failure:
        sys.exit(f"chat.py: {type(failure).__name__}: {failure} (seed {options.seed})")


if __name__ == "__main__":
    main()
