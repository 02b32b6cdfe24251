#!/usr/bin/env -S python3 -B
"""Checks the TLS examples with OpenSSL's client and server, curl, Python's ssl module, nginx, stunnel and testssl.sh.

usage: tls.py DIRECTORY

DIRECTORY contains the built programs tls_echo and tls_client. Needs openssl, curl, nginx with its
stream module, stunnel4 and testssl. Certificates are created by openssl.
"""

import contextlib
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

import peer
import tls_proxies
import tls_scan

SECONDS = 20


def main():
    examples = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        create_certificates()
        for check in CHECKS:
            check(examples)
            print(f"    {check.__doc__.splitlines()[0]}", flush=True)


# --- Certificates -----------------------------------------------------------------------------------


def openssl(*arguments, **options):
    command = ["openssl", *arguments]
    return subprocess.run(command, check=True, timeout=SECONDS, capture_output=True, **options)


def create_certificates():
    """Authorities `ca` and `other`; certificates of servers and clients, of which one is expired and one not yet valid."""
    for name in ["ca", "other"]:
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN=reveille test {name}")
    with open("authority.cnf", "w", encoding="ascii") as settings:
        settings.write("[ca]\ndefault_ca = authority\n[authority]\ndatabase = index\nnew_certs_dir = .\nrand_serial = yes\n"
                       "unique_subject = no\ndefault_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n")
    open("index", "w", encoding="ascii").close()
    issue("server", "ca", "DNS:localhost,IP:127.0.0.1")
    issue("second", "ca", "DNS:localhost,IP:127.0.0.1,DNS:second.test")
    issue("client", "ca", "DNS:client.test")
    issue("stranger", "other", "DNS:client.test")
    issue("expired", "ca", "DNS:localhost", from_day=-60, to_day=-30)
    issue("early", "ca", "DNS:localhost", from_day=20, to_day=25)


def issue(name, authority, names, from_day=-1, to_day=20):
    """Issues a certificate that is valid between two days, counted from today."""
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    with open(f"{name}.ext", "w", encoding="ascii") as extensions:
        extensions.write(f"subjectAltName={names}\n")
    start, end = (time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 86400 * day)) for day in (from_day, to_day))
    # Unlike `openssl x509`, `openssl ca` sets both dates in all versions.
    openssl("ca", "-batch", "-notext", "-config", "authority.cnf", "-cert", f"{authority}.pem", "-keyfile", f"{authority}.key",
            "-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", f"{name}.ext", "-startdate", start, "-enddate", end)


# --- Programs ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(examples, *options):
    """Runs tls_echo, and yields the process and its port. It must end by SIGTERM with status 0."""
    command = [f"{examples}/tls_echo", "--listen", "127.0.0.1:0", "--grace", "1", *options]
    environment = {**os.environ, "RUST_LOG": "info"}
    with open("server.err", "w+b") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        try:
            line = process.stdout.readline().decode()
            found = re.search(r":(\d+)$", line.strip())
            if not found:
                errors.seek(0)
                raise peer.CheckFailed(f"tls_echo has not started: {line!r} {errors.read()!r}")
            yield process, int(found.group(1))
            if process.poll() is not None:
                raise peer.CheckFailed(f"tls_echo has ended with {process.returncode}")
            process.send_signal(signal.SIGTERM)
            status = process.wait(SECONDS)
            if status != 0:
                raise peer.CheckFailed(f"tls_echo ended with status {status} after SIGTERM")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def s_client(port, *options, text=b"hello\n", succeeds=True):
    """Runs `openssl s_client`, sends `text`, waits for its echo, and returns what it has printed."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", "ca.pem", "-servername", "localhost",
               "-verify_hostname", "localhost", "-verify_return_error", *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # The text may also occur in the certificate, which is printed before it is sent.
    output, sent_at = b"", None
    try:
        # Its standard input stays open until the echo has arrived: s_client ends with it.
        while (sent_at is None or text not in output[sent_at:]) and select.select([process.stdout], [], [], SECONDS)[0]:
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            output += chunk
            if sent_at is None and b"Verify return code" in output:
                sent_at = len(output)
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(text)
                    process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
    is_echoed = sent_at is not None and text in output[sent_at:]
    if succeeds and not is_echoed:
        raise peer.CheckFailed(f"s_client {options} was not echoed: {output.decode(errors='replace')[-2000:]}")
    if is_echoed and not succeeds:
        raise peer.CheckFailed(f"s_client {options} was echoed")
    return output


def client(examples, port, *options, text=b"hello\n", host="localhost"):
    """Runs tls_client with `text` as its input."""
    command = [f"{examples}/tls_client", "--ca", "ca.pem", *options, f"{host}:{port}"]
    return subprocess.run(command, input=text, capture_output=True, timeout=SECONDS, check=False)


@contextlib.contextmanager
def s_server(*options):
    """Runs `openssl s_server`, which reverses lines, and yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-rev", *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + SECONDS
        while b"ACCEPT" not in process.stdout.readline():
            if process.poll() is not None or time.monotonic() > deadline:
                raise peer.CheckFailed("s_server has not started")
        yield port
    finally:
        process.kill()
        process.wait()


