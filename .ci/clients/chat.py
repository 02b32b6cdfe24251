#!/usr/bin/env -S python3 -B
"""Guests of the chat example: all of a room receive a line, others do not, and one that does not read is removed.

usage: chat.py HOST PORT [--guests N] [--seed N]
"""

import peer

TEXT = "x" * 900


class Guest:
    def __init__(self, options, **buffers):
        self.sock = peer.connect(options.host, options.port, **buffers)
        self.input = self.sock.makefile("r", encoding="utf-8", newline="\n")

    def enter(self, name, room):
        self.say(f"/nick {name}")
        self.say(f"/join {room}")
        self.expect(f"* {name} is in {room}")

    def say(self, line):
        self.sock.sendall(f"{line}\n".encode())

    def line(self):
        line = self.input.readline()
        if not line:
            raise peer.CheckFailed("the connection of a guest has ended")
        return line.rstrip("\n")

    def expect(self, expected):
        """Skips lines until this one."""
        while self.line() != expected:
            pass


def check(options):
    rooms = ["garden", "kitchen"]
    guests = [Guest(options) for _ in range(options.guests)]
    for number, guest in enumerate(guests):
        guest.enter(f"g{number}", rooms[number % 2])
    for number, guest in enumerate(guests):
        guest.say(f"line {number}")
    # Each guest receives all lines of its room, each once, and none of the other room.
    for number, guest in enumerate(guests):
        expected = {f"g{other}: line {other}" for other in range(number % 2, options.guests, 2)}
        while expected:
            line = guest.line()
            if not line.startswith("*"):
                if line not in expected:
                    raise peer.CheckFailed(f"guest {number} received `{line}`")
                expected.remove(line)
    check_silent(options, guests[0])


def check_silent(options, talker):
    """A guest who does not read is removed, while another one talks and reads."""
    silent = Guest(options, receive_buffer=4096)
    silent.say("/nick silent")
    silent.say("/join garden")
    talker.expect("* silent is in garden")
    for _ in range(100_000):
        talker.say(TEXT)
        line = talker.line()
        while line != f"g0: {TEXT}":
            if line == "* silent has left":
                return
            line = talker.line()
    raise peer.CheckFailed("a guest who does not read was not removed")


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, guests=50))
