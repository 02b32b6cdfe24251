#!/usr/bin/python3
"""Checks the inspector of the example `http`: the page in Chromium under load, JSON, Prometheus text, and misbehaving clients.

usage: inspector.py PROGRAM [--seed N] [--screenshots FOLDER]

The numbers that the page shows are compared with those of the clients that caused them. Needs the packages chromium, wrk,
python3-websockets and python3-prometheus-client of Debian.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from prometheus_client.parser import text_string_to_metric_families

import peer
from chromium import Browser
from peer import CheckFailed, check_equal

FILE = 1024
BIG = 8 << 20
HUGE = 1 << 30
CLIENTS = 40
MAX_PER_ADDRESS = 2000
REJECTED = 25
MAX_MEMORY = 128 << 20


class Server:
    """The program under test, with its inspector, on ports that the kernel selects."""

    def __init__(self, program, folder, *options):
        command = [program, "--root", folder, "--listen", "127.0.0.1:0", "--inspector", "127.0.0.1:0", "--threads", "2",
                   "--idle", "3600"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        self.inspector = self._port("inspector: http://", "/")
        self.port = self._port("listening on ", "")

    def _port(self, prefix, suffix):
        line = self.process.stdout.readline().rstrip("\n")
        if not line.startswith(prefix):
            raise CheckFailed(f"the server printed {line!r}")
        return int(line.removesuffix(suffix).rpartition(":")[2])

    def get(self, path, status=200, method="GET", **fields):
        """Requests a resource of the inspector."""
        connection = http.client.HTTPConnection("127.0.0.1", self.inspector, timeout=peer.DEADLINE)
        with contextlib.closing(connection):
            connection.request(method, path, headers=fields)
            response = connection.getresponse()
            body = response.read()
        check_equal(response.status, status, f"{method} {path} {fields}")
        return body

    def json(self, path):
        return json.loads(self.get(path))

    def server(self):
        [server] = self.json("/api/overview")["servers"]
        return server

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            raise CheckFailed("the server does not end") from None
        check_equal(self.process.returncode, 0, "the exit status")


class Client:
    """A client of the file server that counts its bytes."""

    def __init__(self, port, **options):
        self.socket = peer.connect("127.0.0.1", port, **options)
        self.address = "%s:%d" % self.socket.getsockname()
        self.sent = self.received = 0

    def request(self, path, length):
        """Requests a file and receives it."""
        self.send(path)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        missing = len(data.split(b"\r\n\r\n", 1)[0]) + 4 + length - len(data)
        while missing > 0:
            missing -= len(self._receive())
        check_equal(missing, 0, "the length of a response")

    def send(self, path):
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.socket.sendall(request)
        self.sent += len(request)

    def _receive(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise CheckFailed("the server has closed a connection")
        self.received += len(data)
        return data


def await_equal(read, expected, what):
    """Waits until a value that the server reports is the expected one."""
    if not peer.wait_until(lambda: read() == expected, peer.DEADLINE):
        check_equal(read(), expected, what)


def make_clients(server, generator):
    """Opens clients with different numbers of requests, one with a large file, and one that reads slowly."""
    clients = [Client(server.port) for _ in range(CLIENTS)]
    for client in clients:
        for _ in range(generator.randrange(1, 6)):
            client.request("/small", FILE)
    clients[0].request("/big", BIG)
    slow = Client(server.port, receive_buffer=1 << 16)
    slow.send("/huge")
    slow.reader = threading.Thread(target=read_slowly, args=(slow.socket,), daemon=True)
    slow.reader.start()
    return clients, slow


def read_slowly(sock):
    """Reads until the connection ends: 256 KiB a second. The server resets a client that reads less than 16 KiB."""
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            time.sleep(0.25)


def make_rejections(server, open_now):
    """Opens so many connections that some are rejected. Returns when all have been counted and closed."""
    more = [peer.connect("127.0.0.1", server.port) for _ in range(MAX_PER_ADDRESS - open_now + REJECTED)]
    accepted = server.server()["accepted"]
    await_equal(lambda: server.server()["rejected"]["per_address"], REJECTED, "the rejected connections")
    await_equal(lambda: server.server()["open"], MAX_PER_ADDRESS, "the open connections at the maximum")
    total = server.json("/api/connections?limit=1000")
    await_equal(lambda: server.json("/api/connections?limit=1000")["total"], MAX_PER_ADDRESS, "the listed connections")
    check_equal(len(total["connections"]) <= 1000, True, "the number of rows")
    for sock in more:
        sock.close()
    await_equal(lambda: server.server()["open"], open_now, "the open connections after that")
    return accepted


TABLE = """
[...document.querySelectorAll('#%s tbody tr')].map((line) =>
  Object.fromEntries([...line.cells].map((cell) => [cell.dataset.key, cell.dataset.value])))
