#!/usr/bin/env -S python3 -B
"""Many concurrent connections, whose messages are split at random points and interleaved.

usage: interleave.py HOST PORT [--connections 1000] [--seed N]

Each connection sends several messages as fragments, which are independent of the message boundaries. Each step
sends on randomly selected connections and reads the echoes that have arrived. Each connection must receive exactly
the bytes that it sent and, after its half-close, the end of the stream.
"""

import selectors
import socket
import time

import peer

LARGEST_MESSAGE = 8192
FRAGMENTS_A_STEP = 64


class Conversation:
    """One connection: its data, where it is split, and the progress of each direction."""

    def __init__(self, number, options):
        draw = options.random
        self.name = f"connection {number}"
        lengths = [1 + int(LARGEST_MESSAGE * draw.random() ** 3) for _ in range(draw.randint(3, 6))]
        self.data = draw.randbytes(sum(lengths))
        cuts = min(len(self.data) - 1, draw.randint(len(lengths), 3 * len(lengths)))
        self.ends = sorted(draw.sample(range(1, len(self.data)), cuts)) + [len(self.data)]
        self.sent = 0
        self.received = 0
        self.sock = peer.connect(options.host, options.port)
        self.sock.setblocking(False)

    def send_fragment(self):
        """Sends up to the next cut, as much as the kernel accepts. Returns whether everything has been sent."""
        try:
            self.sent += self.sock.send(self.data[self.sent : self.ends[0]])
        except BlockingIOError:
            return False
        if self.sent == self.ends[0]:
            self.ends.pop(0)
        if self.ends:
            return False
        self.sock.shutdown(socket.SHUT_WR)
        return True

    def receive(self):
        """Reads and compares the available bytes. Returns whether the stream has ended after the last byte."""
        chunk = self.sock.recv(65536)
        if not chunk:
            if self.received < len(self.data):
                raise peer.CheckFailed(f"{self.name}: ended after {self.received} of {len(self.data)} bytes")
            return True
        if chunk != self.data[self.received : self.received + len(chunk)]:
            raise peer.CheckFailed(f"{self.name}: a wrong byte after {self.received} bytes")
        if self.received + len(chunk) > self.sent:
            raise peer.CheckFailed(f"{self.name}: more bytes received than sent")
        self.received += len(chunk)
        return False


def check(options):
    peer.allow_descriptors(options.connections)
    conversations = [Conversation(number, options) for number in range(options.connections)]
    selector = selectors.DefaultSelector()
    for conversation in conversations:
        selector.register(conversation.sock, selectors.EVENT_READ, conversation)
    sending = list(conversations)
    open_count = len(conversations)
    last_progress = time.monotonic()
    while open_count:
        send_some(sending, options.random)
        for key, _ in selector.select(0 if sending else 0.5):
            last_progress = time.monotonic()
            if key.data.receive():
                selector.unregister(key.fileobj)
                key.fileobj.close()
                open_count -= 1
        if time.monotonic() - last_progress > peer.DEADLINE:
            raise peer.CheckFailed(f"{open_count} connections received nothing for {peer.DEADLINE:.0f} s")
    total = sum(len(conversation.data) for conversation in conversations)
    print(f"    {options.connections} connections, {total} bytes, all echoed unchanged")


def send_some(sending, draw):
    """Sends one fragment on each of a few random connections. Removes those that have sent everything."""
    for _ in range(min(FRAGMENTS_A_STEP, len(sending))):
        at = draw.randrange(len(sending))
        if sending[at].send_fragment():
            sending[at] = sending[-1]
            sending.pop()


if __name__ == "__main__":
    peer.run(check, peer.arguments(__doc__, connections=1000))
