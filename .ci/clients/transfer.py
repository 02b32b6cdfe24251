#!/usr/bin/python3
"""Checks the example `transfer`: whole trees with sha256sum, killed clients and servers, changing files, and abuse.

usage: transfer.py PROGRAM [--seed N]

Everything is in a temporary folder, on ports that the kernel selects. Needs openssl for the part about TLS.
"""

import argparse
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import time

import peer
import transfer_abuse
from peer import CheckFailed, check_equal
from transfer_peers import Outcome, Relay, Server, directories, end_all, fresh, get, read, start_get, sums, write

BIG = 24 << 20
# The relay stalls after this many bytes. The client has then received less than that of the big file.
STALL = 5 << 20


def make_tree(folder, generator):
    """Creates the files that are served. Returns the root."""
    root = fresh(folder, "root")
    for name in ["tree", "tree/sub", "tree/sub/deep", "tree/empty directory", "tree/many", "outer", "tree/.hidden"]:
        os.mkdir(os.path.join(root, name))
    contents = {
        "tree/big": generator.randbytes(BIG), "tree/empty": b"", "tree/a b": b"space", "tree/new\nline": b"line",
        "tree/%41": b"percent", "tree/sub/deep/\u00e9": b"accent", "tree/sub/x": b"x", "tree/sub/x.part": b"a part",
        "tree/sub/x.part.part": b"another", "tree/-option": b"-", "tree/" + "n" * 255: b"long", "tree/" + "n" * 254 + "m": b"long too",
        "tree/.hidden/secret": b"hidden", "tree/.dot": b"hidden", "outer/other": b"other", "medium": generator.randbytes(3 << 20),
    }
    contents |= {f"tree/many/{number}": generator.randbytes(generator.randrange(3000)) for number in range(300)}
    for name, content in contents.items():
        write(os.path.join(root, name), content)
    write(os.path.join(os.fsencode(root), b"tree/\xff\xfe\r\t*"), b"bytes")
    os.chmod(os.path.join(root, "tree/sub/x"), 0o755)
    write(os.path.join(folder, "outside"), b"outside")
    os.symlink("../../outside", os.path.join(root, "tree/link"))
    os.symlink("/etc", os.path.join(root, "tree/absolute"))
    os.symlink("sub", os.path.join(root, "tree/inner"))
    os.mkfifo(os.path.join(root, "tree/fifo"))
    return root


def without_hidden(listing):
    return b"\0".join(entry for entry in listing.split(b"\0") if b"/." not in entry.partition(b"./")[2] and not entry.partition(b"./")[2].startswith(b"."))


def same_tree(source, target, what):
    check_equal(sums(target) == without_hidden(sums(source)), True, f"{what}: the checksums")
    check_equal(directories(target), without_hidden(directories(source)), f"{what}: the directories")


def check_trees(program, server, root, folder):
    target = fresh(folder, "whole")
    outcome = get(program, server.port, ".", target)
    same_tree(root, target, "the root")
    files = sums(target).count(b"\0")
    check_equal((outcome.received, outcome.unchanged), (files, 0), "the counts")
    # The links, and the pipe.
    check_equal(outcome.errors.count("neither a file nor a directory"), 4, "the reports")
    modes = [os.stat(os.path.join(target, name)).st_mode & 0o111 for name in ["tree/sub/x", "tree/sub/x.part"]]
    check_equal((modes[0] != 0, modes[1]), (True, 0), "the permissions to execute")

    outcome = get(program, server.port, ".", target)
    check_equal((outcome.received, outcome.unchanged, outcome.bytes), (0, files, 0), "a repeated transfer")
    # Files that differ are received, and replaced.
    write(os.path.join(target, "tree/a b"), b"SPACE")
    os.remove(os.path.join(target, "tree/empty"))
    os.remove(os.path.join(target, "tree/sub/x"))
    os.symlink(os.path.join(folder, "outside"), os.path.join(target, "tree/sub/x"))
    outcome = get(program, server.port, ".", target)
    check_equal((outcome.received, outcome.bytes), (3, 6), "a repeated transfer of three files")
    same_tree(root, target, "after a repeated transfer")
    check_equal(read(os.path.join(folder, "outside")), b"outside", "the target of a symbolic link")

    target = fresh(folder, "parts")
    get(program, server.port, "tree/sub", target)
    same_tree(os.path.join(root, "tree/sub"), os.path.join(target, "sub"), "a directory")
    get(program, server.port, "tree/sub/deep/\u00e9", target)
    check_equal(read(os.path.join(target, "\u00e9")), b"accent", "a single file")
    new = os.path.join(folder, "new")
    get(program, server.port, "outer", new)
    check_equal(read(os.path.join(new, "outer/other")), b"other", "a destination that is created")
    for error, names in [
        ("no such file or directory", ["none", "tree/none", "tree/.dot", "tree/.hidden", "tree/absolute/passwd", "tree/inner/x"]),
        ("neither a file nor a directory", ["tree/link", "tree/absolute", "tree/fifo"]),
    ]:
        for name in names:
            outcome = get(program, server.port, name, target, status=1)
            check_equal(f"{name}: {error}\n" in outcome.errors, True, f"the error for {name}: {outcome.errors}")