def python_client(port, **versions):
    context = ssl.create_default_context(cafile="ca.pem")
    for name, value in versions.items():
        setattr(context, name, value)
    sock = socket.create_connection(("127.0.0.1", port), SECONDS)
    return context.wrap_socket(sock, server_hostname="localhost")


def expect(condition, problem):
    if not condition:
        raise peer.CheckFailed(problem)


# --- Checks -----------------------------------------------------------------------------------------


def check_versions(examples):
    """openssl s_client: TLS 1.2 and 1.3, resumption, verified certificate; TLS 1.1 is rejected"""
    with server(examples, "--tls", "server.pem", "server.key") as (_, port):
        for version in ["-tls1_3", "-tls1_2"]:
            first = s_client(port, version, "-sess_out", "session")
            expect(b"Verify return code: 0 (ok)" in first, f"{version}: {first!r}")
            expect(b"New, " in first, f"{version}: the first session is not new: {first!r}")
            again = s_client(port, version, "-sess_in", "session")
            expect(b"Reused, " in again, f"{version}: not resumed: {again!r}")
        s_client(port, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", succeeds=False)


def check_client_certificates(examples):
    """openssl s_client: a required client certificate, none, and one of another authority"""
    with server(examples, "--tls", "server.pem", "server.key", "--client-ca", "ca.pem") as (_, port):
        for version in ["-tls1_3", "-tls1_2"]:
            s_client(port, version, "-cert", "client.pem", "-key", "client.key")
            s_client(port, version, succeeds=False)
            s_client(port, version, "-cert", "stranger.pem", "-key", "stranger.key", succeeds=False)


def check_python(examples):
    """Python's ssl: a megabyte in each direction, close_notify in both, a FIN without it"""
    with server(examples, "--tls", "server.pem", "server.key", "--threads", "2") as (_, port):
        data = os.urandom(1 << 20)
        for version in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
            with python_client(port, minimum_version=version, maximum_version=version) as sock:
                received = b""
                for start in range(0, len(data), 1 << 16):
                    sock.sendall(data[start : start + (1 << 16)])
                    while len(received) < start + (1 << 16):
                        received += sock.recv(1 << 16)
                expect(received == data, "the echo differs")
                # Returns when the server has sent close_notify too.
                sock.unwrap().close()
        with python_client(port) as sock:
            sock.sendall(b"x")
            expect(sock.recv(1) == b"x", "not echoed")
            raw = socket.socket(fileno=sock.detach())
            raw.settimeout(SECONDS)
            raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while raw.recv(1 << 16):
                    pass
            raw.close()


def check_curl(examples):
    """curl: the request is echoed as an HTTP/0.9 reply"""
    with server(examples, "--tls", "server.pem", "server.key") as (_, port):
        for version in [["--tlsv1.3"], ["--tls-max", "1.2"]]:
            command = ["curl", "--silent", "--http0.9", "--cacert", "ca.pem", "--max-time", "2", *version,
                       f"https://localhost:{port}/path"]
            result = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
            expect(b"GET /path HTTP/1.1" in result.stdout, f"curl {version}: {result}")
        command = ["curl", "--silent", "--show-error", "--max-time", "2", f"https://localhost:{port}/"]
        result = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        expect(result.returncode == 60, f"curl trusts an unknown authority: {result}")


def check_s_server(examples):
    """openssl s_server as the server: TLS 1.2 and 1.3, client certificate, wrong name, unknown authority"""
    files = ["-cert", "server.pem", "-key", "server.key"]
    for version, name in [("-tls1_3", b"TLSv1_3"), ("-tls1_2", b"TLSv1_2")]:
        with s_server(version, *files) as port:
            result = client(examples, port)
            expect(b"olleh" in result.stdout and name in result.stderr, f"{version}: {result}")
            wrong = client(examples, port, "--name", "other.test")
            expect(wrong.returncode == 1 and b"not valid for name" in wrong.stderr, f"{version}: {wrong}")
        with s_server(version, *files, "-Verify", "1", "-verify_return_error", "-CAfile", "ca.pem") as port:
            result = client(examples, port, "--tls", "client.pem", "client.key")
            expect(b"olleh" in result.stdout, f"{version} with a client certificate: {result}")
            result = client(examples, port)
            expect(result.returncode == 1, f"{version} without a client certificate: {result}")
    with s_server("-cert", "stranger.pem", "-key", "stranger.key") as port:
        result = client(examples, port)
        expect(result.returncode == 1 and b"no trusted authority" in result.stderr, f"unknown authority: {result}")
    with s_server("-cert", "ca.pem", "-key", "ca.key") as port:
        result = client(examples, port)
        expect(result.returncode == 1 and b"CA:TRUE" in result.stderr, f"the certificate of an authority: {result}")


def check_dates(examples):
    """an expired certificate and one that is not yet valid, of openssl s_server and of openssl s_client"""
    for name, problem in [("expired", b"expired"), ("early", b"not valid yet")]:
        for version in ["-tls1_3", "-tls1_2"]:
            with s_server(version, "-cert", f"{name}.pem", "-key", f"{name}.key") as port:
                result = client(examples, port)
                expect(result.returncode == 1 and problem in result.stderr and not result.stdout, f"{name}: {result}")
            with server(examples, "--tls", "server.pem", "server.key", "--client-ca", "ca.pem") as (_, port):
                output = s_client(port, version, "-cert", f"{name}.pem", "-key", f"{name}.key", succeeds=False)
                expect(b"alert certificate expired" in output, f"{name}: {output!r}")


def check_both_examples(examples):
    """tls_client with tls_echo: a megabyte through standard input and output"""
    data = os.urandom(1 << 20)
    with server(examples, "--tls", "server.pem", "server.key") as (_, port):
        result = client(examples, port, text=data)
        expect(result.returncode == 0 and result.stdout == data, f"the echo differs: {result.stderr!r}")


def check_proxies_before_echo(examples):
    """nginx and stunnel as TLS clients of tls_echo: 4 MiB, same bytes back, half-close through stunnel"""
    data = os.urandom(4 << 20)
    with server(examples, "--tls", "server.pem", "server.key") as (_, port):
        for name, proxy in tls_proxies.client_proxies():
            with proxy(port) as proxy_port:
                for _ in range(3):
                    # nginx half-closes a TLS connection by a FIN alone, which is a truncation.
                    received = tls_proxies.echoed(proxy_port, data, half_closes=name != "nginx")
                    expect(received == data, f"{name}: the echo differs: {len(received)} bytes of {len(data)}")


def check_proxies_as_servers(examples):
    """nginx and stunnel as TLS servers of tls_client: 4 MiB, half-closed, same bytes back"""
    data = os.urandom(4 << 20)
    with tls_proxies.plain_echo() as port:
        for name, proxy in tls_proxies.server_proxies():
            with proxy(port) as proxy_port:
                for number in range(3):
                    result = client(examples, proxy_port, text=data)
                    expected = data
                    if name == "stunnel":
                        # stunnel 5.68 may lose the last bytes of a plain socket that is closed in both directions.
                        to_client, to_server = tls_proxies.stunnel_totals(number + 1)[number]
                        expect(to_server == len(data), f"stunnel has received {to_server} bytes")
                        expected = data[:to_client]
                    expect(result.stdout == expected, f"{name}: the echo differs: {len(result.stdout)} bytes, {result.stderr!r}")
                    # After a half-close, nginx ends its output with a FIN alone. The client must not take it for an end.
                    is_right = b"ended without close_notify" in result.stderr if name == "nginx" else result.returncode == 0
                    expect(is_right, f"{name}: the end: {result}"[:2000])


def check_reload(examples):
    """SIGHUP: the certificate is replaced; a broken file leaves the old one in use"""

    def certificate(port):
        with python_client(port) as sock:
            return dict(pair for entry in sock.getpeercert()["subject"] for pair in entry)["commonName"]

    for name in ["pem", "key"]:
        with open(f"server.{name}", "rb") as source, open(f"current.{name}", "wb") as target:
            target.write(source.read())
    with server(examples, "--tls", "current.pem", "current.key") as (process, port):
        with python_client(port) as old:
            expect(certificate(port) == "server", "the first certificate")
            for name in ["pem", "key"]:
                with open(f"second.{name}", "rb") as source, open(f"current.{name}", "wb") as target:
                    target.write(source.read())
            process.send_signal(signal.SIGHUP)
            process.stdout.readline()
            expect(b"loaded" in process.stdout.readline(), "no report of the reload")
            expect(certificate(port) == "second", "the replaced certificate")
            with open("current.pem", "w", encoding="ascii") as broken:
                broken.write("broken")
            process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + SECONDS
            while b"stays in use" not in open("server.err", "rb").read() and time.monotonic() < deadline:
                time.sleep(0.01)
            expect(certificate(port) == "second", "the certificate before a broken file")
            old.sendall(b"still open")
            expect(old.recv(100) == b"still open", "a connection from before the reload")
    with open("server.err", "rb") as errors:
        expect(errors.read().count(b"stays in use") == 1, "a failed reload is reported once")


def check_bad_peers(examples):
    """plain HTTP, garbage, SSLv2, half handshakes and port scans: closed, and at most one log line a second"""
    with server(examples, "--tls", "server.pem", "server.key") as (_, port):
        start = time.monotonic()
        openings = [b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(300), b"\x80\x2e\x01\x00\x02\x00\x15" + bytes(40),
                    b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(100), b"\x16\x03\x01\x00\x05\x01", b"\x15\x03\x01\x00\x02\x02\x28"]
        for opening in openings * 100:
            with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
                with contextlib.suppress(OSError):
                    sock.sendall(opening)
                    sock.shutdown(socket.SHUT_WR)
                    received = b""
                    while chunk := sock.recv(4096):
                        received += chunk
                    expect(len(received) <= 7, f"{len(received)} bytes in reply to {opening[:20]!r}")
        seconds = time.monotonic() - start
        lines = open("server.err", "rb").read().count(b"\n")
        expect(lines <= 3 * (seconds + 2), f"{lines} lines in {seconds:.0f} s")
        s_client(port)


def check_renegotiation(examples):
    """openssl s_client asks for renegotiation 20 times: refused, and not a log line for each"""
    with server(examples, "--tls", "server.pem", "server.key") as (_, port):
        start = time.monotonic()
        for _ in range(20):
            # A line R is a command to s_client.
            output = s_client(port, "-tls1_2", text=b"R\n", succeeds=False)
            expect(b"RENEGOTIATING" in output and b"no renegotiation" in output, f"renegotiated: {output[-1000:]!r}")
        seconds = time.monotonic() - start
        lines = open("server.err", "rb").read().count(b"\n")
        expect(lines <= seconds + 2, f"{lines} lines in {seconds:.1f} s")
        s_client(port)


def check_scan(examples):
    """testssl.sh: no old version, weak suite or known weakness"""
    with server(examples, "--tls", "server.pem", "server.key") as (_, port):
        tls_scan.scan(port)
        s_client(port)


def check_wrong_files(examples):
    """wrong files: one line that names the file, before the server listens"""
    cases = [("missing.pem", "server.key", "missing.pem"), ("server.pem", "missing.key", "missing.key"),
             ("server.pem", "second.key", "server.pem"), ("server.key", "server.key", "server.key"),
             ("server.pem", "server.pem", "server.pem")]
    for cert, key, named in cases:
        command = [f"{examples}/tls_echo", "--listen", "127.0.0.1:0", "--tls", cert, key]
        result = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        is_right = result.returncode == 1 and named.encode() in result.stderr and not result.stdout
        expect(is_right and result.stderr.count(b"\n") == 1, f"{cert} {key}: {result}")


CHECKS = [check_versions, check_client_certificates, check_python, check_curl, check_s_server, check_dates, check_both_examples,
          check_proxies_before_echo, check_proxies_as_servers, check_reload, check_bad_peers, check_renegotiation, check_scan,
          check_wrong_files]

if __name__ == "__main__":
    try:
        main()
    except (peer.CheckFailed, OSError, subprocess.SubprocessError) as failure:
        raise SystemExit(f"tls.py: {type(failure).__name__}: {failure}") from None
