"""Guests of the example chat who misbehave, and a thousand guests of whom some do not read."""

import os
import pty
import re
import socket
import subprocess
import time

from chat_servers import PATIENCE, Chat, free_port, own_address
from peer import (
    DEADLINE, CheckFailed, allow_descriptors, close_with_reset, connect, must_be_idle, open_descriptors, resident_bytes,
    wait_until,
)

GUESTS = 990
SILENT = 10
# Many times what the server and the kernel buffer for a guest with a small receive buffer.
MOST_LINES = 10_000
MAX_GROWTH = 128 << 20

UPGRADE = (
    "GET /chat HTTP/1.1\r\nHost: {0}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://{0}\r\n\r\n"
)


def upgrade(chat):
    return UPGRADE.format(f"{chat.http_host}:{chat.http_port}").encode()


def frame(opcode, payload, is_last=True):
    """A frame of a client, with the mask 0."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + len(payload).to_bytes(2, "big")
    return bytes([0x80 * is_last | opcode]) + length + bytes(4) + payload


def read_to_end(sock):
    received = b""
    try:
        while chunk := sock.recv(1 << 16):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def works(chat):
    with chat.guest() as one, chat.message_guest() as other:
        for guest in (one, other):
            guest.say("/join abused")
            guest.expect(r"\* guest\S+ is in abused", is_pattern=True)
        one.say("still here")
        other.expect(r"guest\S+: still here", is_pattern=True)


def garbage(chat, random):
    """Random bytes, alone and after a valid beginning."""
    for number in range(200):
        to_http = number % 2 == 0
        sock = connect(chat.http_host, chat.http_port) if to_http else connect(chat.host, chat.port)
        beginnings = [b"", b"GET / HTTP/1.1\r\n", upgrade(chat), upgrade(chat) + frame(1, b"hello")] if to_http else [b"", b"/nick ", b"/join "]
        noise = bytes(random.choices(range(256), k=random.randrange(5000)))
        try:
            sock.sendall(random.choice(beginnings) + noise)
        except (BrokenPipeError, ConnectionResetError):
            pass
        close_with_reset(sock) if random.random() < 0.5 else sock.close()
    works(chat)


def killed_guests(chat, random):
    """Guests who disappear within a line, a request or a frame."""
    request = upgrade(chat)
    message = frame(1, b"x" * 200)
    for number in range(100):
        if number % 2:
            sock = connect(chat.host, chat.port)
            sock.sendall(b"x" * random.randrange(1, 1000))
        else:
            sock = connect(chat.http_host, chat.http_port)
            both = request + message
            sock.sendall(both[: random.randrange(1, len(both))])
        close_with_reset(sock)
    works(chat)


def one_byte_at_a_time(chat, _):
    with chat.guest() as listener:
        listener.enter("listener", "slow")
        with connect(chat.host, chat.port) as sock:
            for byte in "/join slow\r\nb\u00fcte by byte\n".encode():
                sock.sendall(bytes([byte]))
                time.sleep(0.0005)
            listener.expect(r"guest\S+: b\u00fcte by byte", is_pattern=True)
        with connect(chat.http_host, chat.http_port) as sock:
            parts = [frame(1, b"/join slow"), frame(1, b"frag", is_last=False), frame(9, b"ping"), frame(0, b"ments")]
            for byte in upgrade(chat) + b"".join(parts):
                sock.sendall(bytes([byte]))
                time.sleep(0.0005)
            listener.expect(r"guest\S+: fragments", is_pattern=True)
            sock.sendall(frame(8, b"\x03\xe8"))
            received = read_to_end(sock)
            if b"\x8a\x04ping" not in received or not received.endswith(b"\x88\x02\x03\xe8"):
                raise CheckFailed(f"the frames of the server: {received[-100:]}")


def half_close(chat, _):
    """A client that ends its output gets what it has requested."""
    with chat.guest() as listener:
        listener.enter("listener", "half")
        with connect(chat.host, chat.port) as sock:
            sock.sendall(b"/join half\nthe last line\n")
            sock.shutdown(socket.SHUT_WR)
            if not re.search(rb"guest\d+: the last line\n", read_to_end(sock)):
                raise CheckFailed("a guest who has ended the output did not get its own line")
        listener.expect(r"guest\d+: the last line", is_pattern=True)
        listener.expect(r"\* guest\d+ has left", is_pattern=True)
        with connect(chat.http_host, chat.http_port) as sock:
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {chat.http_host}\r\n\r\n".encode())
            sock.shutdown(socket.SHUT_WR)
            if not read_to_end(sock).endswith(b"</html>\n"):
                raise CheckFailed("the page is not complete")
        with connect(chat.http_host, chat.http_port) as sock:
            sock.sendall(upgrade(chat) + frame(1, b"/join half"))
            listener.expect(r"\* guest\d+ is in half", is_pattern=True)
            sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)
        listener.expect(r"\* guest\d+ has left", is_pattern=True)


def flood(chat, _):
    """A guest who writes as fast as possible, and does not read, is slowed down. The others stay."""
    line = b"y" * 900 + b"\n"
    with chat.guest() as one, chat.message_guest() as other:
        for guest in (one, other):
            guest.say("/join flood")
            guest.expect(r"\* guest\S+ is in flood", is_pattern=True)
        with connect(chat.host, chat.port, receive_buffer=4096) as sock:
            sock.sendall(b"/join flood\n")
            sock.setblocking(False)
            sent = 0
            try:
                while sent < 64 << 20:
                    sent += sock.send(line * 100)
            except (BlockingIOError, ConnectionResetError, BrokenPipeError):
                pass
            if sent >= 64 << 20:
                raise CheckFailed("64 MiB of lines were read at once")
            one.say("can you hear me?")
            other.expect(r"guest\S+: can you hear me\?", is_pattern=True)
            other.say("yes")
            one.expect(r"guest\S+: yes", is_pattern=True)


def silent_guests(chat, _):
    """One who does not read is removed, with either kind of connection; the others read how."""
    with chat.guest() as talker:
        talker.enter("talker", "busy")
        silent = connect(chat.host, chat.port, receive_buffer=4096)
        silent.sendall(b"/join busy\n")
        talker.expect(r"\* guest\d+ is in busy", is_pattern=True)
        silent_browser = connect(chat.http_host, chat.http_port, receive_buffer=4096)
        silent_browser.sendall(upgrade(chat) + frame(1, b"/join busy"))
        talker.expect(r"\* guest\d+ is in busy", is_pattern=True)
        writers = [chat.guest() for _ in range(10)]
        for writer in writers:
            writer.say("/join busy")
            writer.expect(r"\* guest\d+ is in busy", is_pattern=True)
        removed = number = 0
        while removed < 2:
            if number > MOST_LINES:
                raise CheckFailed(f"{2 - removed} of two guests who do not read were not removed after {number} lines")
            for writer in writers:
                writer.say(f"{number} " + "x" * 800)
                number += 1
                for guest in [talker, *writers]:
                    while not re.match(rf"guest\d+: {number - 1} ", line := guest.line()):
                        removed += guest is talker and line.endswith("was removed: too much is unread")
        for sock in (silent, silent_browser):
            read_to_end(sock)
            sock.close()
        for writer in writers:
            writer.close()


def load(program, chat, *arguments):
    """The load with its own checks: each guest who reads gets each line once and in order."""
    command = [program, "--connect", f"{chat.host}:{chat.port}", "--size", "800", "--rate", "5", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or done.stderr or len(lines) != 3:
        raise CheckFailed(f"chat_load ended with status {done.returncode}: {done.stdout}{done.stderr}")
    return lines


def thousand_guests(program, chat):
    allow_descriptors(GUESTS + SILENT)
    *_, latency = load(program, chat, "--guests", str(GUESTS), "--silent", "0", "--seconds", "3")
    print(f"    {GUESTS} guests, all read: {latency}", flush=True)
    _, delivered, latency = load(program, chat, "--guests", str(GUESTS), "--silent", str(SILENT), "--seconds", "3")
    print(f"    {SILENT} more do not read: {latency}\n    {delivered}", flush=True)
    if f" {SILENT} guests removed, 0 others lost" not in delivered:
        raise CheckFailed(f"not exactly those who do not read were removed: {delivered}")


def load_program(program, chat):
    """The arguments of chat_load, a server that does not listen, and the progress bar on a terminal."""

    def outcome(*arguments, **options):
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False, **options)

    if not outcome("--help").stdout.startswith("usage: chat_load"):
        raise CheckFailed("no usage of chat_load")
    for arguments in (["--size", "10"], ["--rate", "0"], ["--senders", "5", "--guests", "4"], ["--guests", "0"], ["extra"]):
        wrong = outcome(*arguments)
        if wrong.returncode != 2 or "usage: chat_load" not in wrong.stderr:
            raise CheckFailed(f"chat_load {arguments}: status {wrong.returncode}: {wrong.stderr}")
    host = own_address()
    refused = outcome("--connect", f"{host}:{free_port(host)}")
    if refused.returncode != 1 or not refused.stderr.startswith("chat_load: ") or refused.stderr.count("\n") != 1:
        raise CheckFailed(f"chat_load without a server: status {refused.returncode}: {refused.stderr}")
    terminal, other = pty.openpty()
    command = [program, "--connect", f"{chat.host}:{chat.port}", "--guests", "2", "--silent", "0", "--senders", "1", "--seconds", "1"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=other) as process:
        os.close(other)
        shown = b""
        try:
            while chunk := os.read(terminal, 1 << 16):
                shown += chunk
        except OSError:
            # The last writer has closed the terminal.
            pass
        os.close(terminal)
        output = process.stdout.read()
    if process.returncode != 0 or b"sending" not in shown or b"p99" not in output:
        raise CheckFailed(f"chat_load on a terminal: status {process.returncode}: {shown} {output}")


def has_ended(sock):
    """Sends another byte, unless the server has closed the connection."""
    try:
        sock.setblocking(False)
        return sock.recv(1) == b""
    except BlockingIOError:
        sock.send(b"x")
        time.sleep(1)
        return False
    except (ConnectionResetError, BrokenPipeError):
        return True


def check_all(program, load_path, random):
    allow_descriptors(2 * (GUESTS + SILENT))
    with Chat(program, "--threads", "2", "--max-unsent", "131072") as chat:
        descriptors, memory = open_descriptors(chat.pid), resident_bytes(chat.pid)
        # A client who never completes a request, although it sends a byte from time to time.
        stalled = connect(chat.http_host, chat.http_port)
        stalled.sendall(b"GET / HTTP/1.1\r\n")
        for check in (garbage, killed_guests, one_byte_at_a_time, half_close, flood, silent_guests):
            check(chat, random)
        load_program(load_path, chat)
        thousand_guests(load_path, chat)
        if not wait_until(lambda: has_ended(stalled), PATIENCE):
            raise CheckFailed("a client who never completes a request is still connected")
        stalled.close()
        works(chat)
        if not wait_until(lambda: open_descriptors(chat.pid) <= descriptors, DEADLINE):
            raise CheckFailed(f"{open_descriptors(chat.pid)} descriptors after {descriptors}")
        must_be_idle(chat.pid, "no guest is connected")
        growth = resident_bytes(chat.pid) - memory
        if growth > MAX_GROWTH:
            raise CheckFailed(f"the memory has grown by {growth >> 20} MiB")
        print(f"    {growth >> 20} MiB more memory; {chat.stop().strip()}", flush=True)
