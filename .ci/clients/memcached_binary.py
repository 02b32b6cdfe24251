"""Random requests of the binary protocol, whose responses must be those of memcached."""

import struct

from memcached_servers import read_to_end, send_in_pieces
from peer import CheckFailed

HEADER = struct.Struct(">BBHBBHI4sQ")
KEYS = [b"a", b"b", b"k" * 250, b"bin\0ary", b"with space"]
COUNTERS = [b"count1", b"count2"]
NOOP, STAT, VERSION = 0x0A, 0x10, 0x0B
GETS = [0x00, 0x09, 0x0C, 0x0D]
STORES = [0x01, 0x02, 0x03, 0x11, 0x12, 0x13]
PARTS = [0x0E, 0x0F, 0x19, 0x1A]
COUNTS = [0x05, 0x06, 0x15, 0x16]
TOUCHES = [0x1C, 0x1D, 0x1E, 0x23, 0x24]
VALUES = [b"", b"x", b"abc", b"0", b"9", b"10", b"12 z", b"18446744073709551615", b"v" * 100, b"\r\n\0" * 500, b"w" * 20000]
# Version numbers in requests: none, that of the item which the server reported last, and a wrong one.
NONE, LAST, WRONG = range(3)


def packet(opcode, extras=b"", key=b"", value=b"", opaque=b"\0\0\0\0", cas=0):
    body = len(extras) + len(key) + len(value)
    return HEADER.pack(0x80, opcode, len(key), len(extras), 0, 0, body, opaque, cas) + extras + key + value


class Requests:
    """Makes requests: a function of the version to use, and its opaque bytes."""

    def __init__(self, random):
        self.random = random

    def request(self, is_alone):
        random = self.random
        choice = random.random()
        key = random.choice(KEYS)
        extras = value = b""
        cas = random.choice([NONE, NONE, NONE, LAST, WRONG])
        exptime = random.choice([0, 0, 0, 100, 2592000, 2592001, 2000000000, 0xFFFFFFFF])
        if choice < 0.25:
            opcode = random.choice(GETS)
            cas = NONE
        elif choice < 0.5:
            opcode, value = random.choice(STORES), random.choice(VALUES)
            extras = struct.pack(">II", random.choice([0, 1, 0xFFFFFFFF]), exptime)
        elif choice < 0.6:
            opcode, value = random.choice(PARTS), random.choice(VALUES[:8])
        elif choice < 0.78:
            opcode = random.choice(COUNTS)
            # A counter that is being sent gets another length when it shrinks.
            key = random.choice(KEYS + COUNTERS if is_alone else COUNTERS)
            delta = random.choice([0, 1, 99, 2**64 - 1])
            extras = struct.pack(">QQI", delta, random.choice([0, 5, 2**64 - 1]), random.choice([0, 100, 0xFFFFFFFF]))
        elif choice < 0.86:
            opcode = random.choice(TOUCHES)
            extras = struct.pack(">I", exptime)
        elif choice < 0.94:
            opcode = random.choice([0x04, 0x14])
        elif choice < 0.96:
            opcode, key, cas = random.choice([0x08, 0x18]), b"", NONE
            extras = random.choice([b"", struct.pack(">I", 0)])
        else:
            # What follows the header of an unknown request is skipped.
            opcode, key, cas = random.choice([NOOP, VERSION, 0x1B, 0x20, 0x30, 0x50, 0xFF, STAT]), b"", NONE
            value = b"skipped" if opcode in (0x1B, 0x30, 0x50, 0xFF) else b""
            if opcode == STAT:
                key = random.choice([b"reset", b"none", b"detail x"])
        opaque = bytes(random.choices(range(256), k=4))
        return lambda version: packet(opcode, extras, key, value, opaque, (0, version, 2**40)[cas])


class Peer:
    """A connection to one of the servers, and the version that it has reported last."""

    def __init__(self, server):
        self.server = server
        self.sock = server.connect()
        self.version = 1

    def receive(self, length):
        received = b""
        while len(received) < length:
            try:
                chunk = self.sock.recv(length - len(received))
            except TimeoutError:
                raise CheckFailed(f"{self.server.name} does not respond") from None
            if not chunk:
                raise CheckFailed(f"{self.server.name} closed the connection")
            received += chunk
        return received

    def exchange(self, requests, random):
        """Sends requests, and returns their responses: the header, with 1 in the place of a version, and the body."""
        end = b"end!"
        data = b"".join(request(self.version) for request in requests) + packet(NOOP, opaque=end)
        send_in_pieces(self.sock, data, random, random.choice([0, 0, 1, 3, 10]))
        responses = []
        while True:
            fields = list(HEADER.unpack(self.receive(HEADER.size)))
            body = self.receive(fields[6])
            if fields[1] == NOOP and fields[7] == end:
                return responses
            if fields[8] != 0:
                self.version, fields[8] = fields[8], 1
            if fields[1] == VERSION:
                fields[6], body = 0, b""
            responses.append((*fields, body))


