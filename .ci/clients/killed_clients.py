#!/usr/bin/env -S python3 -B
"""Clients that are killed during a transfer, while other clients still receive correct echoes.

usage: killed_clients.py HOST PORT [--victims 6] [--resets 12] [--seed N]

Half of the victims run nc, half run socat. Each receives an endless random stream as its input and is killed by
SIGKILL when enough bytes have been echoed. The resets are connections closed with SO_LINGER 0 while bytes are in
flight in both directions. Meanwhile, bystanders exchange blocks with the server. They must still be served
after the last victim has been killed.
"""

import contextlib
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import peer

BYSTANDERS = 8
ECHOED_BEFORE_KILL = 4 << 20
ROUNDS_AFTERWARDS = 20
BLOCK = 1 << 16


class Bystander:
    """A connection that exchanges random blocks with the server until an event is set."""

    def __init__(self, number, options, block):
        self.name = f"bystander {number}"
        self.sock = peer.connect(options.host, options.port)
        self.block = block
        self.cut = options.random.randrange(1, len(block))
        self.rounds = 0

    def run(self, stop):
        with self.sock:
            while not stop.is_set():
                # The length differs in each round, so that a lost or duplicated byte is detected.
                self.cut = 1 + (self.cut * 31) % (len(self.block) - 1)
                peer.round_trip(self.sock, self.block[: self.cut], self.name)
                self.rounds += 1


def kill_midway(command, block):
    """Writes to the client until enough bytes have been echoed, then kills it."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as victim:
        watchdog = threading.Timer(peer.DEADLINE, victim.kill)
        watchdog.start()
        feeder = threading.Thread(target=feed, args=(victim.stdin, block))
        feeder.start()
        try:
            back = 0
            while back < ECHOED_BEFORE_KILL:
                chunk = victim.stdout.read(BLOCK)
                if not chunk:
                    raise peer.CheckFailed(f"{command[0]} ended before it was killed, after {back} echoed bytes")
                back += len(chunk)
        finally:
            victim.kill()
            victim.wait()
            watchdog.cancel()
            feeder.join()


def feed(pipe, block):
    """Writes until the reader has ended."""
    with contextlib.suppress(BrokenPipeError):
        while True:
            pipe.write(block)


def reset_midway(options, block):
    """Resets a connection while both sides have unread bytes."""
    sock = peer.connect(options.host, options.port)
    sock.sendall(block)
    peer.receive_exactly(sock, block[:1000], "a connection about to be reset")
    peer.close_with_reset(sock)


def check(options):
    block = options.random.randbytes(BLOCK)
    commands = [["nc", options.host, str(options.port)], ["socat", "-", f"TCP:{options.host}:{options.port}"]]
    bystanders = [Bystander(number, options, block) for number in range(BYSTANDERS)]
    stop = threading.Event()
    with ThreadPoolExecutor(BYSTANDERS + options.victims) as pool:
        try:
            going_on = [pool.submit(bystander.run, stop) for bystander in bystanders]
            dying = [pool.submit(kill_midway, commands[n % 2], block) for n in range(options.victims)]
            for _ in range(options.resets):
                reset_midway(options, block)
            for death in dying:
                death.result()
            wait_for_more_rounds(bystanders, going_on)
        finally:
            stop.set()
        for bystander in going_on:
            bystander.result()
    rounds = sum(bystander.rounds for bystander in bystanders)
    print(f"    {options.victims} clients killed, {options.resets} reset; {rounds} correct round trips of others")


def wait_for_more_rounds(bystanders, going_on):
    """Requires that each bystander completes more round trips from now on."""
    goals = [bystander.rounds + ROUNDS_AFTERWARDS for bystander in bystanders]

    def all_there():
        failed = any(future.done() for future in going_on)
        return failed or all(b.rounds >= goal for b, goal in zip(bystanders, goals))

    if not peer.wait_until(all_there, peer.DEADLINE):
        raise peer.CheckFailed("a bystander was not served after the victims had been killed")


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, victims=6, resets=12))
