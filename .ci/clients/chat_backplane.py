"""Two processes of the example chat behind HAProxy, connected by a Redis server that is restarted."""

import itertools
import os
import re
import signal
import tempfile

from chat_servers import PATIENCE, Chat, HAProxy, LineGuest, MessageGuest, Redis
from peer import DEADLINE, CheckFailed, check_equal, wait_until

LOST = "* the connection with the other servers is lost"
CONNECTED = "* connected with the other servers"
NOT_CONNECTED = "* there is no connection with the other servers"
MISSED = re.compile(r"\* (\d+) lines? of another server (?:was|were) missed")


numbers = itertools.count(1)


def are_connected(one, other):
    """Requires that guests of two processes hear each other. Each says a line that is different every time."""
    for speaker, listener in ((one, other), (other, one)):
        text = f"are you there? {next(numbers)}"
        speaker.say(text)
        speaker.expect_said(text)
        listener.expect_said(text)


class Said:
    """Adds to a guest what the checks need: lines by their text, and the lines that were missed."""

    def __init__(self, guest):
        self.guest = guest
        self.missed = 0
        self.is_connected = True

    def __getattr__(self, name):
        return getattr(self.guest, name)

    def line(self):
        line = self.guest.line()
        found = MISSED.fullmatch(line)
        if found:
            self.missed += int(found[1])
        self.is_connected = line == CONNECTED or (self.is_connected and line != LOST)
        return line

    def wait_until_connected(self):
        """Reads lines until the process is connected with the others."""
        while not self.is_connected:
            self.line()

    def expect_said(self, text):
        """Skips lines until someone says this. Returns the lines that were said before."""
        said = []
        while True:
            line = self.line()
            if line.endswith(f": {text}"):
                return said
            if not line.startswith("*"):
                said.append(line)

    def expect(self, expected):
        while self.line() != expected:
            pass

    def expect_counted(self, texts, before):
        """Each text arrives, in order, or is counted as missed. So is a notice: the name was changed."""
        arrived, notices = [], 0
        while len(arrived) + notices + self.missed - before < len(texts) + 1 or not self.is_connected:
            line = self.line()
            notices += line == "* here is now restarted"
            if ": during the restart" in line:
                arrived.append(line.partition(": ")[2])
        check_equal(len(arrived) + notices + self.missed - before, len(texts) + 1, "lines that have arrived or are missed")
        check_equal(arrived, [text for text in texts if text in arrived], "the order of the lines")
        return len(arrived)


def wait_for_subscriptions(redis, number):
    def subscribed():
        return redis.command("PUBSUB", "NUMSUB", "reveille-chat").split()[-1:] == [str(number)]

    if not wait_until(subscribed, PATIENCE):
        raise CheckFailed(f"there are not {number} subscriptions: {redis.command('PUBSUB', 'NUMSUB', 'reveille-chat')}")


def through_haproxy(proxy):
    """Guests of both kinds on both processes hear each other."""
    guests = [LineGuest("127.0.0.1", proxy.port) for _ in range(4)] + [MessageGuest(proxy.url) for _ in range(4)]
    processes = {"lines": set(), "messages": set()}
    for number, guest in enumerate(guests):
        while not (found := re.fullmatch(r"\* you are guest\d+x([0-9a-f]{4}) in lobby", guest.line())):
            pass
        processes["lines" if number < 4 else "messages"].add(found[1])
        guest.say("/join proxied")
        guest.expect(r"\* guest\S+ is in proxied", is_pattern=True)
    check_equal({kind: len(found) for kind, found in processes.items()}, {"lines": 2, "messages": 2}, "the processes")
    for number, guest in enumerate(guests):
        guest.say(f"line {number}")
        for other in guests:
            other.expect(rf"guest\S+: line {number}", is_pattern=True)
    for guest in guests:
        guest.close()


