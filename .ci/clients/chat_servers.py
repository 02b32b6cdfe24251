"""What the checks of the example chat have in common: its process, and guests with lines and with WebSocket."""

import asyncio
import os
import random
import re
import socket
import subprocess
import threading

import websockets
from memcached_servers import Server
from peer import DEADLINE, CheckFailed, EndsProcess, connect, wait_until

# For programs that take long to start on a busy machine.
PATIENCE = 60.0


def own_address():
    """An address of the loopback network that no other process uses, so that a free port stays free."""
    return f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def free_port(host):
    with socket.socket() as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


class Chat(Server):
    """The example, in a process of its own."""

    def __init__(self, program, *arguments, listen="127.0.0.1:0", http="127.0.0.1:0", log="error"):
        # The checks interrupt connections, of which the program warns.
        environment = {**os.environ, "RUST_LOG": log}
        super().__init__("chat", [program, "--listen", listen, "--http", http, *arguments], environment)
        lines = [self.process.stdout.readline().decode() for _ in range(3)]
        addresses = [re.fullmatch(r"(?:listening|page) on ([\d.]+):(\d+)\n", line) for line in lines[:2]]
        if None in addresses or not lines[2].startswith("try: nc "):
            self.__exit__()
            raise CheckFailed(f"chat did not start: {lines}")
        (self.host, self.port), (self.http_host, self.http_port) = [(found[1], int(found[2])) for found in addresses]
        self.url = f"ws://{self.http_host}:{self.http_port}/chat"

    def stop_after_signal(self):
        """Requires status 0 and no error. Returns the last output."""
        output, _ = self.process.communicate(timeout=DEADLINE)
        self.errors.seek(0)
        errors = self.errors.read().decode(errors="replace")
        if self.process.returncode != 0 or errors:
            raise CheckFailed(f"chat ended with status {self.process.returncode}: {errors}")
        return output.decode()

    def logged(self):
        """What the program has written to its standard error so far."""
        # The program writes at the offset that a seek would change.
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode(errors="replace")

    def logged_at_end(self):
        """Waits for the end after a signal, with status 0. Returns what the program has written to its standard error."""
        self.process.communicate(timeout=DEADLINE)
        if self.process.returncode != 0:
            raise CheckFailed(f"chat ended with status {self.process.returncode}: {self.logged()}")
        return self.logged()

    def guest(self, **buffers):
        return LineGuest(self.host, self.port, **buffers)

    def message_guest(self):
        return MessageGuest(self.url)


class Guest:
    """A guest; subclasses say and hear lines."""

    def enter(self, name, room="lobby"):
        """Takes a name, and joins the room."""
        self.say(f"/nick {name}")
        self.expect(f"* you are {name} in lobby")
        if room != "lobby":
            self.say(f"/join {room}")
            self.expect(f"* you are {name} in {room}")
            self.expect(f"* {name} is in {room}")
        else:
            self.expect(rf"\* guest\S+ is now {name}", is_pattern=True)
        return self

    def expect(self, expected, is_pattern=False):
        """Skips lines until this one. Returns the skipped lines."""
        skipped = []
        while True:
            line = self.line()
            if re.fullmatch(expected, line) if is_pattern else line == expected:
                return skipped
            skipped.append(line)

    def hears(self, *lines):
        """Requires these lines next."""
        for expected in lines:
            line = self.line()
            if line != expected:
                raise CheckFailed(f"`{line}` instead of `{expected}`")


class LineGuest(Guest):
    """Lines over TCP."""

    def __init__(self, host, port, **buffers):
        self.sock = connect(host, port, **buffers)
        self.input = self.sock.makefile("r", encoding="utf-8", newline="\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def say(self, line):
        self.sock.sendall(f"{line}\n".encode())

    def line(self):
        line = self.input.readline()
        if not line:
            raise CheckFailed("the connection of a guest has ended")
        return line.rstrip("\n")

    def rest(self):
        """All lines until the end of the connection."""
        return self.input.read().splitlines()

    def close(self):
        self.input.close()
        self.sock.close()


class Runner:
    """Runs coroutines on a thread, so that the checks can wait for them."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def wait(self, coroutine, seconds=DEADLINE):
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise CheckFailed(f"nothing received within {seconds:.0f} s") from None


RUNNER = Runner()


class MessageGuest(Guest):
    """Messages of WebSocket, with the library websockets."""

    def __init__(self, url, **options):
        async def open_socket():
            return await websockets.connect(url, **options)

        self.socket = RUNNER.wait(open_socket())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def say(self, line):
        RUNNER.wait(self.socket.send(line))

    def line(self):
        return RUNNER.wait(self.socket.recv())

    def rest(self):
        """All lines until the end of the connection. Sets `code`."""
        lines = []
        try:
            while True:
                lines.append(self.line())
        except websockets.ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else None
        return lines

    def close(self):
        RUNNER.wait(self.socket.close())


class Redis(EndsProcess):
    """A Redis server that can be started again at the same address."""

    def __init__(self, directory):
        self.directory = directory
        self.host = own_address()
        self.port = free_port(self.host)
        self.url = f"redis://{self.host}:{self.port}"
        self.start()

    def start(self):
        command = ["redis-server", "--port", str(self.port), "--bind", self.host, "--protected-mode", "no", "--save", ""]
        command += ["--dir", self.directory, "--logfile", os.path.join(self.directory, "redis.log")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if not wait_until(lambda: self.command("PING") == "PONG", PATIENCE):
            raise CheckFailed("redis-server did not start")

    def stop(self):
        self.process.terminate()
        self.process.wait(DEADLINE)

    def connect(self):
        return connect(self.host, self.port)

    def command(self, *arguments):
        """The output of redis-cli."""
        command = ["redis-cli", "-h", self.host, "-p", str(self.port), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False).stdout.strip()


class HAProxy:
    """HAProxy in front of some chats, for lines and for HTTP. It inherits its listening sockets."""

    def __init__(self, directory, chats):
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.http_port = [listener.getsockname()[1] for listener in self.listeners]
        self.url = f"ws://127.0.0.1:{self.http_port}/chat"
        lines, http = [listener.fileno() for listener in self.listeners]
        servers = [
            "".join(f"  server s{number} {host}:{port} check inter 200ms\n" for number, (host, port) in enumerate(addresses))
            for addresses in ([(chat.host, chat.port) for chat in chats], [(chat.http_host, chat.http_port) for chat in chats])
        ]
        configuration = os.path.join(directory, "haproxy.cfg")
        with open(configuration, "w", encoding="ascii") as file:
            file.write(
                "defaults\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n"
                "  balance roundrobin\n  option redispatch\n"
                f"frontend lines\n  mode tcp\n  bind fd@{lines}\n  default_backend lines\n"
                f"backend lines\n  mode tcp\n{servers[0]}"
                f"frontend http\n  mode http\n  bind fd@{http}\n  default_backend http\n"
                f"backend http\n  mode http\n{servers[1]}"
            )
        self.log = open(os.path.join(directory, "haproxy.log"), "wb")
        self.process = subprocess.Popen(
            ["haproxy", "-db", "-f", configuration],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=[lines, http],
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()
        for listener in self.listeners:
            listener.close()
