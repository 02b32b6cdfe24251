#!/usr/bin/env -S python3 -B
"""Checks the examples services and services_client: echo, discard, daytime, qotd, chargen and time, over TCP and UDP.

usage: services.py PROGRAM [--seed N]

The program of the client is expected next to PROGRAM. Each service must behave as its RFC specifies, and all share one
loop: daytime and time must reply while chargen sends as fast as its peers read. A chargen peer that does not read must
cost only bounded memory and no CPU time. Needs nc (that of OpenBSD), ncat and socat.
"""

import argparse
import calendar
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import peer
from memcached_servers import Server
from peer import CheckFailed

HOST = "127.0.0.1"
NAMES = ["echo", "discard", "daytime", "qotd", "chargen", "time"]
READERS = 2
READ_BY_EACH = 32 << 20
DISCARDED = 16 << 20
CONNECTIONS = 1000
# The maximum difference between the time in a reply and the time at which the reply is checked. Server and checks
# use the same clock.
MAX_SECONDS_APART = 5
SECONDS_FROM_1900_TO_1970 = 2_208_988_800
# Each line starts with the next of 95 characters, so the stream repeats after 95 lines.
CHARGEN = b"".join(bytes(32 + (n + c) % 95 for c in range(72)) + b"\r\n" for n in range(95))


def start(program, *arguments):
    """Starts the example on free ports. The attributes `tcp` and `udp` are its ports by the name of the service."""
    server = Server("services", [program, "--listen", f"{HOST}:0", *arguments])
    server.tcp, server.udp = {}, {}
    for line in iter(server.process.stdout.readline, b""):
        if line.startswith(b"try: "):
            return server
        found = re.fullmatch(rb"(\w+) (tcp|udp) on 127\.0\.0\.1:(\d+)\n", line)
        if found is None:
            break
        getattr(server, found[2].decode())[found[1].decode()] = int(found[3])
    server.__exit__()
    raise CheckFailed("the example did not start")


# --- TCP ------------------------------------------------------------------------------------------


def whole_reply(server, name):
    """Returns all bytes that a service sends before it ends the connection."""
    reply = b""
    with peer.connect(HOST, server.tcp[name]) as sock:
        while chunk := sock.recv(100):
            reply += chunk
    return reply


def daytime(reply):
    try:
        stated = calendar.timegm(time.strptime(reply.decode("ascii"), "%Y-%m-%d %H:%M:%S UTC\r\n"))
    except ValueError:
        raise CheckFailed(f"daytime sent {reply!r}") from None
    must_be_now(stated, "daytime")


def seconds_since_1900(reply):
    peer.check_equal(len(reply), 4, "the length of a reply of time")
    stated = struct.unpack("!I", reply)[0]
    # The number of seconds has 32 bits and wraps around in 2036.
    now = int(time.time()) + SECONDS_FROM_1900_TO_1970
    must_be_now(int(time.time()) + (stated - now + (1 << 31)) % (1 << 32) - (1 << 31), "time")


def must_be_now(stated, what):
    if abs(stated - time.time()) > MAX_SECONDS_APART:
        raise CheckFailed(f"{what} differs from the present by {stated - time.time():.0f} s")


def quote(reply):
    if not (reply.endswith(b"\r\n") and reply.isascii() and 10 < len(reply) < 512):
        raise CheckFailed(f"qotd sent {reply!r}")


def echo(server, numbers):
    """An echo in random pieces, which ends after the half-close of its peer."""
    data = numbers.randbytes(300_000)
    with peer.connect(HOST, server.tcp["echo"]) as sock:
        for start in range(0, len(data), 30_000):
            peer.round_trip(sock, data[start : start + 30_000], "echo")
        for byte in b"one byte at a time":
            peer.round_trip(sock, bytes([byte]), "echo")
        sock.shutdown(socket.SHUT_WR)
        peer.expect_end(sock, "echo")


def discard(server, numbers):
    """Discard must read all bytes, send nothing, and end after its peer's half-close."""
    with peer.connect(HOST, server.tcp["discard"]) as sock:
        sock.sendall(numbers.randbytes(DISCARDED))
        sock.shutdown(socket.SHUT_WR)
        peer.expect_end(sock, "discard")


def read_chargen(sock, length):
    """Reads the first `length` bytes of the stream and compares them."""
    while length:
        expected = CHARGEN[: min(length, len(CHARGEN))]
        peer.receive_exactly(sock, expected, "chargen")
        length -= len(expected)


