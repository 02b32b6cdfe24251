"""The programs and peers of the check `transfer`: the server, a relay that stalls, and a server that is hostile."""

import os
import re
import signal
import socket
import subprocess
import threading

import peer
from peer import CheckFailed, check_equal


# Everything that was started. A failed check leaves some of it.
started = []


def start(command, **options):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    started.append(process)
    return process


def end_all():
    """Kills what is still running."""
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


class Server:
    """`transfer serve`, on a port that the kernel selects."""

    def __init__(self, program, root, *options, port=0):
        command = [program, *options, "--listen", f"127.0.0.1:{port}", "serve", root]
        self.process = start(command)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise CheckFailed(f"the server printed {line!r}")
        self.port = int(line.rpartition(":")[2])
        self.pid = self.process.pid

    def connect(self, **options):
        """A raw connection, after the first line of the server."""
        sock = peer.connect("127.0.0.1", self.port, **options)
        peer.receive_exactly(sock, b"transfer 1\n", "the first line")
        return sock

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.await_end()

    def await_end(self):
        try:
            output, _ = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            raise CheckFailed("the server does not end") from None
        check_equal(self.process.returncode, 0, "the exit status of the server")
        totals = output.splitlines()[-1]
        if not re.fullmatch(r"\d+ connections, \d+ files, \d+ bytes", totals):
            raise CheckFailed(f"the totals are {totals!r}")
        return totals


def start_get(program, port, name, destination, *options, stderr=subprocess.PIPE):
    command = [program, *options, "get", f"127.0.0.1:{port}", name, destination]
    return start(command, stderr=stderr)


class Outcome:
    """What a client printed, and its counts."""

    def __init__(self, process, status, seconds=60):
        try:
            output, self.errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise CheckFailed("the client does not end") from None
        if process.returncode != status:
            raise CheckFailed(f"the client ended with {process.returncode} instead of {status}: {self.errors}")
        found = re.fullmatch(r"(\d+) files received, (\d+) unchanged, (\d+) failed, (\d+) bytes\n", output)
        if status == 0 and not found:
            raise CheckFailed(f"the client printed {output!r}")
        self.received, self.unchanged, self.failed, self.bytes = map(int, found.groups()) if found else [0] * 4


def get(program, port, name, destination, *options, status=0):
    """Runs a client to its end, and requires its exit status."""
    return Outcome(start_get(program, port, name, destination, *options), status)


class Relay:
    """Forwards connections to the server, and stalls after a number of bytes until `resume`."""

    def __init__(self, port, stall_after):
        self.port_of_server = port
        self.left = stall_after
        self.may_continue = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def resume(self):
        self.may_continue.set()

    def close(self):
        self.resume()
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                # Otherwise the kernel may hold all of a file while the relay stalls.
                server = peer.connect("127.0.0.1", self.port_of_server, receive_buffer=1 << 20)
                server.settimeout(None)
            except OSError:
                # The server restarts.
                client.close()
                continue
            threading.Thread(target=self._forward, args=[client, server, False], daemon=True).start()
            threading.Thread(target=self._forward, args=[server, client, True], daemon=True).start()

    def _forward(self, source, target, is_counted):
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := source.recv(65536):
                if is_counted and not self.may_continue.is_set():
                    count = min(self.left, len(data))
                    self.left -= count
                    target.sendall(data[:count])
                    data = data[count:]
                    if data:
                        self.may_continue.wait()
                target.sendall(data)
        except OSError:
            pass
        for sock in (source, target):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Hostile:
    """A server that sends prepared bytes after each line of the client."""

    def __init__(self, replies, hello=b"transfer 1\n"):
        self.replies, self.hello = replies, hello
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        try:
            client.sendall(self.hello)
            replies = iter(self.replies)
            while True:
                line = b""
                while not line.endswith(b"\n"):
                    byte = client.recv(1)
                    if not byte:
                        return
                    line += byte
                reply = next(replies, None)
                if reply is None:
                    break
                client.sendall(reply)
        except OSError:
            pass
        finally:
            client.close()


def sums(folder):
    """The output of sha256sum for all regular files, sorted by name. Names end with NUL."""
    script = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum -z"
    result = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, timeout=60, check=True)
    return result.stdout


def directories(folder):
    result = subprocess.run(["sh", "-c", "find . -type d -print0 | LC_ALL=C sort -z"], cwd=folder, capture_output=True, timeout=60, check=True)
    return result.stdout


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def fresh(folder, name):
    """An empty folder."""
    path = os.path.join(folder, name)
    os.mkdir(path)
    return path
