"""Code that the checks in this directory share: a blocking peer, all of whose waits have a deadline.

Uses only the standard library. A failed check prints one sentence to stderr and exits with status 1.
"""

import argparse
import os
import random
import resource
import socket
import struct
import sys
import time

# Much longer than any single wait on loopback, even on a busy machine.
DEADLINE = 15.0
# The checks verify that memory is bounded. The exact limit depends on the server.
MAX_MEMORY_PER_PEER = 64 << 20
# A tick is 10 ms, so a spinning loop uses about 100 ticks in a second.
SECONDS_WATCHED = 1.0
MAX_TICKS_WATCHED = 2


class CheckFailed(Exception):
    """The server has violated a requirement. The text is the sentence to print."""


class EndsProcess:
    """The base of a class with a `process`, which the end of a `with` ends by its id if it still runs."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def arguments(description, **numbers):
    """Parses `HOST PORT`, `--seed`, and `--name N` for each of `numbers`. Prints the seed."""
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, required=default is None)
    options = parser.parse_args()
    options.random = random.Random(options.seed)
    print(f"    {os.path.basename(parser.prog)}: seed {options.seed}", flush=True)
    return options


def run(check, options):
    """Runs `check(options)`. If it fails, prints one sentence and exits with status 1."""
    try:
        check(options)
    except (CheckFailed, OSError) as failure:
        script = os.path.basename(sys.argv[0])
        kind = "" if isinstance(failure, CheckFailed) else f"{type(failure).__name__}: "
        raise SystemExit(f"{script}: {kind}{failure} (seed {options.seed})") from None


def check_equal(found, expected, what):
    """Requires that two values are equal."""
    if found != expected:
        raise CheckFailed(f"{what}: {found!r} instead of {expected!r}")


def connect(host, port, receive_buffer=None, segment=None):
    """Connects with TCP_NODELAY, so that the kernel sends a partial message at once.

    With a small receive buffer and a small segment size, the kernel buffers as little as on a slow link. Otherwise,
    it uses segments of 64 KiB on loopback and buffers megabytes.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(DEADLINE)
    # Both options take effect only before the connect.
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if segment is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
    sock.connect((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive_exactly(sock, expected, what):
    """Reads as many bytes as `expected` has, and requires that they are equal."""
    at = 0
    while at < len(expected):
        try:
            chunk = sock.recv(min(len(expected) - at, 1 << 18))
        except TimeoutError:
            raise CheckFailed(f"{what}: nothing received after {at} of {len(expected)} bytes") from None
        if not chunk:
            raise CheckFailed(f"{what}: end of stream after {at} of {len(expected)} bytes")
        if chunk != expected[at : at + len(chunk)]:
            raise CheckFailed(f"{what}: a wrong byte between {at} and {at + len(chunk)}")
        at += len(chunk)


def expect_end(sock, what):
    """Requires the end of the stream, with no byte before it."""
    try:
        extra = sock.recv(1)
    except TimeoutError:
        raise CheckFailed(f"{what}: the stream did not end") from None
    if extra:
        raise CheckFailed(f"{what}: more bytes received than sent")


def round_trip(sock, message, what):
    """Sends one message, which must fit into the kernel's buffers, and reads its echo."""
    sock.sendall(message)
    receive_exactly(sock, message, what)


def close_with_reset(sock):
    """Closes the connection by a reset: the server sees ECONNRESET and not the end of the stream."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def allow_descriptors(wanted):
    """Raises this process's soft limit of descriptors, if needed for `wanted` sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + 64
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CheckFailed(f"{wanted} connections need {needed} descriptors, the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def wait_until(condition, seconds):
    """Polls `condition`. Returns whether it became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def refuses(port):
    """Whether nothing listens on a port of the loopback interface."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # The listener closed before it accepted this connection.
        return False
    return False


def unread_by_server(sock):
    """The number of bytes of this connection that the server has not read: in flight, or received (IPv4 only)."""
    local, remote = sock.getsockname()[1], sock.getpeername()[1]
    unread = 0
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            ports = tuple(int(field.rpartition(":")[2], 16) for field in fields[1:3])
            sending, received = (int(queue, 16) for queue in fields[4].split(":"))
            if ports == (local, remote):
                unread += sending
            elif ports == (remote, local):
                unread += received
    return unread


def open_descriptors(pid):
    """How many descriptors the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def has_ended(pid):
    """Whether the process has exited, including one that has not been reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        # The process was reaped before the file was opened, or while it was read.
        return True


def resident_bytes(pid):
    """The process's resident memory (VmRSS)."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise CheckFailed(f"process {pid} has ended")


def cpu_ticks(pid):
    """The process's user and system time so far, in clock ticks (fields 14 and 15 of its stat file)."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        after_name = stat.read().rpartition(")")[2].split()
    return int(after_name[11]) + int(after_name[12])


def must_be_idle(pid, while_what):
    """Requires that the process uses almost no CPU time. It may use some at first, while buffers fill."""
    settle_until = time.monotonic() + DEADLINE
    while True:
        before = cpu_ticks(pid)
        time.sleep(SECONDS_WATCHED)
        used = cpu_ticks(pid) - before
        if used <= MAX_TICKS_WATCHED:
            return
        if time.monotonic() > settle_until:
            raise CheckFailed(f"{used} ticks of CPU in {SECONDS_WATCHED:.0f} s while {while_what}")
