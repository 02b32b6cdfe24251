#!/usr/bin/python3
"""Checks the example `http` with curl, wrk, ab, h2load, http.client, requests and Chromium, and with misbehaving clients.

usage: http_server.py PROGRAM [--seed N]

The server runs in a temporary folder, on a port that the kernel selects. Needs the packages of Debian for these clients;
this interpreter is that of Debian, which has python3-requests and python3-websockets.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time

import requests

import http_abuse
import peer
from chromium import Browser
from peer import CheckFailed, check_equal

MAX_MEMORY = 96 << 20


class Server(peer.EndsProcess):
    """The program under test, on a port that the kernel selects. The end of a `with` ends it, if it still runs."""

    def __init__(self, program, folder, *options, errors=None):
        root = os.path.join(folder, "root")
        command = [program, "--root", root, "--uploads", "incoming", "--max-upload", "2", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise CheckFailed(f"the server printed {line!r}")
        self.port = int(line.rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.port}"

    def connect(self, **options):
        return peer.connect("127.0.0.1", self.port, **options)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.await_end()

    def await_end(self):
        """Requires an orderly end after a signal, with a line of totals."""
        try:
            output, _ = self.process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            raise CheckFailed("the server does not end") from None
        check_equal(self.process.returncode, 0, "the exit status")
        totals = output.splitlines()[-1]
        if not re.fullmatch(r"\d+ connections, \d+ requests", totals):
            raise CheckFailed(f"the totals are {totals!r}")


def make_files(folder, generator):
    """Creates the files of the site, and returns the content of two of them."""
    root = os.path.join(folder, "root")
    for name in ["", "incoming", "sub", "list/dir", ".hidden"]:
        os.makedirs(os.path.join(root, name))
    small, big = b"small\n" * 170, generator.randbytes(5 << 20)
    files = {"small.txt": small, "big.bin": big, "empty.css": b"", "sub/index.html": b"<p>index", ".hidden/a": b"secret"}
    files |= {'list/<b>&".json': b"{}", "a b%41.txt": b"name"}
    for name, content in files.items():
        path = os.path.join(root, name)
        with open(path, "wb") as file:
            file.write(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    with open(os.path.join(folder, "outside"), "wb") as file:
        file.write(b"secret")
    os.symlink("../outside", os.path.join(root, "out"))
    os.symlink(os.path.join(folder, "outside"), os.path.join(root, "absolute"))
    os.symlink("..", os.path.join(root, "up"))
    os.symlink("small.txt", os.path.join(root, "in.txt"))
    os.mkfifo(os.path.join(root, "fifo"))
    return small, big


def get(connection, path, method="GET", **fields):
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in fields.items()})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def check_files(server, small, big):
    """What a path names, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    for path, status, kind, content in [
        ("/small.txt", 200, "text/plain; charset=utf-8", small),
        ("/in.txt", 200, "text/plain; charset=utf-8", small),
        ("/big.bin", 200, "application/octet-stream", big),
        ("/empty.css", 200, "text/css; charset=utf-8", b""),
        ("/a%20b%2541.txt?query", 200, "text/plain; charset=utf-8", b"name"),
        ("/sub/", 200, "text/html; charset=utf-8", b"<p>index"),
        ("//sub///index.html", 200, "text/html; charset=utf-8", b"<p>index"),
        ("http://any.host/small.txt", 200, "text/plain; charset=utf-8", small),
        *((path, 404, "text/plain", b"404 Not Found\n") for path in [
            "/none", "/out", "/absolute", "/up/outside", "/fifo", "/.hidden/a", "/%2ehidden/a", "/small.txt/", "/" + "a" * 300,
        ]),
    ]:
        for method in ["GET", "HEAD", "GET"]:
            found = get(connection, path, method)
            expected = (status, kind, str(len(content)), b"" if method == "HEAD" else content)
            check_equal((found[0], found[1]["Content-Type"], found[1]["Content-Length"], found[2]), expected, f"{method} {path}")
    found = get(connection, "/sub?q=1")
    check_equal((found[0], found[1]["Location"]), (301, "/sub/?q=1"), "a directory without a slash")
    page = get(connection, "/list/")[2]
    check_equal(b'<a href="%3Cb%3E%26%22.json">&lt;b&gt;&amp;&quot;.json</a>' in page, True, "a listing")
    check_equal(b"in.txt" in get(connection, "/")[2], False, "a symbolic link, which is not served, in a listing")
    check_equal(b"<b>" in page or b"hidden" in get(connection, "/")[2], False, "markup or hidden names in a listing")
    check_equal(get(connection, "/small.txt", "POST")[0], 405, "POST")
    check_equal(get(connection, "*", "OPTIONS")[1]["Allow"], "GET, HEAD, OPTIONS, PUT", "OPTIONS *")