def replies_while_chargen_is_busy(server):
    """Returns how often the others replied while the readers read."""
    sockets = [peer.connect(HOST, server.tcp["chargen"]) for _ in range(READERS)]
    rounds = 0
    with ThreadPoolExecutor(READERS) as pool:
        reading = [pool.submit(read_chargen, sock, READ_BY_EACH) for sock in sockets]
        while rounds == 0 or not all(reader.done() for reader in reading):
            daytime(whole_reply(server, "daytime"))
            seconds_since_1900(whole_reply(server, "time"))
            quote(whole_reply(server, "qotd"))
            rounds += 1
        for reader in reading:
            reader.result()
    for sock in sockets:
        sock.close()
    return rounds


def chargen_with_a_peer_that_does_not_read(server):
    """Checks bounded memory and no CPU time. When the peer reads again, the stream must continue without a gap."""
    allowed = peer.resident_bytes(server.pid) + peer.MAX_MEMORY_PER_PEER
    with peer.connect(HOST, server.tcp["chargen"]) as sock:
        peer.must_be_idle(server.pid, "a chargen peer does not read")
        if peer.resident_bytes(server.pid) > allowed:
            raise CheckFailed("a chargen peer that does not read costs more than 64 MiB")
        read_chargen(sock, READ_BY_EACH)


def chargen_ends_with_its_peer(server):
    """Chargen must stop sending after its peer's half-close."""
    with peer.connect(HOST, server.tcp["chargen"]) as sock:
        read_chargen(sock, len(CHARGEN))
        sock.shutdown(socket.SHUT_WR)
        end = time.monotonic() + peer.DEADLINE
        try:
            while sock.recv(1 << 16):
                if time.monotonic() > end:
                    raise CheckFailed("chargen still sends after its peer's half-close")
        except ConnectionError:
            pass


def tcp(server, numbers):
    echo(server, numbers)
    discard(server, numbers)
    chargen_ends_with_its_peer(server)
    rounds = replies_while_chargen_is_busy(server)
    chargen_with_a_peer_that_does_not_read(server)
    print(f"    TCP: {rounds} rounds of replies while chargen was busy", flush=True)


# --- UDP ------------------------------------------------------------------------------------------


