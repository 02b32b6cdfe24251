"""The two servers that the checks of memcached compare: the example, and the memcached of Debian as the reference."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

from peer import DEADLINE, CheckFailed, EndsProcess, wait_until


class Server(EndsProcess):
    """A server in a process of its own, which `stop` or the end of a `with` ends by its id."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, env=environment
        )
        self.pid = self.process.pid

    def __exit__(self, *_):
        super().__exit__()
        self.process.stdout.close()
        self.errors.close()

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def stop(self):
        """Ends the server by SIGTERM and requires status 0 and no panic. Returns its last output."""
        self.process.terminate()
        try:
            output, _ = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            raise CheckFailed(f"{self.name} did not end after SIGTERM") from None
        self.errors.seek(0)
        errors = self.errors.read().decode(errors="replace")
        if self.process.returncode != 0 or errors:
            raise CheckFailed(f"{self.name} ended with status {self.process.returncode}: {errors}")
        return output.decode()


def start_example(program, *arguments):
    """Starts the example on a free port."""
    server = Server("the example", [program, "--listen", "127.0.0.1:0", *arguments])
    line = server.process.stdout.readline().decode()
    listening = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
    if listening is None:
        server.__exit__()
        raise CheckFailed(f"the example did not start: {line!r}")
    server.port = int(listening[1])
    return server


def start_reference(*arguments):
    """Starts memcached on a free port, which it writes to a file."""
    program = shutil.which("memcached")
    if program is None:
        raise CheckFailed("memcached is not installed")
    with tempfile.TemporaryDirectory() as directory:
        ports = os.path.join(directory, "ports")
        environment = {**os.environ, "MEMCACHED_PORT_FILENAME": ports}
        # Without the threads of `modern`. They refer to items at any time, and a number in such an item is not padded.
        command = [program, "-l", "127.0.0.1", "-p", "-1", "-U", "0", "-o", "no_modern", *arguments]
        if os.geteuid() == 0:
            command += ["-u", "root"]
        server = Server("memcached", command, environment)
        if not wait_until(lambda: os.path.exists(ports), DEADLINE):
            server.__exit__()
            raise CheckFailed("memcached did not start")
        with open(ports, encoding="ascii") as lines:
            server.port = next(int(line.split()[-1]) for line in lines if line.startswith("TCP INET:"))
    return server


def send_in_pieces(sock, data, random, pieces):
    """Sends `data`, divided at random offsets; sometimes the server has time to process a piece on its own."""
    offsets = sorted(random.randrange(len(data) + 1) for _ in range(pieces))
    for start, end in zip([0, *offsets], [*offsets, len(data)]):
        sock.sendall(data[start:end])
        if random.random() < 0.05:
            time.sleep(0.001)


def read_to_end(sock):
    """Returns everything until the server closes or resets the connection."""
    received = b""
    while True:
        try:
            chunk = sock.recv(1 << 16)
        except ConnectionResetError:
            return received
        except TimeoutError:
            raise CheckFailed(f"the connection did not end after {received[-100:]!r}") from None
        if not chunk:
            return received
        received += chunk