def check_changes(server, folder):
    """A file in the server's memory that changes, is replaced or removed."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    path = os.path.join(folder, "root/changing.txt")
    tags = set()
    for content in [b"first", b"second", b"third", b"", b"x" * 200_000, b"small"]:
        with open(f"{path}.new", "wb") as file:
            file.write(content)
        os.rename(f"{path}.new", path)
        if not peer.wait_until(lambda: get(connection, "/changing.txt")[::2] == (200, content), 15):
            raise CheckFailed(f"a file of {len(content)} bytes is not served after a change")
        tags.add(get(connection, "/changing.txt")[1]["ETag"].removeprefix("W/"))
    check_equal(len(tags), 6, "the tags of versions")
    os.remove(path)
    if not peer.wait_until(lambda: get(connection, "/changing.txt")[0] == 404, 15):
        raise CheckFailed("a removed file is served")


def check_ranges_and_conditions(server, big):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    for path, content in [("/big.bin", big), ("/small.txt", get(connection, "/small.txt")[2])]:
        length, fields = len(content), get(connection, path, "HEAD")[1]
        tag, modified = fields["ETag"], fields["Last-Modified"]
        older, whole = "Sat, 01 Jan 2000 00:00:00 GMT", (200, None, content)
        for value, expected in [
            ("bytes=0-0", (206, f"bytes 0-0/{length}", content[:1])),
            ("bytes=100-", (206, f"bytes 100-{length - 1}/{length}", content[100:])),
            ("bytes=-7", (206, f"bytes {length - 7}-{length - 1}/{length}", content[-7:])),
            (f"bytes=10-{length * 2}", (206, f"bytes 10-{length - 1}/{length}", content[10:])),
            (f"bytes={length}-", (416, f"bytes */{length}", b"416 Range Not Satisfiable\n")),
            ("bytes=-0", (416, f"bytes */{length}", b"416 Range Not Satisfiable\n")),
            ("bytes=0-1,4-5", whole), ("bytes=5-4", whole), ("bytes=x", whole), ("pages=1-2", whole),
        ]:
            status, fields, found = get(connection, path, Range=value)
            check_equal((status, fields["Content-Range"], found) == expected, True, f"{path} {value}")
        for fields, status in [
            ({"If_None_Match": tag}, 304), ({"If_None_Match": f'"x", W/{tag}'}, 304), ({"If_None_Match": "*"}, 304),
            ({"If_None_Match": '"x"', "If_Modified_Since": modified}, 200),
            ({"If_Modified_Since": modified}, 304), ({"If_Modified_Since": older}, 200), ({"If_Modified_Since": "?"}, 200),
            ({"If_Match": tag}, 200), ({"If_Match": "*"}, 200), ({"If_Match": f"W/{tag}"}, 412), ({"If_Match": '"x"'}, 412),
            ({"If_Match": tag, "If_Unmodified_Since": older}, 200),
            ({"If_Unmodified_Since": modified}, 200), ({"If_Unmodified_Since": older}, 412),
            ({"If_Match": '"x"', "If_None_Match": tag}, 412),
            ({"Range": "bytes=0-9", "If_Range": tag}, 206), ({"Range": "bytes=0-9", "If_Range": '"x"'}, 200),
            ({"Range": "bytes=0-9", "If_Range": modified}, 206), ({"Range": "bytes=0-9", "If_Range": older}, 200),
            ({"Range": "bytes=0-9", "If_None_Match": tag}, 304),
        ]:
            check_equal(get(connection, path, **fields)[0], status, f"{path} {fields}")


def check_uploads(server, folder, big):
    """With requests: bodies with a length and chunked, and their conditions."""
    url, session = f"{server.url}/incoming/file", requests.Session()
    content = big[: 2 << 20]
    check_equal(session.put(url, content).status_code, 201, "an upload")
    check_equal(session.put(url, iter([b"a", content[:100000], b"b"])).status_code, 204, "a chunked upload")
    reply = session.get(url)
    check_equal(reply.content == b"a" + content[:100000] + b"b", True, "an uploaded file")
    check_equal(session.put(url, content + b"x").status_code, 413, "an upload that is too large")
    check_equal(session.put(url, b"x", headers={"If-None-Match": "*"}).status_code, 412, "an upload of a new file")
    check_equal(session.put(url, b"x", headers={"If-Match": '"x"'}).status_code, 412, "an upload for another version")
    check_equal(session.put(url, b"x", headers={"Content-Range": "bytes 0-0/1"}).status_code, 400, "a partial upload")
    check_equal(session.put(url, b"x", headers={"Content-Encoding": "gzip"}).status_code, 415, "an encoded upload")
    check_equal(session.put(url + "/x", b"x").status_code, 409, "an upload below a file")
    check_equal(session.put(f"{server.url}/small.txt", b"x").status_code, 405, "an upload elsewhere")
    check_equal(session.put(f"{server.url}/incoming/.x", b"x").status_code, 403, "an upload of a hidden file")
    check_equal(session.put(f"{server.url}/incoming/empty", b"", headers={"Content-Length": "0"}).status_code, 201, "an empty upload")
    for number in range(50):
        session.put(url, str(number))
        # On another connection, which another loop may serve.
        check_equal(requests.get(url, timeout=15).text, str(number), "a file that was just uploaded")
    with server.connect() as sock:
        sock.sendall(b"PUT /incoming/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        check_equal(http_abuse.read_to_end(sock)[:12], b"HTTP/1.1 411", "an upload without a length")
    # The condition holds at the begin of both uploads, and at the end of one.
    with server.connect() as sock:
        sock.sendall(b"PUT /incoming/new HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        peer.receive_exactly(sock, b"HTTP/1.1 100 Continue\r\n\r\n", "an expectation")
        new = f"{server.url}/incoming/new"
        check_equal(session.put(new, b"first", headers={"If-None-Match": "*"}).status_code, 201, "the first of two uploads")
        sock.sendall(b"xy")
        check_equal(sock.recv(12), b"HTTP/1.1 412", "the second of two uploads")
        check_equal(session.get(new).content, b"first", "the file of two uploads")
    check_equal(sorted(os.listdir(os.path.join(folder, "root/incoming"))), ["empty", "file", "new"], "the uploaded files")


def check_pipelining(server, small, big):
    """All kinds of responses leave in the order of their requests."""
    kinds = [
        (b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n", small), (b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n", b"404 Not Found\n"),
        (b"HEAD /big.bin HTTP/1.1\r\nHost: x\r\n\r\n", b""), (b"GET /big.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=5-300004\r\n\r\n", big[5:300005]),
        (b"PUT /incoming/p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", b""), (b"GET /sub/ HTTP/1.1\r\nHost: x\r\n\r\n", b"<p>index"),
        (b"POST /none HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"405 Method Not Allowed\n"),
    ]
    with server.connect() as sock:
        sent = kinds * 20
        sock.sendall(b"".join(request for request, _ in sent))
        reader = sock.makefile("rb")
        for request, content in sent:
            head = http.client.parse_headers(BufferedHead(reader))
            length = 0 if request.startswith(b"HEAD") else int(head["Content-Length"] or 0)
            check_equal(reader.read(length) == content, True, f"the response to {request[:40]!r}")


def check_system_calls(server, folder, small):
    """Pipelined responses leave in few system calls; skipped if strace cannot attach."""
    log = os.path.join(folder, "strace")
    calls = ["strace", "-f", "-e", "trace=sendto,sendmsg,write,writev,recvfrom", "-o", log, "-p", str(server.process.pid)]
    with subprocess.Popen(calls, stderr=subprocess.PIPE, text=True) as tracer:
        if "attached" not in tracer.stderr.readline():
            print("    strace cannot attach: system calls are not counted")
            return
        with server.connect() as sock:
            sock.sendall(b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n" * 16)
            received = b""
            while received.count(small) < 16:
                received += sock.recv(1 << 18)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
    with open(log, encoding="utf-8") as file:
        lines = file.read().splitlines()
    sends = sum("HTTP/1.1 200 OK" in line for line in lines)
    receives = sum("GET /small.txt" in line for line in lines)
    print(f"    16 pipelined requests: {receives} with input, {sends} sends")
    # The kernel may deliver the requests in parts.
    if not 1 <= sends <= receives:
        raise CheckFailed(f"{sends} sends for {receives} inputs")


def check_idle(program, folder, small):
    """A connection without a byte in either direction ends, before its first request and after one."""
    with Server(program, folder, "--idle", "1") as server:
        silent, served = server.connect(), server.connect()
        served.sendall(b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        check_equal(http_abuse.read_to_end(served).endswith(small), True, "a response before an idle connection ends")
        check_equal(http_abuse.read_to_end(silent), b"", "what a silent client receives")
        server.stop()


def check_stop(server, small, big):
    """A stop lets a response finish, ends idle connections, and refuses an upload that is incomplete."""
    idle, reading, sending = server.connect(), server.connect(), server.connect()
    idle.sendall(b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n")
    reading.sendall(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n")
    sending.sendall(b"PUT /incoming/stopped HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    peer.receive_exactly(sending, b"HTTP/1.1 100 Continue\r\n\r\n", "an expectation")
    start = reading.recv(100)
    received = b""
    while not received.endswith(small):
        received += idle.recv(1 << 16)
    server.process.send_signal(signal.SIGTERM)
    peer.expect_end(idle, "an idle connection at a stop")
    check_equal(http_abuse.read_to_end(sending)[:12], b"HTTP/1.1 503", "an upload at a stop")
    content = (start + http_abuse.read_to_end(reading)).partition(b"\r\n\r\n")[2]
    check_equal(content == big, True, "a response at a stop")
    for sock in [idle, reading, sending]:
        sock.close()
    server.await_end()


class BufferedHead:
    """The head of a response without its status line, for `parse_headers`."""

    def __init__(self, reader):
        self.reader = reader
        if not reader.readline().startswith(b"HTTP/1.1 "):
            raise CheckFailed("a response does not begin where the previous one ends")

    def readline(self, limit):
        return self.reader.readline(limit)


def run(*command, must_have=None, must_lack=None):
    """Runs a client, and requires that its output has and lacks these patterns."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    output = result.stdout + result.stderr
    if result.returncode or (must_have and not re.search(must_have, output)) or (must_lack and re.search(must_lack, output)):
        raise CheckFailed(f"{' '.join(command)}: status {result.returncode}: {output[-600:]}")
    return output