def check_hidden(program, root, folder):
    server = Server(program, root, "--hidden", "--threads", "2")
    target = fresh(folder, "hidden")
    get(program, server.port, "tree", target)
    check_equal(sums(os.path.join(target, "tree")) == sums(os.path.join(root, "tree")), True, "a tree with hidden files")
    server.stop()


def await_stall(part, process):
    """Waits until the part of a file does not grow any more. Returns its length."""
    lengths = []

    def has_stalled():
        if process.poll() is not None:
            raise CheckFailed(f"a stalled client has ended: {process.communicate()}")
        length = os.path.getsize(part) if os.path.exists(part) else 0
        lengths.append(length)
        return length > 0 and lengths[-25:].count(length) == 25

    if not peer.wait_until(has_stalled, 30):
        raise CheckFailed("a transfer does not stall")
    return lengths[-1]


def check_killed_client(program, server, root, folder):
    """SIGKILL in the middle of a file. The same command continues."""
    target = fresh(folder, "killed")
    relay = Relay(server.port, STALL)
    process = start_get(program, relay.port, "tree/big", target)
    held = await_stall(os.path.join(target, "big.part"), process)
    process.kill()
    process.communicate()
    relay.close()
    check_equal(0 < held < BIG, True, "the length of a part")
    outcome = get(program, server.port, "tree/big", target)
    check_equal((outcome.received, outcome.bytes), (1, BIG - held), "the bytes of a continued transfer")
    check_equal(read(os.path.join(target, "big")) == read(os.path.join(root, "tree/big")), True, "the continued file")
    # SIGTERM ends a client in an orderly way.
    relay = Relay(server.port, STALL)
    other = fresh(folder, "terminated")
    process = start_get(program, relay.port, "tree/big", other)
    held = await_stall(os.path.join(other, "big.part"), process)
    # Meanwhile another client has its own destination, and not this one.
    outcome = get(program, server.port, "tree/big", other, status=1)
    check_equal("another process transfers it" in outcome.errors, True, "two clients with one destination")
    process.send_signal(signal.SIGTERM)
    check_equal("interrupted" in Outcome(process, 1).errors, True, "the message after a signal")
    relay.close()
    check_equal(get(program, server.port, "tree/big", other).bytes, BIG - held, "the bytes after a signal")
    check_equal(sums(other), sums(target), "the file after a signal")


