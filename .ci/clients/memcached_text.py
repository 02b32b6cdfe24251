"""Random commands of the text protocol, whose replies must be those of memcached."""

import re
import time

from memcached_servers import read_to_end, send_in_pieces
from peer import CheckFailed

KEYS = [b"a", b"b", b"key", b"k" * 250, b"other-key", b"x:1", b"x:2", b"noreply"]
COUNTERS = [b"count1", b"count2", b"count3"]
# The reply to the last command of an exchange. No other command of an exchange has such a reply.
VERSION = re.compile(rb"^VERSION [^\r]*\r\n", re.M)
VERSIONED = re.compile(rb"^VALUE (\S+) (\d+) (\d+) (\d+)\r\n", re.M)
NUMBERS = [b"0", b"1", b"7", b"12345", b"4294967295", b"4294967296", b"-1", b"+5", b"x", b"1x", b"", b"0x10", b"\t9"]
LINES = [
    b"", b" ", b"x", b"get", b"gets", b"gat", b"gats", b"gat 0", b"gat x a", b"gats 0 ", b"set", b"set a", b"set a 0 0",
    b"set a 0 0 x", b"set a 0 0 -1", b"set a 0 0 2147483647", b"set a x 0 1", b"set a 0 x 1", b"set a 0 0 1 2 3",
    b"set a 0 0 x noreply", b"set " + b"k" * 251 + b" 0 0 1", b"cas a 0 0 1", b"cas a 0 0 1 x", b"cas a 0 0 1 1 noreply x",
    b"touch", b"touch a", b"touch a x", b"touch a 0 x y", b"touch " + b"k" * 251 + b" 0", b"incr", b"incr a", b"incr a x",
    b"incr a 1 2 3", b"incr a -1", b"incr a 18446744073709551616", b"incr " + b"k" * 251 + b" 1", b"decr a 1x", b"delete",
    b"delete a 1", b"delete a 0", b"delete a 0 noreply", b"delete a 1 noreply", b"delete a 0 1", b"delete a b c d",
    b"delete " + b"k" * 251, b"delete noreply", b"verbosity", b"verbosity x", b"verbosity 1", b"verbosity 1 noreply",
    b"verbosity noreply", b"verbosity 1 2 3", b"flush_all x", b"flush_all x noreply", b"flush_all 1 2 3", b"stats x",
    b"stats detail", b"stats detail x", b"GET a", b"unknown", b"unknown command", b"get  a", b" get a", b"get a ", b"get\ta",
    b"set a 0 0 1 noreply x", b"get a\0b", b"\0", b"get a\r", b"appendx a 0 0 1", b"sets a", b"g", b"gx a",
]