def ask(server, name, datagram=b""):
    """Returns the reply to a datagram, which is repeated while there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((HOST, server.udp[name]))
        for _ in range(int(peer.DEADLINE)):
            sock.send(datagram)
            try:
                return sock.recv(1 << 16)
            except TimeoutError:
                pass
    raise CheckFailed(f"{name}: no reply to a datagram")


def udp(server, numbers):
    for size in (0, 1, 1400, 60_000):
        data = numbers.randbytes(size)
        peer.check_equal(ask(server, "echo", data), data, "the echo of a datagram")
    lengths = set()
    for _ in range(20):
        reply = ask(server, "chargen", b"x")
        if len(reply) > 512 or reply not in CHARGEN + CHARGEN[:1000]:
            raise CheckFailed(f"chargen replied {reply!r}")
        lengths.add(len(reply))
    daytime(ask(server, "daytime"))
    seconds_since_1900(ask(server, "time"))
    quote(ask(server, "qotd"))
    no_reply_to_services(server)
    amplification(server)
    print(f"    UDP: chargen replied with {len(lengths)} different lengths", flush=True)


def no_reply_to_services(server):
    """A datagram from a port below 1024, or from the number of an own port, gets no reply: it could cause a loop."""
    sources = [server.udp["chargen"], server.udp["echo"]]
    if os.geteuid() == 0:
        sources.append(random.randrange(700, 1024))
    for port in sources:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            # Another address of this machine, so the port may be bound a second time.
            sock.bind(("127.43.7.1", port))
            for name in NAMES:
                sock.sendto(b"x", (HOST, server.udp[name]))
            # The loop has processed these datagrams when it has replied to later ones.
            for name in NAMES:
                if name != "discard":
                    ask(server, name)
            sock.setblocking(False)
            try:
                raise CheckFailed(f"{sock.recv(1000)!r} was sent to port {port}")
            except BlockingIOError:
                pass


def amplification(server):
    """The replies to empty datagrams are limited to 64 KiB per second, after a burst of the same size."""
    received = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((HOST, server.udp["chargen"]))
        sock.setblocking(False)
        begin = time.monotonic()
        for _ in range(5000):
            sock.send(b"")
            try:
                received += len(sock.recv(1000))
            except BlockingIOError:
                time.sleep(0.0001)
        took = time.monotonic() - begin
    allowed = (1 + took) * 65536 + 512
    if not 0 < received <= allowed:
        raise CheckFailed(f"{received} bytes for empty datagrams in {took:.1f} s, {allowed:.0f} are allowed")
    # Wait until the budget is available again, for the checks that follow.
    time.sleep(1)


# --- Programs -------------------------------------------------------------------------------------


def run(command, **options):
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)
    except FileNotFoundError:
        raise CheckFailed(f"{command[0]} is not installed") from None


def own_client(server, program):
    client = os.path.join(os.path.dirname(os.path.abspath(program)), "services_client")
    for name in NAMES:
        for transport, flags in ((server.tcp, []), (server.udp, ["--udp"])):
            done = run([client, "--connect", f"{HOST}:{transport[name]}", "--bytes", "2000000", *flags, name])
            if done.returncode != 0 or not done.stdout:
                raise CheckFailed(f"services_client {name} {flags}: {done.stderr.decode()}")
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        target = f"{HOST}:{unused.getsockname()[1]}"
        for arguments, status in (
            (["--connect", target], 1), (["--udp", "--connect", target, "time"], 1), (["users"], 2), (["--udp", "time", "x"], 2),
        ):
            done = run([client, *arguments])
            peer.check_equal((done.returncode, done.stdout), (status, b""), f"services_client {arguments}")


def other_clients(server):
    daytime(run(["nc", HOST, str(server.tcp["daytime"])], stdin=subprocess.DEVNULL).stdout)
    reply = run(["socat", "-u", f"TCP:{HOST}:{server.tcp['time']}", "-"]).stdout
    seconds_since_1900(reply)
    data = b"x" * 1_000_000
    peer.check_equal(run(["nc", "-N", HOST, str(server.tcp["echo"])], input=data).stdout, data, "the echo of nc")
    peer.check_equal(run(["ncat", HOST, str(server.tcp["discard"])], input=data).stdout, b"", "discard with ncat")
    # -t: socat waits for the reply as long as this after the end of its input.
    datagram = run(["socat", "-t", "2", "-", f"UDP:{HOST}:{server.udp['echo']},shut-none"], input=b"datagram").stdout
    peer.check_equal(datagram, b"datagram", "the echo of socat")


# --- Abuse ----------------------------------------------------------------------------------------


def abuse(server, numbers):
    peer.allow_descriptors(CONNECTIONS)
    before = peer.open_descriptors(server.pid)
    # Clients that disappear at any time, and that send where nothing is expected.
    for _ in range(100):
        sock = peer.connect(HOST, server.tcp[numbers.choice(NAMES)])
        try:
            sock.sendall(numbers.randbytes(numbers.randrange(100_000)))
        except ConnectionError:
            pass
        peer.close_with_reset(sock) if numbers.random() < 0.5 else sock.close()
    sockets = [peer.connect(HOST, server.tcp["echo"]) for _ in range(CONNECTIONS)]
    for index, sock in enumerate(sockets):
        sock.sendall(b"%d" % index)
    for index, sock in enumerate(sockets):
        peer.receive_exactly(sock, b"%d" % index, "one of 1,000 connections")
        sock.close()
    echo(server, numbers)
    if not peer.wait_until(lambda: peer.open_descriptors(server.pid) <= before, peer.DEADLINE):
        raise CheckFailed("connections were not closed")
    peer.must_be_idle(server.pid, "no peer is connected")
    print(f"    abuse: {CONNECTIONS} connections, clients that disappear", flush=True)


def wrong_arguments(program, server):
    for arguments, status in (
        (["--listen", "nonsense"], 2), (["--listen", f"{HOST}:65500"], 2), (["x"], 2), (["--report", "0"], 2), (["--help"], 0),
    ):
        peer.check_equal(run([program, *arguments]).returncode, status, f"the status with {arguments}")
    # The base whose echo is the port in use.
    base = server.tcp["echo"] - 7
    done = run([program, "--listen", f"{HOST}:{base}"])
    peer.check_equal((done.returncode, done.stderr.count(b"\n")), (1, 1), f"with a port in use: {done.stderr}")


def stop_with_an_unread_chargen(program):
    """The text of chargen has no end, so a stop must not wait for its readers."""
    with start(program, "--grace", "3600") as server, peer.connect(HOST, server.tcp["chargen"]):
        peer.must_be_idle(server.pid, "a chargen peer does not read")
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"  seed {options.seed}", flush=True)
    numbers = random.Random(options.seed)
    try:
        with start(options.program) as server:
            tcp(server, numbers)
            udp(server, numbers)
            own_client(server, options.program)
            other_clients(server)
            abuse(server, numbers)
            wrong_arguments(options.program, server)
            print(f"    {server.stop().splitlines()[-1]}", flush=True)
        stop_with_an_unread_chargen(options.program)
    except (CheckFailed, OSError) as failure:
        sys.exit(f"services.py: {failure} (seed {options.seed})")


if __name__ == "__main__":
    main()