def check_programs(server, folder, big):
    """curl, wrk, ab and h2load."""
    url, path = server.url, os.path.join(folder, "file")
    curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "50"]
    run(*curl, "--output", path, f"{url}/big.bin")
    with open(path, "rb") as file:
        check_equal(file.read() == big, True, "a file by curl")
    run(*curl, "--http1.0", "--output", "/dev/null", f"{url}/small.txt", f"{url}/small.txt")
    upload = os.path.join(folder, "upload")
    with open(upload, "wb") as file:
        file.write(big[: 2 << 20])
    run(*curl, "--verbose", "--header", "Expect: 100-continue", "--upload-file", upload, f"{url}/incoming/curl", must_have="< HTTP/1.1 100 Continue")
    run(*curl, "--continue-at", "1000", "--output", "/dev/null", f"{url}/big.bin")
    for target in ["/../outside", "/%2e%2e/outside", "/..%2foutside", "/sub/../../outside"]:
        run("curl", "--silent", "--max-time", "50", "--path-as-is", "--include", f"{url}{target}", must_have="HTTP/1.1 400", must_lack="secret")
    print("   ", re.search(r"Requests/sec.*", run("wrk", "-t1", "-c50", "-d2s", "--timeout", "60s", f"{url}/small.txt", must_lack="Socket errors|Non-2xx")).group(0))
    for options in [["-n", "2000"], ["-k", "-n", "20000"]]:
        run("ab", "-q", "-c", "50", *options, f"{url}/small.txt", must_have=r"Failed requests: +0\n", must_lack="Non-2xx")
    for depth in ["1", "16"]:
        run("h2load", "--h1", "-n", "20000", "-c", "50", "-m", depth, f"{url}/small.txt", must_have="20000 2xx, 0 3xx, 0 4xx, 0 5xx")