def names_are_unique(one, other):
    ann, ben = one.guest().enter("Ann"), other.message_guest().enter("ben")
    for guest, name in ((ann, "BEN"), (ben, "ann")):
        guest.say(f"/nick {name}")
        guest.expect(f"* the name {name} is taken")
    ann.close()
    ben.expect("* Ann has left")

    def is_free():
        ben.say("/nick ann")
        while True:
            line = ben.line()
            if line in ("* you are ann in lobby", "* the name ann is taken"):
                return line == "* you are ann in lobby"

    if not wait_until(is_free, DEADLINE):
        raise CheckFailed("the name of a guest who has left is still taken")
    ben.close()


def history_has_the_lines_of_others(one, other):
    speaker, listener = one.guest().enter("writer", "library"), other.guest().enter("reader", "library")
    speaker.say("a line for later")
    listener.expect("writer: a line for later")
    newcomer = other.message_guest()
    newcomer.say("/join library")
    newcomer.expect("* the last lines in library: 1")
    newcomer.hears("writer: a line for later")
    for guest in (speaker, listener, newcomer):
        guest.close()


def strangers_on_the_channel(redis, one, other):
    """What other clients of the Redis server publish is ignored, or cannot do harm."""
    for message in ("nonsense", "", "0000000000000001 1 said lobby ", "0000000000000001 1 said a/b c", "\x1b[31m " * 100):
        redis.command("PUBLISH", "reveille-chat", message)
    are_connected(one, other)


def lines_missed_while_stopped(redis, other, here, there):
    """A process that does not run misses lines: the number is reported to its guests."""
    os.kill(other.pid, signal.SIGSTOP)
    try:
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        here.expect(LOST)
        here.expect(CONNECTED)
        with redis.connect() as observer:
            observer.sendall(b"SUBSCRIBE reveille-chat\r\n")
            observed = observer.makefile("rb")
            check_equal(observed.readline(), b"*3\r\n", "the reply to a subscription")
            for number in range(5):
                here.say(f"into the void {number}")
                here.expect_said(f"into the void {number}")
            # All five are published before the stopped process subscribes again.
            while not observed.readline().endswith(b"into the void 4\r\n"):
                pass
    finally:
        os.kill(other.pid, signal.SIGCONT)
    there.expect(LOST)
    before = there.missed
    there.expect("* 5 lines of another server were missed")
    check_equal(there.missed - before, 5, "the lines missed")
    are_connected(here, there)


def restart(redis, here, there):
    """The Redis server ends and starts again. Each line arrives late, or is reported as missed."""
    redis.stop()
    for guest in (here, there):
        guest.expect(LOST)
    before = there.missed
    texts = [f"during the restart {number}" for number in range(20)]
    for text in texts[:10]:
        here.say(text)
        here.expect_said(text)
    # Names are unique in each process only.
    here.say("/nick restarted")
    here.expect("* you are restarted in lobby")
    redis.start()
    for text in texts[10:]:
        here.say(text)
        here.expect_said(text)
    here.wait_until_connected()
    arrived = there.expect_counted(texts, before)
    # The name is known to all again.
    if not wait_until(lambda: redis.command("GET", "reveille-chat:name:restarted") != "", DEADLINE):
        raise CheckFailed("a name was not renewed")
    there.say("/nick restarted")
    there.expect("* the name restarted is taken")
    here.say("/nick here")
    here.expect("* you are here in lobby")
    are_connected(here, there)
    return arrived