class Texts:
    """Makes commands. `{}` in a command stands for the version of an item that a server reported last."""

    def __init__(self, random):
        self.random = random

    def value(self):
        kind = self.random.random()
        if kind < 0.3:
            return b"%d" % self.random.choice([0, 1, 9, 10, 99, 1000, 2**32, 2**63, 2**64 - 1])
        if kind < 0.4:
            # memcached reads the number beyond the end of a value that is only white space.
            return self.random.choice([b"", b"\r\nz", b" 5", b"5 ", b"12 abc", b"+7", b"END\r\n", b"\0\xff\r", b"5\0x", b"7x"])
        # After an error the value is taken for commands. A line over 2048 bytes would end the connection.
        lines = b"0123456789" * 100 + b"\r\n"
        return self.random.choice([b"a", b"xy", b"a" * 100, b"0" * 1000, b"\n" * 9 + b"z", lines, lines * 5, lines * 20])

    def store(self, keys):
        name = self.random.choice([b"set", b"set", b"set", b"add", b"replace", b"append", b"prepend", b"cas"])
        value = self.value()
        flags = self.random.choice([b"0", b"0", b"1", b"4294967295"] + NUMBERS)
        exptime = self.random.choice([b"0", b"0", b"0", b"100", b"2592000", b"2592001", b"-1", b"4000000000", b"2000000000", b"x"])
        length = len(value)
        version = b" {}" if name == b"cas" else b""
        if name == b"cas" and self.random.random() < 0.3:
            version = b" " + self.random.choice(NUMBERS[:-2])
        noreply = self.random.choice([b"", b"", b"", b" noreply", b" extra"])
        key = self.random.choice(keys)
        data = value + b"\r\n"
        if self.random.random() < 0.05:
            # The rest of the value is a command then.
            length, data = max(0, length - 1), value + b"\r\n"
        elif self.random.random() < 0.05:
            length, data = length + 2, value + b"\r\nzz\r\n"
        return b"%s %s %s %s %d%s%s\r\n%s" % (name, key, flags, exptime, length, version, noreply, data)

    def command(self, is_alone):
        """A command. One that follows others directly has no reply that depends on whether these have been sent."""
        choice = self.random.random()
        if choice < 0.4:
            return self.store(KEYS)
        if choice < 0.65:
            name = self.random.choice([b"get", b"get", b"get", b"gets", b"gat 0", b"gats 100", b"gat -1", b"gat 3000000"])
            # Lines over 2048 bytes are permitted only for get and gets.
            is_plain = name.startswith(b"get")
            number = self.random.choice([1, 1, 1, 2, 5, 30, 100] if is_plain else [1, 1, 1, 2, 5])
            keys = self.random.choices(KEYS + [b"none", b"none2"], k=number)
            # This discards replies to earlier commands in memcached, and a gat of the keys before it has an effect.
            if is_alone and is_plain and self.random.random() < 0.03:
                keys.append(b"k" * 251)
            return name + b" " + b" ".join(keys) + b"\r\n"
        if choice < 0.85:
            key = self.random.choice(KEYS + COUNTERS if is_alone else COUNTERS)
            delta = self.random.choice([b"1", b"10", b"99", b"18446744073709551615"] + NUMBERS)
            noreply = self.random.choice([b"", b"", b"", b" noreply"])
            return b"%s %s %s%s\r\n" % (self.random.choice([b"incr", b"decr"]), key, delta, noreply)
        if choice < 0.88:
            return b"set %s 0 0 2\r\n10\r\n" % self.random.choice(COUNTERS)
        if choice < 0.93:
            end = self.random.choice([b"", b"", b" noreply"])
            return b"%s %s%s\r\n" % (self.random.choice([b"delete", b"touch"]), self.random.choice(KEYS), end)
        if choice < 0.94:
            return self.random.choice([b"flush_all\r\n", b"flush_all 0\r\n", b"flush_all noreply\r\n", b"flush_all -1\r\n"])
        if choice < 0.97:
            exptime = self.random.choice([b"0", b"-1", b"100", b"2592001", b"x"])
            return b"touch %s %s\r\n" % (self.random.choice(KEYS), exptime)
        line = self.random.choice(LINES)
        if line.startswith(b"GET") and not is_alone:
            return b""
        return line + self.random.choice([b"\r\n", b"\r\n", b"\n"])