def check_browser(server, folder, small):
    """The pages of directories, and files behind their links, in a browser."""
    browser = Browser(folder)
    try:
        for path, name, content in [("/", "small.txt", small.decode()), ("/list/", '<b>&".json', "{}")]:
            browser.call("Page.navigate", url=server.url + path)
            ready = f"location.pathname == '{path}' && document.readyState == 'complete'"
            browser.await_true(ready, f"{path} is not loaded")
            link = f"[...document.links].find(link => link.textContent == {json.dumps(name)})"
            browser.await_true(f"{link} != undefined", f"{path} has no link to {name}")
            browser.evaluate(f"{link}.click()")
            browser.await_true(f"location.pathname != '{path}' && document.readyState == 'complete'", f"the link to {name}")
            text = browser.evaluate("document.querySelector('pre').textContent")
            check_equal(text, content, f"{name} in the browser")
        # A browser requests an icon by itself, which the site does not have.
        complaints = [complaint for complaint in browser.complaints if "404" not in complaint]
        check_equal(complaints, [], "the complaints of the browser")
    finally:
        browser.close()
    print("    Chromium: pages of directories, and files behind their links")


def check_tls(program, folder, big):
    cert, key, errors = (os.path.join(folder, name) for name in ["cert.pem", "key.pem", "errors"])
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost",
        "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert)
    with open(errors, "wb") as file, Server(program, folder, "--tls", cert, key, errors=file) as server:
        exchange_over_tls(server, folder, big, cert, key, errors)


