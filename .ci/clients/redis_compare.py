"""Random commands to the example redis and to redis-server. The replies must be equal, byte for byte.

Where Redis has no order, as in SMEMBERS, the elements are sorted before. The servers receive a command at different
times. So times to live may differ by that, and times of expiry are compared (GT, LT) only if they are far apart. No key
is set with a time in the past: when Redis removes it, and no longer counts it, depends on its own timer.
"""

from memcached_servers import read_to_end, send_in_pieces
from peer import CheckFailed

KEYS = [b"a", b"b", b"c", b"key:with:a:long:name:of:more:than:22:bytes", b"\x00\r\n\xff"]
# Commands whose replies have no order, with the number of strings that belong together.
UNORDERED = {b"SMEMBERS": 1, b"HGETALL": 2, b"HKEYS": 1, b"HVALS": 1, b"KEYS": 1, b"SPOP": 1}
TIMES = {b"TTL", b"PTTL"}
# Less than the difference between any two of the generated times.
MAX_MILLISECONDS_APART = 50_000


class Replies:
    """Reads replies from a connection: each as its bytes, and decoded."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b""

    def fill(self):
        try:
            chunk = self.sock.recv(1 << 16)
        except TimeoutError:
            raise CheckFailed(f"no further reply after {self.buffer[-100:]!r}") from None
        if not chunk:
            raise CheckFailed(f"the connection ended after {self.buffer[-100:]!r}")
        self.buffer += chunk

    def line(self, at):
        while (end := self.buffer.find(b"\r\n", at)) < 0:
            self.fill()
        return self.buffer[at:end], end + 2

    def value(self, at):
        """Decodes the value at an offset. Returns it and the offset after it."""
        line, at = self.line(at)
        kind, rest = line[:1], line[1:]
        if kind in (b"+", b"-", b":"):
            return line, at
        length = int(rest)
        if length < 0:
            return None, at
        if kind == b"$":
            while len(self.buffer) < at + length + 2:
                self.fill()
            return self.buffer[at : at + length], at + length + 2
        if kind != b"*":
            raise CheckFailed(f"not a reply: {line!r}")
        values = []
        for _ in range(length):
            value, at = self.value(at)
            values.append(value)
        return values, at

    def next(self):
        value, end = self.value(0)
        raw, self.buffer = self.buffer[:end], self.buffer[end:]
        return raw, value


def encode(arguments):
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in arguments)


def encode_inline(arguments):
    def quoted(part):
        return b'"' + b"".join(b"\\x%02x" % byte for byte in part) + b'"'

    return b" ".join(part if part.isalnum() else quoted(part) for part in arguments) + b"\r\n"


class Generator:
    """Generates commands. Most fit the types of their keys, since each key starts with one letter of its type."""

    def __init__(self, random):
        self.random = random

    def key(self, kind):
        if self.random.random() < 0.03:
            kind = self.random.choice(b"slthz")
        return bytes([kind]) + self.random.choice(KEYS)

    def text(self):
        random = self.random
        match random.randrange(12):
            case 0:
                return b""
            case 1:
                return random.randbytes(random.randrange(200))
            case 2:
                return b"%d" % random.randrange(-(1 << 63), 1 << 63)
            case 3:
                return random.choice([b"01", b"+1", b"-0", b" 1", b"1.5", b"9223372036854775807", b"-9223372036854775808"])
            case _:
                return b"%d" % random.randrange(20)

    def member(self):
        return b"m%d" % self.random.randrange(12) if self.random.random() < 0.9 else self.text()

    def index(self):
        return b"%d" % self.random.randrange(-6, 7) if self.random.random() < 0.97 else self.text()

    def score(self):
        random = self.random
        match random.randrange(10):
            case 0:
                return random.choice([b"inf", b"-inf", b"+inf", b"nan", b"x", b"1e400", b"1e-400", b".5", b"5.", b"1e5"])
            case 1 | 2:
                return repr(random.uniform(-1e3, 1e3)).encode()
            case 3:
                return repr(random.choice([0.1, 1e17, 1e-7, 2.5e300, 123456789012345678.0])).encode()
            case _:
                return b"%d" % random.randrange(-10, 10)

    def some(self, make, most=4):
        return [make() for _ in range(self.random.randrange(1, most))]

    def pairs(self, one, other):
        return [part for _ in range(self.random.randrange(1, 4)) for part in (one(), other())]

    def options(self, *words):
        return [self.random.choice(words) for _ in range(self.random.randrange(3))]

    def command(self):
        """The name and the arguments of a random command."""
        family = self.random.choice([self.string, self.list, self.set, self.hash, self.sorted, self.generic])
        name, *arguments = family()
        if self.random.random() < 0.01 and name not in (b"COMMAND", b"SPOP"):
            arguments = arguments[:-1] if self.random.random() < 0.5 else [*arguments, self.text()]
        if self.random.random() < 0.05:
            name = name.lower()
        return [name, *arguments]

    def string(self):
        key, random = self.key(ord("s")), self.random
        seconds = random.choice([b"100", b"100", b"0", b"-1", b"x", b"9223372036854775807"])
        time = b"4000000000" if seconds == b"100" else seconds
        return random.choice([
            lambda: [b"SET", key, self.text()],
            lambda: [b"SET", key, self.text(), *self.options(b"NX", b"XX", b"GET", b"KEEPTTL", b"nx", b"ZZ")],
            lambda: [b"SET", key, self.text(), *random.choice([[b"EX", seconds], [b"PX", b"100000"], [b"PX", b"0"], [b"EXAT", time]]), *self.options(b"NX", b"XX", b"KEEPTTL")],
            lambda: [b"SETEX", key, seconds, self.text()],
            lambda: [b"PSETEX", key, random.choice([b"100000", b"0"]), self.text()],
            lambda: [b"SETNX", key, self.text()],
            lambda: [b"GET", key],
            lambda: [b"GETSET", key, self.text()],
            lambda: [b"GETDEL", key],
            lambda: [b"MGET", *self.some(lambda: self.key(ord("s")))],
            lambda: [b"MSET", *self.pairs(lambda: self.key(ord("s")), self.text)],
            lambda: [b"MSETNX", *self.pairs(lambda: self.key(ord("s")), self.text)],
            lambda: [b"APPEND", key, self.text()],
            lambda: [b"STRLEN", key],
            lambda: [b"INCR", key],
            lambda: [b"DECR", key],
            lambda: [b"INCRBY", key, self.text()],
            lambda: [b"DECRBY", key, self.text()],
            lambda: [b"GETRANGE", key, self.index(), self.index()],
            lambda: [b"SETRANGE", key, self.index(), self.text()],
        ])()

    def list(self):
        key, random = self.key(ord("l")), self.random
        count = [random.choice([b"0", b"1", b"2", b"5", b"-1", b"x"])] if random.random() < 0.3 else []
        return random.choice([
            lambda: [random.choice([b"LPUSH", b"RPUSH", b"LPUSHX", b"RPUSHX"]), key, *self.some(self.member)],
            lambda: [random.choice([b"LPUSH", b"RPUSH"]), key, *self.some(self.text, 10)],
            lambda: [random.choice([b"LPOP", b"RPOP"]), key, *count],
            lambda: [b"LRANGE", key, self.index(), self.index()],
            lambda: [b"LLEN", key],
            lambda: [b"LINDEX", key, self.index()],
            lambda: [b"LSET", key, self.index(), self.text()],
            lambda: [b"LREM", key, self.index(), self.member()],
            lambda: [b"LTRIM", key, self.index(), self.index()],
        ])()

    def set(self):
        key, random = self.key(ord("t")), self.random
        return random.choice([
            lambda: [b"SADD", key, *self.some(self.member, 6)],
            lambda: [b"SREM", key, *self.some(self.member)],
            lambda: [b"SCARD", key],
            lambda: [b"SISMEMBER", key, self.member()],
            lambda: [b"SMISMEMBER", key, *self.some(self.member)],
            lambda: [b"SMEMBERS", key],
            # Random members would differ, so all of them are popped.
            lambda: [b"SPOP", key, random.choice([b"0", b"1000", b"1000", b"-1", b"x"])],
        ])()

    def hash(self):
        key, random = self.key(ord("h")), self.random
        return random.choice([
            lambda: [random.choice([b"HSET", b"HMSET"]), key, *self.pairs(self.member, self.text)],
            lambda: [b"HSETNX", key, self.member(), self.text()],
            lambda: [b"HGET", key, self.member()],
            lambda: [b"HMGET", key, *self.some(self.member)],
            lambda: [random.choice([b"HGETALL", b"HKEYS", b"HVALS"]), key],
            lambda: [b"HDEL", key, *self.some(self.member)],
            lambda: [b"HLEN", key],
            lambda: [random.choice([b"HEXISTS", b"HSTRLEN"]), key, self.member()],
            lambda: [b"HINCRBY", key, self.member(), self.text()],
        ])()

    def sorted(self):
        key, random = self.key(ord("z")), self.random
        count = [random.choice([b"0", b"1", b"3", b"-1", b"x"])] if random.random() < 0.3 else []
        bound = lambda: random.choice([b"", b"("]) + self.score()
        return random.choice([
            lambda: [b"ZADD", key, *self.options(b"NX", b"XX", b"GT", b"LT", b"CH"), *self.pairs(self.score, self.member)],
            lambda: [b"ZADD", key, *self.options(b"INCR", b"XX", b"NX", b"GT"), self.score(), self.member()],
            lambda: [b"ZADD", key, *self.pairs(self.score, self.member)],
            lambda: [b"ZINCRBY", key, self.score(), self.member()],
            lambda: [b"ZREM", key, *self.some(self.member)],
            lambda: [b"ZCARD", key],
            lambda: [random.choice([b"ZSCORE", b"ZRANK", b"ZREVRANK"]), key, self.member()],
            lambda: [b"ZMSCORE", key, *self.some(self.member)],
            lambda: [b"ZRANGE", key, self.index(), self.index(), *self.options(b"WITHSCORES", b"REV", b"withscores")],
            lambda: [b"ZREVRANGE", key, self.index(), self.index(), *self.options(b"WITHSCORES")],
            lambda: [b"ZCOUNT", key, bound(), bound()],
            lambda: [random.choice([b"ZPOPMIN", b"ZPOPMAX"]), key, *count],
        ])()

    def any_key(self):
        return self.key(self.random.choice(b"slthz"))

    def generic(self):
        random = self.random
        seconds = random.choice([b"100", b"100", b"200", b"0", b"-5", b"x", b"9223372036854775807"])
        expire = random.choice([b"EXPIRE", b"PEXPIRE"])
        if expire == b"PEXPIRE" and seconds.isdigit():
            seconds += b"000"
        conditions = lambda: self.options(b"NX", b"XX", b"GT", b"LT", b"QQ")
        return random.choice([
            lambda: [random.choice([b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"]), *self.some(self.any_key)],
            lambda: [b"TYPE", self.any_key()],
            lambda: [expire, self.any_key(), seconds, *self.options(b"NX", b"XX", b"QQ")],
            lambda: [b"EXPIREAT", self.any_key(), random.choice([b"4000000000", b"1", b"-1"]), *conditions()],
            lambda: [b"PEXPIREAT", self.any_key(), random.choice([b"4000000000123", b"4100000000000", b"1"]), *conditions()],
            lambda: [random.choice([b"TTL", b"PTTL", b"PERSIST"]), self.any_key()],
            lambda: [b"RENAME", self.any_key(), self.any_key()],
            lambda: [b"RENAMENX", self.any_key(), self.any_key()],
            lambda: [b"KEYS", random.choice([b"*", b"s*", b"?a", b"[lt]*", b"[^s]b", b"*2?*", b"s\\a"])],
            lambda: [b"DBSIZE"],
            lambda: [b"PING", *([self.text()] if random.random() < 0.5 else [])],
            lambda: [b"ECHO", self.text()],
            lambda: [b"SELECT", random.choice([b"0", b"0", b"x"])],
            lambda: [b"CLIENT", random.choice([b"SETNAME", b"GETNAME", b"NONSENSE"]), *self.options(b"name", b"a b")],
            lambda: [random.choice([b"NONE", b"set2", b"x" * 200, b"a\r\nb"]), *self.some(self.text, 6)],
            lambda: [b"CONFIG", b"GET", b"appendonly"],
            lambda: [b"COMMAND", b"NONSENSE"],
            lambda: [b"FLUSHALL", b"NOW"],
        ])()


def normalized(name, raw, value):
    """What has to be equal."""
    name = name.upper()
    if name in UNORDERED and isinstance(value, list):
        together = UNORDERED[name]
        return sorted(tuple(value[at : at + together]) for at in range(0, len(value), together))
    return raw


def check_replies(command, replies, references, history):
    (raw, value), (expected_raw, expected_value) = replies.next(), references.next()
    name = command[0].upper()
    if name in TIMES and raw[:1] == expected_raw[:1] == b":" and int(raw[1:]) > 0 and int(expected_raw[1:]) > 0:
        factor = 1000 if name == b"TTL" else 1
        if abs(int(raw[1:]) - int(expected_raw[1:])) * factor <= MAX_MILLISECONDS_APART:
            return
    if normalized(name, raw, value) != normalized(name, expected_raw, expected_value):
        raise CheckFailed(f"{command!r}: {raw!r} instead of {expected_raw!r}, after {history[-30:]!r}")


def compare(example, reference, random, rounds, batch):
    """Sends the same commands to both, `batch` at a time and in random pieces. Returns their number."""
    generator, number, history = Generator(random), 0, []
    with example.connect() as one, reference.connect() as other:
        replies, references = Replies(one), Replies(other)
        for _ in range(rounds):
            commands = [generator.command() for _ in range(random.randrange(1, batch + 1))]
            if random.random() < 0.02:
                commands.append([b"FLUSHALL"])
            data = b"".join(encode_inline(c) if random.random() < 0.1 else encode(c) for c in commands)
            # Empty lines and arrays have no reply.
            data += random.choice([b"", b"", b"\r\n", b"*0\r\n", b"*-1\r\n", b"\n"])
            send_in_pieces(one, data, random, random.randrange(4))
            send_in_pieces(other, data, random, random.randrange(4))
            for command in commands:
                check_replies(command, replies, references, history)
                history.append(command)
            del history[:-100]
            number += len(commands)
    return number


# Each ends the connection, after these replies.
MALFORMED = [
    b"*x\r\n", b"*\r\n", b"*1x\r\n", b"* 1\r\n", b"*1\r\n+PING\r\n", b"*1\r\nPING\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$x\r\n", b"*1\r\n$\r\n",
    b"*1\r\n$99999999999999999999\r\n", b"*1\r\n$536870913\r\n", b"*1\r\n$+4\r\nPING\r\n", b"*1\r\n$04\r\nPING\r\n", b"ECHO \"a\r\n",
    b"ECHO 'a\r\n", b'ECHO "a"b\r\n', b"x" * 70_000, b"*1\r\n$" + b"1" * 70_000, b"*" + b"1" * 70_000, b"QUIT\r\nPING\r\n",
]


def compare_malformed(example, reference):
    for data in MALFORMED:
        results = []
        for server in (example, reference):
            with server.connect() as sock:
                try:
                    sock.sendall(b"PING\r\n" + data)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                results.append(read_to_end(sock))
        if results[0] != results[1]:
            raise CheckFailed(f"{data[:50]!r}: {results[0]!r} instead of {results[1]!r}")
    return len(MALFORMED)