def difference(commands, ours, theirs):
    """Describes the first difference of two replies."""
    at = next((at for at, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    shown = [reply[max(0, at - 40) : at + 80] for reply in (ours, theirs)]
    commands = [command[:300] for command in commands]
    return f"the replies to {commands!r} differ at {at}:\n{shown[0]!r}\n{shown[1]!r}"


class Peer:
    """A connection to one of the servers, and the version that it has reported last."""

    def __init__(self, server):
        self.server = server
        self.sock = server.connect()
        self.version = b"1"

    def exchange(self, commands, random):
        """Sends commands, and returns their replies up to that of a last command."""
        commands = commands.replace(b"{}", self.version) + b"version\r\n"
        send_in_pieces(self.sock, commands, random, random.choice([0, 0, 1, 3, 10]))
        received = b""
        while not VERSION.search(received[-64:]):
            try:
                chunk = self.sock.recv(1 << 20)
            except TimeoutError:
                raise CheckFailed(f"{self.server.name} sent no end after {commands[:300]!r}: {received[:300]!r}") from None
            if not chunk:
                raise CheckFailed(f"{self.server.name} closed the connection after {commands[:300]!r}")
            received += chunk
        for versioned in VERSIONED.finditer(received):
            self.version = versioned[4]
        received = VERSIONED.sub(rb"VALUE \1 \2 \3 version\r\n", received)
        return VERSION.sub(b"", received)


def compare(example, reference, random, rounds, batch):
    """Sends batches of commands to both servers, and compares all replies."""
    peers = [Peer(example), Peer(reference)]
    texts = Texts(random)
    sent = 0
    for peer in peers:
        peer.exchange(b"flush_all\r\n", random)
    for _ in range(rounds):
        commands = [texts.command(batch == 1) for _ in range(random.randint(1, batch))]
        sent += len(commands)
        ours, theirs = (peer.exchange(b"".join(commands), random) for peer in peers)
        if ours != theirs:
            raise CheckFailed(difference(commands, ours, theirs))
    return sent


def compare_closing(example, reference):
    """Requests after which the connection closes."""
    cases = [
        b"quit\r\n", b"quit now\r\nget a\r\n", b"set q 0 0 1\r\nx\r\nget q\r\nquit\r\n", b"GET / HTTP/1.1\r\n", b"version x\r\nversion\r\nquit\r\n",
        b"POST /path HTTP/1.0\r\n", b"x" * 5000, b"set " + b"k" * 5000, b" " * 200 + b"get " + b"k" * 5000,
    ]
    for case in cases:
        replies = []
        for server in (example, reference):
            with server.connect() as sock:
                sock.sendall(case)
                replies.append(VERSION.sub(b"VERSION\r\n", read_to_end(sock)))
        if replies[0] != replies[1]:
            raise CheckFailed(difference([case], *replies))
    return len(cases)


def compare_large(example, reference, random):
    """Values near the maximum, far from the size of memcached's header."""
    peers = [Peer(example), Peer(reference)]
    mib = 1 << 20
    steps = [b"set small 0 0 1\r\nx\r\n"]
    for length in [16 * 1024, 100_000, 600_000, mib - 1000, mib + 1, 3 * mib]:
        steps += [b"set large 3 0 %d\r\n%s\r\n" % (length, b"v" * length), b"get large\r\n", b"gets small large\r\n"]
    steps += [b"set large 0 0 600000\r\n%s\r\n" % (b"w" * 600_000), b"append large 0 0 600000\r\n%s\r\n" % (b"w" * 600_000)]
    steps += [b"get large large large\r\n", b"add large 0 0 %d\r\n%s\r\n" % (2 * mib, b"w" * 2 * mib), b"get large\r\n"]
    steps += [b"set large 0 0 %d noreply\r\n%s\r\n" % (2 * mib, b"w" * 2 * mib), b"get large\r\n"]
    keys = [b"many:%d" % number for number in range(5000)]
    steps += [b"".join(b"set %s 1 0 4 noreply\r\ndata\r\n" % key for key in keys), b"get " + b" ".join(keys) + b"\r\n"]
    steps += [b"gets " + b" ".join(keys[::2] + keys[1:100]) + b"\r\n"]
    for step in steps:
        ours, theirs = (peer.exchange(step, random) for peer in peers)
        if ours != theirs:
            raise CheckFailed(difference([step], ours, theirs))
    return len(steps)


def compare_times(example, reference, random):
    """Items that expire, and a flush in the future. Takes ten seconds, and is repeated if the machine was too slow."""
    for _ in range(20):
        number = compare_times_once(example, reference, random)
        if number is not None:
            return number
    raise CheckFailed("no commands in succession took less than a second")


def compare_times_once(example, reference, random):
    """Returns `None` if items may have expired before they were used."""
    peers = [Peer(example), Peer(reference)]
    now = int(time.time())
    parts = [
        [
            b"flush_all\r\n", b"set one 0 3 1\r\nx\r\n", b"set long 0 100 1\r\nx\r\n", b"set never 0 0 1\r\nx\r\n",
            b"set soon 0 %d 1\r\nx\r\n" % (now + 3), b"set later 0 %d 1\r\nx\r\n" % (now + 1000),
            b"set past 0 %d 1\r\nx\r\n" % (now - 1000), b"set t 0 100 1\r\nx\r\n", b"touch t 3\r\n", b"set g 0 3 1\r\nx\r\n",
            b"gat 100 g\r\n", b"set c 0 3 1\r\n5\r\n", b"incr c 1\r\n", b"set ap 0 3 1\r\nx\r\n", b"append ap 0 100 1\r\ny\r\n",
            b"get past\r\n",
        ],
        [
            b"get one long never soon later past t g c ap\r\n", b"add one 0 0 1\r\ny\r\n", b"replace t 0 0 1\r\ny\r\n", b"incr c 1\r\n",
            b"delete soon\r\n", b"touch ap 0\r\n", b"flush_all 3\r\n", b"get long never later g one\r\n",
        ],
        [
            b"get long never later g one\r\n", b"set after 0 0 1\r\nz\r\n", b"get after\r\n", b"flush_all 1000\r\n", b"get after\r\n",
            b"flush_all\r\n", b"get after\r\n",
        ],
    ]
    for number, steps in enumerate(parts):
        if number > 0:
            # Both clocks count whole seconds, from different moments.
            time.sleep(4.2)
        start = time.monotonic()
        replies = [[peer.exchange(step, random) for peer in peers] for step in steps]
        if time.monotonic() - start > 1:
            return None
        for step, (ours, theirs) in zip(steps, replies):
            if ours != theirs:
                raise CheckFailed(difference([step], ours, theirs))
    return sum(map(len, parts))