def compare(example, reference, random, rounds, batch):
    """Sends batches of requests to both servers, and compares all responses. Returns the number of requests."""
    peers = [Peer(example), Peer(reference)]
    makes = Requests(random)
    sent = 0
    for peer in peers:
        peer.exchange([lambda _: packet(0x08)], random)
    for _ in range(rounds):
        requests = [makes.request(batch == 1) for _ in range(random.randint(1, batch))]
        sent += len(requests)
        ours, theirs = (peer.exchange(requests, random) for peer in peers)
        if ours != theirs:
            shown = [request(0)[:80] for request in requests]
            pairs = [(a, b) for a, b in zip(ours, theirs) if a != b][:1]
            raise CheckFailed(f"the responses to {shown[:3]!r} differ: {len(ours)}, {len(theirs)}, {pairs!r}"[:2000])
    return sent


def compare_closing(example, reference):
    """Requests after which the connection closes."""
    store = struct.pack(">II", 0, 0)
    header = HEADER.pack(0x80, 0x00, 10, 0, 0, 0, 5, b"abcd", 0)
    cases = [
        packet(0x07), packet(0x17), packet(0x07) + packet(NOOP), packet(0x01, store, b"a", b"x") + packet(0x17),
        packet(0x07, value=b"x"), packet(NOOP, key=b"a"), packet(0x00), packet(0x00, b"1234", b"a"), packet(0x01, b"", b"a", b"x"),
        packet(0x01, store, b"", b"x"), packet(0x05, b"1234", b"a"), packet(0x1C, b"", b"a"), packet(0x08, b"12", b""),
        packet(0x0E, b"1234", b"a"), packet(0x10, b"1234"), packet(0x00, b"", b"k" * 251), packet(0x20, b"", b"k"), header + b"a" * 10,
        packet(0x04, b"", b""), packet(0x21, b"", b""),
    ]
    for case in cases:
        replies = []
        for server in (example, reference):
            with server.connect() as sock:
                sock.sendall(case)
                replies.append(read_to_end(sock))
        if replies[0] != replies[1]:
            raise CheckFailed(f"the responses to {case[:60]!r} differ:\n{replies[0][:200]!r}\n{replies[1][:200]!r}")
    # What is no request of this protocol ends the connection too, without a response.
    for server in (example, reference):
        with server.connect() as sock:
            sock.sendall(packet(NOOP))
            if len(sock.recv(100)) != HEADER.size:
                raise CheckFailed(f"{server.name}: no response")
            sock.sendall(b"get a\r\n" + b" " * 20)
            if read_to_end(sock):
                raise CheckFailed(f"{server.name} replies to a text command on a binary connection")
    return len(cases) + 1


def compare_large(example, reference, random):
    """Values that are large or too large."""
    peers = [Peer(example), Peer(reference)]
    store = struct.pack(">II", 5, 0)
    steps = []
    for length in [16 * 1024, 100_000, 600_000, (1 << 20) - 1000, (1 << 20) + 1]:
        steps += [(0x01, store, b"large", b"v" * length), (0x00, b"", b"large", b""), (0x0C, b"", b"large", b"")]
    steps += [(0x12, store, b"large", b"v" * (2 << 20)), (0x01, store, b"large", b"v" * 600_000)]
    steps += [(0x0E, b"", b"large", b"v" * 600_000), (0x19, b"", b"large", b"v" * 1000), (0x00, b"", b"large", b""), (0x0A, b"", b"", b"")]
    for step in steps:
        ours, theirs = (peer.exchange([lambda _: packet(*step)], random) for peer in peers)
        if ours != theirs:
            raise CheckFailed(f"the responses to {step[0]:#x} with {len(step[3])} bytes differ: {ours!r:.300}, {theirs!r:.300}")
    return len(steps)