def check_killed_server(program, root, folder):
    """The server is killed in the middle of a file, and another one is started. The client continues by itself."""
    server = Server(program, root)
    target = fresh(folder, "restarted")
    relay = Relay(server.port, STALL)
    process = start_get(program, relay.port, "tree", target)
    await_stall(os.path.join(target, "tree/big.part"), process)
    server.kill()
    relay.resume()
    time.sleep(0.5)
    server = Server(program, root)
    relay.port_of_server = server.port
    outcome = Outcome(process, 0)
    same_tree(os.path.join(root, "tree"), os.path.join(target, "tree"), "after a restart")
    total = sum(int(size) for size in subprocess.run(["find", target, "-type", "f", "-printf", "%s\n"], capture_output=True, check=True).stdout.split())
    check_equal(outcome.bytes, total, "the bytes that are received, each once")
    relay.close()
    server.stop()
    # A client does not wait for a server without an end.
    outcome = get(program, server.port, "tree", target, "--patience", "1", status=1)
    check_equal(outcome.errors.count("\n"), 1, "the message without a server")


def check_changes(program, server, root, folder, generator):
    """A file that is replaced, rewritten, lengthened or truncated while it is transferred."""
    path = os.path.join(root, "outer/changing")
    changed = {
        "replaced": generator.randbytes(BIG), "rewritten": generator.randbytes(BIG), "longer": generator.randbytes(BIG + 1000),
        "truncated": generator.randbytes(1000), "empty": b"",
    }
    for change, content in changed.items():
        write(path, generator.randbytes(BIG))
        target = fresh(folder, change)
        relay = Relay(server.port, STALL)
        process = start_get(program, relay.port, "outer/changing", target)
        await_stall(os.path.join(target, "changing.part"), process)
        if change == "replaced":
            write(path + ".new", content)
            os.rename(path + ".new", path)
        else:
            write(path, content)
        relay.resume()
        outcome = Outcome(process, 0)
        check_equal(os.listdir(target), ["changing"], f"the files after it was {change}")
        found = read(os.path.join(target, "changing"))
        # A file that was replaced may be complete in its old version.
        check_equal(found == content or (change == "replaced" and len(found) == BIG), True, f"a file that was {change}")
        check_equal((outcome.received, outcome.failed), (1, 0), f"the counts after it was {change}")
        relay.close()
        get(program, server.port, "outer/changing", target)
        check_equal(read(os.path.join(target, "changing")) == content, True, f"a file that was {change} before")
    os.remove(path)


def check_parts(program, server, root, folder):
    """Parts that are not those of the file, and files in the way."""
    content = read(os.path.join(root, "tree/big"))
    target = fresh(folder, "damaged")
    part = os.path.join(target, "big.part")
    for damage in [b"x" * 1000, content[:5000] + b"x", b"x" * BIG, content + b"more", b""]:
        write(part, damage)
        outcome = get(program, server.port, "tree/big", target)
        check_equal(read(os.path.join(target, "big")) == content, True, "a file with a damaged part")
        check_equal(outcome.received, 1, "the count with a damaged part")
        os.remove(os.path.join(target, "big"))
    write(part, content)
    check_equal(get(program, server.port, "tree/big", target).bytes, 0, "the bytes with a complete part")
    os.remove(os.path.join(target, "big"))

    outside = os.path.join(folder, "outside")
    for place in ["tree", "tree/sub", "tree/sub/x.part.part.part"]:
        target = fresh(folder, "in the way " + place.replace("/", " "))
        if "sub" in place:
            os.makedirs(os.path.join(target, os.path.dirname(place)))
        os.symlink(folder if place != "tree/sub/x.part.part.part" else outside, os.path.join(target, place))
        before = sorted(os.listdir(folder))
        get(program, server.port, "tree", target, status=1)
        check_equal((sorted(os.listdir(folder)), read(outside)), (before, b"outside"), f"what {place} links to")
    target = fresh(folder, "directory")
    os.makedirs(os.path.join(target, "big"))
    get(program, server.port, "tree/big", target, status=1)
    os.mkfifo(os.path.join(target, "x.part"))
    get(program, server.port, "tree/sub/x", target, status=1)


