"""Clients that misbehave towards `transfer serve`, and servers that misbehave towards `transfer get`."""

import hashlib
import os
import socket
import time

import peer
from peer import CheckFailed, check_equal
from transfer_peers import Hostile, Outcome, fresh, get, read, start_get

CONNECTIONS = 1000
MIB = 1 << 20
BAD_REQUEST = b"ERROR bad-request not a request\n"
NOT_FOUND = b"ERROR not-found no such file or directory\n"
NOT_REGULAR = b"ERROR not-regular neither a file nor a directory\n"


def file_reply(content, offset=0):
    digest = hashlib.sha256(content).hexdigest().encode()
    return b"DATA %d %d\n" % (offset, len(content)) + content[offset:] + b"SHA256 " + digest + b"\n"


def read_to_end(sock):
    received = b""
    while chunk := sock.recv(1 << 18):
        received += chunk
    return received


def serves(server):
    with server.connect() as sock:
        sock.sendall(b"GET outer/other 0\n")
        peer.receive_exactly(sock, file_reply(b"other"), "a small file")


# --- Servers ------------------------------------------------------------------------------------------


def check_hostile_servers(program, folder):
    """None of them makes a client write outside of its destination, wait without an end, or take a wrong file for right."""
    content = b"x" * 1000
    right = file_reply(content)
    for what, hello, replies in [
        ("no greeting", b"SSH-2.0-x\r\n", []),
        ("an endless line", b"t" * 100_000, []),
        ("binary greeting", bytes(range(256)) * 4, []),
        ("another version", b"transfer 2\n", []),
        ("no directory", None, [b"CHANGED\n"]),
        ("a parent", None, [b"DIRECTORY 1\ndir ..\n"]),
        ("a path", None, [b"DIRECTORY 1\nfile 5 ..%2f..%2fescape\n", right]),
        ("an absolute path", None, [b"DIRECTORY 1\nfile 5 /tmp/escape\n", right]),
        ("a NUL", None, [b"DIRECTORY 1\nfile 5 a%00b\n", right]),
        ("too many entries", None, [b"DIRECTORY 100001\n"]),
        ("the same name twice", None, [b"DIRECTORY 2\nfile 5 a\ndir a\n"]),
        ("a part instead of an entry", None, [b"DIRECTORY 1\nDATA 0 5\n12345"]),
        ("no end of directories", None, [b"DIRECTORY 1\ndir d\n"] * 300),
        ("another offset", None, [b"FILE 1000\n", b"DATA 5 1000\n" + content[5:]]),
        ("a negative length", None, [b"FILE -1\n"]),
        ("a wrong checksum", None, [b"FILE 1000\n", *[b"DATA 0 1000\n" + content + b"SHA256 " + b"00" * 32 + b"\n"] * 10]),
        ("always changed", None, [b"FILE 1000\n", *[b"DATA 0 1000\n" + content + b"CHANGED\n"] * 10]),
        ("a line after the content", None, [b"FILE 1000\n", b"DATA 0 1000\n" + content + b"FILE 5\n"]),
        ("an error with control characters", None, [b"ERROR failed \x1b[31mred\x07\n"]),
        ("an unknown error", None, [b"ERROR\n"]),
        ("an end", None, [b"FILE 1000\n", None]),
    ]:
        target = fresh(folder, f"hostile {what}")
        server = Hostile(replies, **({} if hello is None else {"hello": hello}))
        before = sorted(os.listdir(folder))
        outcome = get(program, server.port, "name", target, "--patience", "3", status=1)
        server.close()
        check_equal(sorted(os.listdir(folder)), before, f"the folder after {what}")
        inside = [entry for _, _, files in os.walk(target) for entry in files]
        check_equal([entry for entry in inside if not entry.endswith(".part")], [], f"the files after {what}")
        check_equal(any(ord(char) < 32 and char != "\n" for char in outcome.errors), False, f"control characters after {what}")
        check_equal(outcome.errors.startswith("transfer: "), True, f"the message after {what}: {outcome.errors!r}")
    # An infinite listing, and a file without an end: the memory of the client stays bounded.
    server = Hostile([b"DIRECTORY 100000\n" + b"".join(b"file 5 %d%s\n" % (n, b"%6e" * 200) for n in range(100_000)), b"FILE 1\n"])
    target = fresh(folder, "hostile listing")
    process = start_get(program, server.port, "name", target)
    most = 0
    while process.poll() is None:
        try:
            most = max(most, peer.resident_bytes(process.pid))
        except (CheckFailed, FileNotFoundError):
            break
        time.sleep(0.02)
    Outcome(process, 1)
    server.close()
    if most > 256 * MIB:
        raise CheckFailed(f"a long listing takes {most >> 20} MiB of a client")
    # It is right after all.
    server = Hostile([b"EXEC 1000\n", right])
    target = fresh(folder, "right")
    get(program, server.port, "name", target)
    server.close()
    check_equal(read(os.path.join(target, "name")), content, "the file of a server in Python")


# --- Clients ------------------------------------------------------------------------------------------


