"""What the checks of the proxies share: the program under test, servers behind it, and misbehaving clients."""

import os
import random
import re
import socket
import subprocess
import tempfile
import threading
import time

from peer import (
    DEADLINE, CheckFailed, EndsProcess, allow_descriptors, check_equal, close_with_reset, must_be_idle, open_descriptors,
    receive_exactly, resident_bytes, wait_until,
)

CONNECTIONS = 1000
MIB = 1 << 20


class Program(EndsProcess):
    """The program under test, on a free loopback port. `stop` or the end of a `with` ends it by its id."""

    def __init__(self, program, *arguments):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [program, "--listen", "127.0.0.1:0", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1,
        )
        self.pid = self.process.pid
        line = self.line()
        if not re.fullmatch(r"listening on 127\.0\.0\.1:\d+", line):
            self.__exit__()
            raise CheckFailed(f"{program} printed {line!r}: {self.error_text()}")
        self.port = int(line.rpartition(":")[2])
        self.line()  # the command that connects to it

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def signal(self, signal):
        self.process.send_signal(signal)

    def error_text(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def stop(self, permitted=""):
        """Ends it by SIGTERM: status 0, and no errors but lines that match `permitted`. Returns its last line."""
        self.process.terminate()
        try:
            output, _ = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            raise CheckFailed("the program did not end after SIGTERM") from None
        lines = [line for line in self.error_text().splitlines() if not (permitted and re.search(permitted, line))]
        if self.process.returncode != 0 or lines:
            raise CheckFailed(f"the program ended with status {self.process.returncode}: {lines}")
        return output.splitlines()[-1]


class Listener:
    """A TCP server on a loopback port, by default a free one, with a thread for each connection, until `close`."""

    def __init__(self, serve, port=0):
        self.listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self.run, args=(sock,), daemon=True).start()

    def run(self, sock):
        with sock:
            sock.settimeout(60)
            try:
                self.serve(sock)
            except OSError:
                pass  # the client is gone

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def echo(sock):
    """Returns what it receives, and ends after the end of the input."""
    while chunk := sock.recv(1 << 16):
        sock.sendall(chunk)


def whole(sock):
    """Replies after the end of the input: with its length and content."""
    received = b""
    while chunk := sock.recv(1 << 16):
        received += chunk
    sock.sendall(b"%d:" % len(received) + received)


def read_to_end(sock):
    received = b""
    while True:
        try:
            chunk = sock.recv(1 << 16)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def must_echo(sock, size=1000):
    message = os.urandom(size)
    sock.sendall(message)
    receive_exactly(sock, message, "the echo")


def must_fail(program, *arguments):
    """Wrong arguments: one line and the usage on stderr, status 2."""
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=DEADLINE)
    check_equal(result.returncode, 2, f"the status for {arguments}")
    if "usage: " not in result.stderr or result.stdout:
        raise CheckFailed(f"for {arguments} it printed {result.stderr!r}")


def must_not_run(program, *arguments):
    """An error that is found after the arguments: one line on stderr, status 1."""
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=DEADLINE)
    check_equal((result.returncode, result.stderr.count("\n"), result.stdout), (1, 1, ""), f"the outcome of {arguments}")


# --- Misbehaving clients ----------------------------------------------------------------------------


def killed_mid_transfer(program, connect):
    """Clients that are gone while data is in both directions."""
    for _ in range(50):
        sock = connect("echo")
        sock.setblocking(False)
        try:
            sock.send(os.urandom(random.randrange(1, MIB)))
        except BlockingIOError:
            pass
        sock.settimeout(DEADLINE)
        if random.random() < 0.5:
            sock.recv(1000)
        close_with_reset(sock) if random.random() < 0.7 else sock.close()


def one_byte_at_a_time(program, connect):
    with connect("echo") as sock:
        for byte in b"one byte at a time":
            sock.sendall(bytes([byte]))
            time.sleep(0.0005)
        receive_exactly(sock, b"one byte at a time", "single bytes")


def half_close(program, connect):
    """The end of the input is relayed, and the reply that follows it arrives."""
    with connect("whole") as sock:
        data = os.urandom(300_000)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        if read_to_end(sock) != b"%d:" % len(data) + data:
            raise CheckFailed("the reply after a half-close differs")


def many_connections(program, connect):
    allow_descriptors(4 * CONNECTIONS)
    socks = [connect("echo") for _ in range(CONNECTIONS)]
    for number, sock in enumerate(socks):
        sock.sendall(b"number %04d" % number)
    for number, sock in enumerate(socks):
        receive_exactly(sock, b"number %04d" % number, "an echo")
    must_be_idle(program.pid, f"{CONNECTIONS} connections are idle")
    for sock in socks:
        close_with_reset(sock) if random.random() < 0.5 else sock.close()


def slow_readers(program, connect):
    """Clients that send and do not read. The memory is bounded, others are served, and no byte is lost."""
    before = resident_bytes(program.pid)
    data = os.urandom(MIB) * 16
    readers = []
    for _ in range(10):
        sock = connect("echo")
        # Blocks when all buffers are full.
        thread = threading.Thread(target=lambda sock=sock: send_all(sock, data), daemon=True)
        thread.start()
        readers.append((sock, thread))
    for _ in range(10):
        with connect("echo") as sock:
            must_echo(sock)
    must_be_idle(program.pid, "no client reads")
    taken = resident_bytes(program.pid) - before
    if taken > 64 * MIB:
        raise CheckFailed(f"10 clients that do not read take {taken >> 20} MiB")
    sock, _ = readers[0]
    receive_exactly(sock, data, "the echo for a slow reader")
    for sock, thread in readers:
        # Wakes the thread: until it has left its call, the kernel does not close the socket.
        sock.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE)
        close_with_reset(sock)


def send_all(sock, data):
    try:
        sock.sendall(data)
    except OSError:
        pass  # closed at the end of the check


def abuse(program, connect, *more):
    """Runs the checks. `connect(NAME)` connects through the proxy to the server `echo` or `whole`."""
    before = open_descriptors(program.pid)
    for check in (*more, killed_mid_transfer, one_byte_at_a_time, half_close, many_connections, slow_readers):
        begin = time.monotonic()
        check(program, connect)
        with connect("echo") as sock:
            must_echo(sock)
        if not wait_until(lambda: open_descriptors(program.pid) <= before, DEADLINE):
            raise CheckFailed(f"{check.__name__}: {open_descriptors(program.pid) - before} descriptors are left open")
        print(f"    {check.__name__.replace('_', ' ')}: {time.monotonic() - begin:.1f} s", flush=True)
    must_be_idle(program.pid, "all clients have left")