"""


def table(browser, name):
    return browser.evaluate(TABLE % name)


def check_page(server, browser, clients, slow):
    """Compares the numbers on the page with those of the clients."""
    open_now = len(clients) + 1
    browser.call("Page.navigate", url=f"http://127.0.0.1:{server.inspector}/")
    browser.await_true("document.documentElement?.dataset.ready === 'overview'", "shows the loops")
    browser.await_true("document.documentElement.dataset.connections === 'ready'", "shows connections")
    browser.await_true(f"document.querySelector('#connection-note').dataset.total === '{open_now}'", f"shows {open_now} connections")
    [shown] = table(browser, "server-table")
    expected = server.server()
    for key, value in [("open", open_now), ("accepted", expected["accepted"]), ("rejected", REJECTED), ("max_connections", 10000)]:
        check_equal(shown[key], str(value), f"the server's {key} on the page")
    check_equal(shown["address"], f"127.0.0.1:{server.port}", "the server's address on the page")
    rows = {row["peer"]: row for row in table(browser, "connection-table")}
    check_equal(len(rows), open_now, "the rows of connections on the page")
    for client in clients:
        row = rows.get(client.address)
        if row is None:
            raise CheckFailed(f"the page does not show the client {client.address}")
        found = (int(row["received"]), int(row["sent"]), row["unsent"], row["server"], row["state"])
        check_equal(found, (client.sent, client.received, "0", "http", "open"), f"the row of {client.address}")
    check_equal(int(rows[slow.address]["received"]), slow.sent, "the bytes of the slow client")
    check_equal(int(rows[slow.address]["unsent"]) > 0, True, "the unsent bytes of the slow client")
    loops = {row["name"]: row for row in table(browser, "loop-table")}
    check_equal(sorted(loops), ["http", "reveille-0", "reveille-1"], "the loops on the page")
    check_equal({row["state"] for row in loops.values()}, {"running"}, "the states of the loops")
    [count] = [browser.evaluate("document.querySelectorAll('#descriptor-table tbody tr').length")]
    check_equal(count > open_now, True, f"the rows of descriptors, {count}")
    print(f"    {open_now} connections with their bytes, and {REJECTED} rejections: as the clients count them", flush=True)


def check_keyboard(browser, slow):
    """Sorts and opens a row without a pointer."""
    focus = "document.querySelector('#connection-table th[data-key=%s] button').focus()"
    for key in ("sent", "unsent"):
        browser.evaluate(focus % key)
        browser.press("Enter")
        browser.await_true(f"document.querySelector('#connection-table th[data-key={key}]').ariaSort === 'descending'", f"sorts by {key}")
        values = [int(row[key]) for row in table(browser, "connection-table")]
        check_equal(values, sorted(values, reverse=True), f"the order by {key}")
    browser.await_true(
        f"document.querySelector('#connection-table tbody tr td')?.dataset.value === '{slow.address}'", "shows the slow client first")
    browser.evaluate("document.activeElement.blur()")
    browser.press("4")
    check_equal(browser.evaluate("document.activeElement.id"), "connections", "the section that has the focus")
    browser.press("j")
    check_equal(browser.evaluate("document.activeElement.dataset.id !== undefined"), True, "a row has the focus")
    check_equal(browser.evaluate("getComputedStyle(document.activeElement).outlineStyle"), "solid", "the outline of the focus")
    browser.press("Enter")
    browser.await_true("document.querySelector('#details-list dd[data-key=tcp_state]') !== null", "shows details")
    shown = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#details-list dd')].map((line) => [line.dataset.key, line.dataset.value]))")
    check_equal((shown["peer"], shown["tcp_state"]), (slow.address, "Established"), "the details")
    check_equal(int(shown["unsent"]) > 0 and shown["reading"] in ("true", "false"), True, "the details of the output")
    browser.press("Escape")
    browser.await_true("!document.querySelector('#details').open", "closes the details")
    browser.press("?")
    browser.await_true("document.querySelector('#shortcuts').open", "shows the shortcuts")
    browser.press("Escape")
    browser.press("p")
    check_equal(browser.evaluate("document.querySelector('#pause').ariaPressed"), "true", "paused")
    browser.press("p")
    print("    sorted and opened with the keyboard", flush=True)


def check_colours(browser, folder):
    """The page in both colour schemes. Text and background must differ enough (WCAG: 4.5)."""
    for scheme in ("light", "dark"):
        browser.set_colours(scheme)
        colours = browser.evaluate(
            "[...document.querySelectorAll('body, section, th, td, .note, .state, .axis span, #facts, .key')].map((node) => {"
            " let at = node; while (getComputedStyle(at).backgroundColor === 'rgba(0, 0, 0, 0)') at = at.parentElement;"
            " return [getComputedStyle(node).color, getComputedStyle(at).backgroundColor]; })")
        for text, background in {tuple(pair) for pair in colours}:
            if contrast(text, background) < 4.5:
                raise CheckFailed(f"{scheme}: the text {text} on {background} has a contrast of {contrast(text, background):.1f}")
        for name, place in [("", "document.documentElement"), ("-connections", "document.querySelector('#connections')")]:
            browser.evaluate(f"{place}.scrollIntoView()")
            path = os.path.join(folder, f"inspector-{scheme}{name}.png")
            browser.screenshot(path)
            check_equal(os.path.getsize(path) > 20_000, True, f"the size of the picture {path}")
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.set_colours("light")
    check_equal(dark != browser.evaluate("getComputedStyle(document.body).backgroundColor"), True, "the dark scheme differs")


def contrast(text, background):
    def luminance(colour):
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    lighter, darker = sorted([luminance(text), luminance(background)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def check_under_load(server, browser):
    """While wrk loads the server, the page shows the load of its loops, and stays connected."""
    # It ends, with its totals, by the signal.
    load = subprocess.Popen(
        ["wrk", "-t1", "-c50", "-d10m", f"http://127.0.0.1:{server.port}/small"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )
    try:
        browser.await_true(
            "[...document.querySelectorAll('#loop-table td[data-key=load]')].filter((cell) => Number(cell.dataset.value) > 0.01).length >= 2",
            "shows the load of two loops")
        browser.await_true("Number(document.querySelector('#connection-note').dataset.total) >= 90", "shows the connections of wrk")
        browser.await_true("document.querySelector('#lost').hidden", "is connected")
    finally:
        load.send_signal(signal.SIGINT)
        output, _ = load.communicate(timeout=60)
    check_equal(load.returncode, 0, f"the status of wrk: {output}")
    [requests] = [int(line.split()[0]) for line in output.splitlines() if "requests in" in line]
    print(f"    under {requests} requests of wrk the page showed the load", flush=True)


def check_metrics(server, clients):
    """The text is what prometheus_client expects, and has the same numbers as the JSON."""
    families = {}
    for family in text_string_to_metric_families(server.get("/metrics").decode()):
        check_equal(family.name in families, False, f"{family.name} occurs once")
        check_equal(family.documentation != "" and family.type in ("counter", "gauge", "histogram"), True, f"{family.name} is described")
        families[family.name] = family

    def values(name):
        return {tuple(sorted(sample.labels.items())): sample.value for sample in families[name].samples if not sample.name.endswith("_created")}

    expected = server.server()
    name = (("server", "http"),)
    check_equal(values("reveille_server_connections")[name], len(clients), "open connections in the text")
    check_equal(values("reveille_server_accepted")[name], expected["accepted"], "accepted connections in the text")
    rejected = values("reveille_server_rejected")
    check_equal(rejected[(("reason", "per_address"), *name)], REJECTED, "rejected connections in the text")
    check_equal(sum(rejected.values()), REJECTED, "all rejected connections in the text")
    check_equal(set(values("reveille_loop_up").values()), {1}, "the loops respond")
    for family in families.values():
        if family.type == "counter":
            check_equal(all(sample.name.endswith("_total") for sample in family.samples), True, f"the names of {family.name}")
        if family.type == "histogram":
            check_histogram(family)
    fds = values("process_open_fds")[()]
    check_equal(fds > len(clients), True, f"{fds} open descriptors")
    print(f"    {len(families)} families of metrics", flush=True)


def check_histogram(family):
    loops = {sample.labels["loop"] for sample in family.samples}
    for loop in loops:
        own = [sample for sample in family.samples if sample.labels["loop"] == loop]
        buckets = [(float(sample.labels["le"]), sample.value) for sample in own if sample.name.endswith("_bucket")]
        check_equal(buckets, sorted(buckets), f"the buckets of {family.name}, {loop}")
        [count] = [sample.value for sample in own if sample.name.endswith("_count")]
        check_equal(buckets[-1], (float("inf"), count), f"the last bucket of {family.name}, {loop}")
        check_equal(count > 0 and [sample.value > 0 for sample in own if sample.name.endswith("_sum")] == [True], True, f"{family.name}, {loop}")


def exchange(server, data):
    """Sends bytes and returns everything that the inspector sends until it closes."""
    with contextlib.closing(peer.connect("127.0.0.1", server.inspector)) as sock:
        sock.sendall(data)
        return receive_all(sock)


def receive_all(sock):
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            received += data
    return received


def check_requests(server, generator):
    """Hosts, methods, versions, and heads that are not valid."""
    for host in ["localhost", f"localhost:{server.inspector}", "127.0.0.1", "[::1]:80"]:
        server.get("/api/overview", Host=host)
    for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example:80"]:
        for path in ["/", "/metrics", "/api/overview", "/api/connections"]:
            check_equal(b"reveille" in server.get(path, status=421, Host=host), False, f"{path} for {host}")
    for path in ["/none", "/api", "/api/connections/", "/api/connections/0/x", "/api/connections/99/1", "/api/connections/1/99999", "/../etc/passwd"]:
        server.get(path, status=404)
    for path in ["/api/connections?sort=x", "/api/connections?limit=-1", "/api/connections?order=up", "/api/overview?since=x"]:
        server.get(path, status=400)
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"]:
        server.get("/", status=405, method=method)
    check_equal(server.get("/", method="HEAD"), b"", "the body of HEAD")
    head = b"GET /api/overview HTTP/1.1\r\nHost: localhost\r\n"
    for request, status in [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (head + b"Host: localhost\r\n\r\n", 400),
        (head + b"Content-Length: 10\r\n\r\n", 400),
        (head + b"Transfer-Encoding: chunked\r\n\r\n", 400),
        (head + b"X: " + b"x" * 9000, 431),
        (head + b"X: y\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ]:
        received = exchange(server, request)
        check_equal(received.split(b" ")[:2], [b"HTTP/1.1", str(status).encode()], f"the response to {request[:60]}")
    pipelined = head + b"\r\n" + b"GET /api/connections HTTP/1.1\r\nHost: a\r\n\r\n" + head + b"Connection: close\r\n\r\n"
    received = exchange(server, pipelined)
    check_equal([part[:3] for part in received.split(b"HTTP/1.1 ")[1:]], [b"200", b"421", b"200"], "pipelined requests")
    with contextlib.closing(peer.connect("127.0.0.1", server.inspector)) as sock:
        for byte in head + b"Connection: close\r\n\r\n":
            sock.sendall(bytes([byte]))
        check_equal(receive_all(sock)[:15], b"HTTP/1.1 200 OK", "one byte at a time")
    with contextlib.closing(peer.connect("127.0.0.1", server.inspector)) as sock:
        sock.sendall(head + b"\r\n")
        sock.shutdown(socket.SHUT_WR)
        check_equal(receive_all(sock)[:15], b"HTTP/1.1 200 OK", "a half-closed client")
    for _ in range(200):
        with contextlib.suppress(ConnectionError):
            exchange(server, generator.randbytes(generator.randrange(1, 3000)) + b"\r\n\r\n")
    server.get("/api/overview")


def check_crowd(server, browser):
    """A thousand clients that send nothing, or part of a request, or do not read."""
    crowd = [peer.connect("127.0.0.1", server.inspector) for _ in range(1000)]
    for n, sock in enumerate(crowd):
        with contextlib.suppress(ConnectionError):
            if n % 3 == 1:
                sock.sendall(b"GET / HT")
            elif n % 3 == 2:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
    server.get("/metrics")
    started = browser.evaluate("second")
    browser.await_true(f"second > {started} && document.querySelector('#lost').hidden", "is still updated")
    memory = peer.resident_bytes(server.process.pid)
    check_equal(memory < MAX_MEMORY, True, f"the memory with a thousand clients, {memory >> 20} MiB")
    # A client with part of a head, or with nothing, is disconnected in time.
    late = peer.connect("127.0.0.1", server.inspector)
    late.sendall(b"GET / HT")
    check_equal(receive_all(late), b"", "the reply to a head that does not end")
    for sock in crowd:
        sock.close()
    server.get("/api/overview")
    print(f"    a thousand clients, {memory >> 20} MiB", flush=True)


def check_arguments(program, folder, server):
    """Addresses that are refused: one line, and no server."""
    for address, status, text in [
        ("x", 2, "`x` is not an address"),
        ("0.0.0.0:0", 1, "not a loopback address"),
        (f"127.0.0.1:{server.inspector}", 1, "in use"),
    ]:
        command = [program, "--root", folder, "--listen", "127.0.0.1:0", "--inspector", address]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=peer.DEADLINE, check=False)
        check_equal((ended.returncode, text in ended.stderr.splitlines()[0]), (status, True), f"--inspector {address}: {ended.stderr}")


def check(program, folder, screenshots, generator):
    for name, length in [("small", FILE), ("big", BIG)]:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(generator.randbytes(length))
    with open(os.path.join(folder, "huge"), "wb") as file:
        file.truncate(HUGE)
    server = Server(program, folder)
    browser = None
    try:
        clients, slow = make_clients(server, generator)
        make_rejections(server, CLIENTS + 1)
        browser = Browser(os.path.dirname(folder))
        check_page(server, browser, clients, slow)
        check_keyboard(browser, slow)
        slow.socket.shutdown(socket.SHUT_RDWR)
        slow.reader.join()
        peer.close_with_reset(slow.socket)
        await_equal(lambda: server.server()["open"], CLIENTS, "the open connections without that client")
        check_under_load(server, browser)
        await_equal(lambda: server.server()["open"], CLIENTS, "the open connections after wrk")
        check_metrics(server, clients)
        check_colours(browser, screenshots)
        check_requests(server, generator)
        check_crowd(server, browser)
        check_arguments(program, folder, server)
        own = f"http://127.0.0.1:{server.inspector}/"
        foreign = [url for url in browser.requests if not url.startswith((own, "data:", "about:"))]
        check_equal(foreign, [], "the requests of the page to other places")
        # While the crowd was connected, a request may have been rejected.
        complaints = [text for text in browser.complaints if "Failed to load resource" not in text]
        check_equal(complaints, [], "the complaints of the browser")
        for client in clients[:3]:
            client.request("/small", FILE)
        server.stop()
    finally:
        if browser is not None:
            browser.close()
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--screenshots", help="the folder for pictures of the page; default: they are not kept")
    options = parser.parse_args()
    print(f"  seed {options.seed}", flush=True)
    peer.allow_descriptors(MAX_PER_ADDRESS + 1000)
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.join(folder, "root")
        os.mkdir(root)
        try:
            check(options.program, root, options.screenshots or folder, random.Random(options.seed))
        except (CheckFailed, OSError) as failure:
            kind = "" if isinstance(failure, CheckFailed) else f"{type(failure).__name__}: "
            sys.exit(f"inspector.py: {kind}{failure} (seed {options.seed})")


if __name__ == "__main__":
    main()