def check_progress(program, server, folder):
    """A bar on a terminal only."""
    target = fresh(folder, "bar")
    ours, terminal = pty.openpty()
    process = start_get(program, server.port, "tree/big", target, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:
        pass
    process.communicate()
    os.close(ours)
    check_equal((process.returncode, b"MiB" in shown and b"tree/big" in shown), (0, True), "the bar on a terminal")
    check_equal(get(program, server.port, "tree/big", target).errors, "", "the output without a terminal")
    with open("/dev/full", "w", encoding="ascii") as full:
        result = subprocess.run([program, "get", f"127.0.0.1:{server.port}", "tree/big", target], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    check_equal((result.returncode, result.stderr), (0, ""), "a client whose output is full")


def check_many(program, server, root, folder):
    """100 clients at once."""
    before = peer.resident_bytes(server.pid)
    targets = [fresh(folder, f"many {number}") for number in range(100)]
    processes = [start_get(program, server.port, "tree/sub" if number % 2 else "medium", target) for number, target in enumerate(targets)]
    most = before
    while any(process.poll() is None for process in processes):
        most = max(most, peer.resident_bytes(server.pid))
        time.sleep(0.05)
    for process in processes:
        Outcome(process, 0)
    expected = [sums(targets[0]), sums(targets[1])]
    check_equal(sums(os.path.join(root, "tree/sub")), sums(os.path.join(targets[1], "sub")), "a tree of 100")
    for number, target in enumerate(targets):
        check_equal(sums(target), expected[number % 2], "the files of 100 clients")
    if most - before > 64 << 20:
        raise CheckFailed(f"100 clients take {most - before >> 20} MiB")
    print(f"    100 clients at once: {before >> 20} MiB before, at most {most >> 20} MiB meanwhile")


def check_tls(program, root, folder):
    cert, key, other = (os.path.join(folder, name) for name in ["cert.pem", "key.pem", "other.pem"])
    for certificate in [cert, other]:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost", "-days", "2",
             "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key if certificate == cert else os.devnull, "-out", certificate],
            capture_output=True, timeout=60, check=True,
        )
    server = Server(program, root, "--tls", cert, key)
    target = fresh(folder, "tls")
    relay = Relay(server.port, STALL)
    process = start_get(program, relay.port, "tree", target, "--ca", cert)
    await_stall(os.path.join(target, "tree/big.part"), process)
    process.kill()
    process.communicate()
    relay.close()
    outcome = get(program, server.port, "tree", target, "--ca", cert)
    check_equal(0 < outcome.bytes < BIG, True, "the bytes of a continued transfer over TLS")
    same_tree(os.path.join(root, "tree"), os.path.join(target, "tree"), "a tree over TLS")
    get(program, server.port, "tree/sub/x", target, "--ca", other, status=1)
    check_equal(os.path.exists(os.path.join(target, "x")), False, "a file from a server that is not trusted")
    outcome = get(program, server.port, "tree/sub/x", target, "--patience", "1", status=1)
    check_equal("see --ca" in outcome.errors, True, f"the error of a client without TLS: {outcome.errors}")
    server.stop()


def check_reload(program, root):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reload.py")
    command = [script, program, "--listen", "127.0.0.1:0", "--tls", "CERT", "KEY", "serve", root]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    check_equal((result.returncode, result.stderr), (0, ""), "a reload of the certificate")


def check_patience(program, server, folder):
    """A server that becomes silent: before and in the handshake of TLS, after its first line, and within a file."""
    hello = len(b"transfer 1\n")
    cases = [(0, "tree", []), (0, "tree", ["--ca", os.path.join(folder, "cert.pem")]), (hello, "tree", []), (hello, "tree/big", []), (STALL, "tree/big", [])]
    relays = [Relay(server.port, stall) for stall, _, _ in cases]
    processes = [
        start_get(program, relay.port, name, fresh(folder, f"silent {number}"), "--patience", "2", *options)
        for number, (relay, (_, name, options)) in enumerate(zip(relays, cases))
    ]
    for number, (relay, process) in enumerate(zip(relays, processes)):
        # Without the limit it takes a minute or more.
        errors = Outcome(process, 1, seconds=40).errors
        relay.close()
        is_right = errors.startswith("transfer: no progress in 2 s: the server does not reply") and errors.count("\n") == 1
        check_equal(is_right, True, f"the message of the silent server {number}: {errors}")
        if number < 2:
            check_equal("see --ca" in errors, number == 0, f"the mention of --ca: {errors}")


def check_stop(program, root, folder):
    """A stop lets the transfers finish that fit into its period of grace."""
    server = Server(program, root, "--grace", "30")
    with server.connect(receive_buffer=65536) as sock:
        # The checksum is computed before the signal.
        sock.sendall(b"GET tree/big 0\n")
        head = f"DATA 0 {BIG}\n".encode()
        peer.receive_exactly(sock, head, "the head of a file")
        server.process.send_signal(signal.SIGTERM)
        peer.receive_exactly(sock, read(os.path.join(root, "tree/big")), "a file during a stop")
        rest = b""
        while data := sock.recv(100):
            rest += data
        check_equal((rest[:7], len(rest)), (b"SHA256 ", 72), "the checksum during a stop")
    server.await_end()


def check_arguments(program, folder):
    for arguments, status in [
        (["--help"], 0), ([], 2), (["send"], 2), (["serve"], 2), (["serve", "a", "b"], 2), (["get", "127.0.0.1:1", "a"], 2),
        (["get", "nowhere", "a", folder], 2), (["get", "127.0.0.1:1", "../a", folder], 2), (["get", "127.0.0.1:1", "/a", folder], 2),
        (["--ca", "x", "serve", folder], 2), (["--hidden", "get", "127.0.0.1:1", "a", folder], 2), (["--threads", "0", "serve", folder], 2),
        (["serve", os.path.join(folder, "none")], 1), (["--patience", "1", "get", "127.0.0.1:1", "a", folder], 1),
        (["--patience", "0", "get", "127.0.0.1:1", "a", folder], 2),
        (["get", "127.0.0.1:1", "a", os.path.join(folder, "none/none")], 1), (["--tls", "none", "none", "serve", folder], 1),
    ]:
        result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20, check=False)
        check_equal(result.returncode, status, f"the status of {arguments}")
        output = result.stdout if status == 0 else result.stderr
        check_equal(output.startswith("usage: ") or "\nusage: " in output, status != 1, f"the usage for {arguments}")
        check_equal(status == 1 and output.count("\n") != 1, False, f"the error for {arguments}: {output}")


    for command in [["serve", folder], ["get", "127.0.0.1:1", "a", folder]]:
        result = subprocess.run([program, *command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=20, check=False)
        first = result.stderr.splitlines()[0]
        check_equal(first, f"transfer: options stand before `{command[0]}`: `--listen`", "an option after the command")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"  seed {options.seed}", flush=True)
    generator = random.Random(options.seed)
    program = os.path.abspath(options.program)
    # The server inherits the limit.
    peer.allow_descriptors(2 * transfer_abuse.CONNECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        try:
            root = make_tree(folder, generator)
            check_arguments(program, folder)
            server = Server(program, root, "--threads", "2")
            for check, arguments in [
                (check_trees, (program, server, root, folder)),
                (check_hidden, (program, root, folder)),
                (check_killed_client, (program, server, root, folder)),
                (check_killed_server, (program, root, folder)),
                (check_changes, (program, server, root, folder, generator)),
                (check_parts, (program, server, root, folder)),
                (check_progress, (program, server, folder)),
                (check_many, (program, server, root, folder)),
                (check_tls, (program, root, folder)),
                (check_reload, (program, root)),
                (check_patience, (program, server, folder)),
                (check_stop, (program, root, folder)),
                (transfer_abuse.check_hostile_servers, (program, folder)),
                (transfer_abuse.check_all, (server, root, generator)),
            ]:
                started = time.monotonic()
                check(*arguments)
                print(f"    {check.__name__.removeprefix('check_').replace('_', ' ')}: {time.monotonic() - started:.1f} s", flush=True)
            print(f"    {server.stop()}", flush=True)
        except (CheckFailed, OSError, subprocess.CalledProcessError) as failure:
            sys.exit(f"transfer.py: {failure} (seed {options.seed})")
        finally:
            end_all()


if __name__ == "__main__":
    main()