def paths_outside(server, root, _):
    for path in [
        "..", "../outside", "%2e%2e/outside", "tree/../../outside", "tree/..%2f..%2foutside", "/etc/passwd", "%2fetc/passwd",
        "tree/link%00", "tree//sub", "tree/sub/", "./tree", "", "tree/" + "a" * 256, "a/" * 210 + "a", "%", "tree/%4",
    ]:
        for request in [f"GET {path} 0\n", f"LIST {path}\n"]:
            with server.connect() as sock:
                sock.sendall(request.encode())
                check_equal(read_to_end(sock), BAD_REQUEST, f"the reply to {request!r}")
    with server.connect() as sock:
        for expected, paths in [
            (NOT_REGULAR, ["tree/link", "tree/absolute", "tree/inner", "tree/fifo"]),
            (NOT_FOUND, ["tree/absolute/passwd", "tree/absolute/none", "tree/inner/x", "tree/.dot", "tree/.hidden/secret", "none", "tree/big/x"]),
        ]:
            for request in [request for path in paths for request in [f"GET {path} 0\n", f"LIST {path}\n"]]:
                sock.sendall(request.encode())
                peer.receive_exactly(sock, expected, f"the reply to {request!r}")
        sock.sendall(b"GET tree 0\nGET outer/other 6\nGET outer/other 5\n")
        peer.receive_exactly(sock, NOT_FOUND + b"ERROR out-of-range the file is shorter\n" + file_reply(b"other", 5), "other errors")


def garbage(server, _, generator):
    for _ in range(200):
        sock = server.connect()
        start = generator.choice([b"", b"GET tree/big 0\n", b"LIST .\n", b"GET tree/%", b"\x16\x03\x01"])
        try:
            sock.sendall(start + generator.randbytes(generator.randrange(5000)))
        except (BrokenPipeError, ConnectionResetError):
            pass
        peer.close_with_reset(sock) if generator.random() < 0.5 else sock.close()
    with server.connect() as sock:
        sock.sendall(b"GET outer/other 0\n" + b"x" * 20_000)
        replies = b""
        try:
            replies = read_to_end(sock)
        except ConnectionResetError:
            # The server does not read the rest of the line for long.
            pass
        check_equal(replies in (b"", file_reply(b"other") + BAD_REQUEST), True, f"the replies to a long line: {replies}")


def killed_clients(server, _, generator):
    for _ in range(100):
        sock = server.connect()
        sock.sendall(b"GET tree/big %d\n" % generator.randrange(MIB) * generator.randrange(1, 20) + b"LIST tree/many\n" * generator.randrange(20))
        sock.recv(generator.randrange(1, 1 << 20))
        peer.close_with_reset(sock) if generator.random() < 0.5 else sock.close()


def one_byte_at_a_time(server, _, __):
    with server.connect() as sock:
        for byte in b"GET outer/other 0\r\nLIST outer\nGET outer/none 0\n":
            sock.sendall(bytes([byte]))
            time.sleep(0.0005)
        peer.receive_exactly(sock, file_reply(b"other") + b"DIRECTORY 1\nfile 5 other\n" + NOT_FOUND, "single bytes")


def half_close(server, root, _):
    """All replies arrive after the end of the input, in order."""
    big = read(os.path.join(root, "tree/big"))
    with server.connect() as sock:
        sock.sendall(b"GET tree/big 5\nLIST outer\nGET outer/other 1\n" * 3 + b"GET outer/other 0\n" * 300)
        sock.shutdown(socket.SHUT_WR)
        expected = (file_reply(big, 5) + b"DIRECTORY 1\nfile 5 other\n" + file_reply(b"other", 1)) * 3 + file_reply(b"other") * 300
        peer.receive_exactly(sock, expected, "the replies after a half-close")
        peer.expect_end(sock, "a half-closed connection")


def clients_that_do_not_read(server, _, __):
    before = peer.resident_bytes(server.pid)
    socks = [server.connect(receive_buffer=4096) for _ in range(100)]
    for number, sock in enumerate(socks):
        sock.sendall([b"GET tree/big 0\n" * 200, b"LIST tree/many\n" * 200, b"GET tree/many/7 0\n" * 200][number % 3])
    for _ in range(5):
        serves(server)
    peer.must_be_idle(server.pid, "no client reads")
    taken = peer.resident_bytes(server.pid) - before
    if taken > 96 * MIB:
        raise CheckFailed(f"100 clients that do not read take {taken >> 20} MiB")
    for sock in socks:
        peer.close_with_reset(sock)


def many_connections(server, root, generator):
    socks = [server.connect() for _ in range(CONNECTIONS)]
    contents = [read(os.path.join(root, f"tree/many/{number}")) for number in range(300)]
    for number, sock in enumerate(socks):
        sock.sendall(b"GET tree/many/%d 0\nLIST outer\n" % (number % 300))
    for number, sock in enumerate(socks):
        peer.receive_exactly(sock, file_reply(contents[number % 300]) + b"DIRECTORY 1\nfile 5 other\n", "one of 1,000 connections")
    peer.must_be_idle(server.pid, f"{CONNECTIONS} connections are idle")
    for sock in socks:
        peer.close_with_reset(sock) if generator.random() < 0.5 else sock.close()


def check_all(server, root, generator):
    before = peer.open_descriptors(server.pid)
    for check in [
        paths_outside, garbage, killed_clients, one_byte_at_a_time, half_close, clients_that_do_not_read, many_connections,
    ]:
        started = time.monotonic()
        check(server, root, generator)
        serves(server)
        if not peer.wait_until(lambda: peer.open_descriptors(server.pid) <= before, 30):
            raise CheckFailed(f"{check.__name__}: {peer.open_descriptors(server.pid) - before} descriptors are left open")
        print(f"      {check.__name__.replace('_', ' ')}: {time.monotonic() - started:.1f} s", flush=True)
    peer.must_be_idle(server.pid, "all clients have left")