def exchange_over_tls(server, folder, big, cert, key, errors):
    path = os.path.join(folder, "file")
    url = f"https://127.0.0.1:{server.port}"
    server.process.send_signal(signal.SIGHUP)
    check_equal(server.process.stdout.readline(), f"try: curl {url}/\n", "the second line")
    check_equal(server.process.stdout.readline(), "the certificate is loaded again\n", "a reload")
    curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "50", "--cacert", cert]
    run(*curl, "--output", path, f"{url}/big.bin")
    with open(path, "rb") as file:
        check_equal(file.read() == big, True, "a file over TLS")
    run(*curl, "--verbose", "--upload-file", os.path.join(folder, "upload"), f"{url}/incoming/tls")
    run("h2load", "--h1", "-n", "2000", "-c", "10", f"{url}/small.txt", must_have="2000 2xx, 0 3xx, 0 4xx, 0 5xx")
    with open(key, "w", encoding="ascii") as broken:
        broken.write("broken")
    server.process.send_signal(signal.SIGHUP)

    def reported():
        with open(errors, encoding="utf-8") as file:
            return file.read().count("stays in use")

    check_equal(peer.wait_until(reported, 15), True, "a failed reload is reported")
    server.stop()
    check_equal(reported(), 1, "the reports of a failed reload")


def check_arguments(program, folder):
    for arguments, status in [([], 2), (["--root"], 2), (["--tls", "a"], 2), (["--threads", "0", "--root", folder], 2), (["--idle", "0", "--root", folder], 2), (["--root", folder + "/none"], 1),
                              (["--root", folder, "--uploads", "none"], 1), (["--root", folder, "--tls", "none", "none"], 1), (["--help"], 0)]:
        found = subprocess.run([program, *arguments, "--listen", "127.0.0.1:0"] if status == 1 else [program, *arguments],
                               capture_output=True, text=True, timeout=20, check=False)
        check_equal(found.returncode, status, f"the exit status with {arguments}")


def check(options):
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        small, big = make_files(folder, generator)
        incoming = os.path.join(folder, "root/incoming")
        check_arguments(options.program, folder)
        check_idle(options.program, folder, small)
        # Clients of this check are slow: none counts as idle.
        with Server(options.program, folder, "--idle", "3600") as server:
            check_server(server, folder, incoming, small, big, options.seed)
        check_tls(options.program, folder, big)
        for name in os.listdir(incoming):
            os.remove(os.path.join(incoming, name))
        with Server(options.program, folder, "--threads", "2") as server:
            check_uploads(server, folder, big)
            check_programs(server, folder, big)
            check_stop(server, small, big)


def check_server(server, folder, incoming, small, big, seed):
    pid = server.process.pid
    check_uploads(server, folder, big)
    descriptors = peer.open_descriptors(pid)
    slow = http_abuse.Slow(server.connect)
    check_files(server, small, big)
    check_changes(server, folder)
    check_ranges_and_conditions(server, big)
    check_pipelining(server, small, big)
    check_system_calls(server, folder, small)
    check_programs(server, folder, big)
    check_browser(server, folder, small)
    http_abuse.refusals(server.connect)
    http_abuse.unwanted_bodies(server.connect)
    http_abuse.garbage(server.connect, seed)
    http_abuse.single_bytes(server.connect, small)
    http_abuse.half_close(server.connect, big)
    http_abuse.killed(server.connect)
    http_abuse.many_connections(server.connect, small)
    slow.check(small)
    if not peer.wait_until(lambda: peer.open_descriptors(pid) <= descriptors, 30):
        raise CheckFailed("descriptors of ended connections are open")
    check_equal(http_abuse.leftovers(incoming), [], "the files of unfinished uploads")
    memory = peer.resident_bytes(pid)
    print(f"    {memory >> 20} MiB resident")
    if memory > MAX_MEMORY:
        raise CheckFailed(f"the server holds {memory >> 20} MiB")
    server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"    http_server.py: seed {options.seed}", flush=True)
    start = time.monotonic()
    peer.run(check, options)
    print(f"http_server.py: ok, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