def same_name_twice(redis, one, other):
    """Without the Redis server guests of two processes take the same name. Afterwards at least one process reports it."""
    guests = [one.guest(), other.message_guest()]
    observers = [one.guest(), other.guest()]
    redis.stop()
    for guest in (*guests, *observers):
        guest.expect(LOST)
    for guest in guests:
        guest.say("/nick tee")
        guest.expect("* you are tee in lobby")
        guest.say("/nick tee")
        guest.expect("* you are tee already")
    # One who enters now is informed too.
    with one.guest() as newcomer:
        newcomer.expect(r"\* you are guest\S+ in lobby", is_pattern=True)
        newcomer.hears(NOT_CONNECTED)
    redis.start()
    for observer in observers:
        observer.expect(CONNECTED)
    heard = []
    for number, observer in enumerate(observers):
        # This name is reserved after `tee` was, on the same connection.
        observer.say(f"/nick observer{number}")
        heard += observer.expect(f"* you are observer{number} in lobby")
    if "* the name tee is in use on another server too" not in heard:
        raise CheckFailed(f"a name that is used twice was not reported: {heard}")
    for guest in (*guests, *observers):
        guest.close()
    wait_for_subscriptions(redis, 2)


def without_redis(program):
    """The Redis server does not run when the process starts: that is logged once, and guests are informed."""
    with tempfile.TemporaryDirectory() as directory, Redis(directory) as redis:
        redis.stop()
        with Chat(program, "--backplane", redis.url, log="warn") as chat:
            with chat.guest() as early:
                early.expect(NOT_CONNECTED)
                early.say("/nick early")
                early.expect("* you are early in lobby")
                with chat.message_guest() as late:
                    late.expect(r"\* you are guest\S+ in lobby", is_pattern=True)
                    late.hears(NOT_CONNECTED)
                    redis.start()
                    for guest in (early, late):
                        guest.expect(CONNECTED)
                with chat.guest() as newcomer:
                    newcomer.say("hello")
                    skipped = newcomer.expect(r"guest\S+: hello", is_pattern=True)
                    if NOT_CONNECTED in skipped:
                        raise CheckFailed("a notice that there is no connection, although there is one")
            log = chat.logged()
    lines = log.splitlines()
    if len(lines) != 1 or f"there is no connection to {redis.host}:{redis.port}" not in lines[0]:
        raise CheckFailed(f"the log without a Redis server: {log}")


def stalled(redis, here, there):
    """A Redis server that does not reply is found by the time limits."""
    redis.process.send_signal(signal.SIGSTOP)
    try:
        here.sock.settimeout(PATIENCE)
        here.expect(LOST)
    finally:
        redis.process.send_signal(signal.SIGCONT)
    here.expect(CONNECTED)
    wait_for_subscriptions(redis, 2)
    are_connected(here, there)


def killed(one, proxy, there):
    """A process that is killed does not disturb the other, and HAProxy no longer selects it."""
    one.process.kill()
    one.process.wait()
    there.say("still here")
    there.expect_said("still here")

    def is_served():
        try:
            guest = LineGuest("127.0.0.1", proxy.port)
            guest.say("a line from the new guest")
            there.expect_said("a line from the new guest")
            guest.close()
        except (CheckFailed, OSError):
            return False
        return True

    if not wait_until(is_served, DEADLINE):
        raise CheckFailed("no service after one of two processes was killed")


def check_all(program):
    with tempfile.TemporaryDirectory() as directory, Redis(directory) as redis:
        options = ["--backplane", redis.url]
        with Chat(program, *options) as one, Chat(program, "--threads", "1", *options) as other:
            with HAProxy(directory, [one, other]) as proxy:
                wait_for_subscriptions(redis, 2)
                through_haproxy(proxy)
                names_are_unique(one, other)
                history_has_the_lines_of_others(one, other)
                here, there = Said(one.guest().enter("here")), Said(other.message_guest().enter("there"))
                are_connected(here, there)
                strangers_on_the_channel(redis, here, there)
                lines_missed_while_stopped(redis, other, here, there)
                for _ in range(3):
                    arrived = restart(redis, here, there)
                    print(f"    restart of Redis: {arrived} of 20 lines arrived, the others are reported as missed", flush=True)
                same_name_twice(redis, one, other)
                stalled(redis, here, there)
                killed(one, proxy, there)
                there.close()
                print(f"    {other.stop().strip()}", flush=True)
    without_redis(program)
