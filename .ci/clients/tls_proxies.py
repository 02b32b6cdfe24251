"""nginx and stunnel as peers of the TLS examples, and an echo in plain text behind them.

Each runs in the current directory, which contains the certificates, on a free port of the loopback interface.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import peer

SECONDS = 20

NGINX_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


def client_proxies():
    """The proxies that a client in plain text connects to, and that connect to a server by TLS."""
    yield "nginx", lambda port: nginx(f"""
        proxy_pass 127.0.0.1:{port}; proxy_ssl on; proxy_ssl_name localhost; proxy_ssl_server_name on;
        proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.pem; proxy_ssl_protocols TLSv1.2 TLSv1.3;""", "")
    yield "stunnel", lambda port: stunnel(f"""
        client = yes\nconnect = 127.0.0.1:{port}\nsni = localhost\ncheckHost = localhost
        verifyChain = yes\nCAfile = ca.pem""")


def server_proxies():
    """The proxies that a client connects to by TLS, and that connect to a server in plain text."""
    yield "nginx", lambda port: nginx(f"""
        proxy_pass 127.0.0.1:{port}; ssl_certificate server.pem; ssl_certificate_key server.key;
        ssl_protocols TLSv1.2 TLSv1.3;""", "ssl")
    yield "stunnel", lambda port: stunnel(f"connect = 127.0.0.1:{port}\ncert = server.pem\nkey = server.key")


def nginx(server, listens):
    """One process of nginx, whose stream module relays connections. `listens` are options of the listener."""
    port = free_port()
    folder = os.path.abspath("nginx")
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir("."):
        if name.endswith((".pem", ".key")):
            shutil.copy(name, folder)
    with open(f"{folder}/nginx.conf", "w", encoding="ascii") as settings:
        settings.write(f"""
            load_module {NGINX_MODULE};
            daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr;
            events {{ worker_connections 256; }}
            stream {{ server {{ listen 127.0.0.1:{port} {listens}; proxy_half_close on; {server} }} }}""")
    return running(["nginx", "-p", folder, "-c", f"{folder}/nginx.conf", "-e", "stderr"], port)


def stunnel(service):
    port = free_port()
    with open("stunnel.conf", "w", encoding="ascii") as settings:
        service = "\n".join(line.strip() for line in service.splitlines())
        settings.write(f"foreground = yes\npid =\nsyslog = no\ndebug = notice\n[peer]\naccept = 127.0.0.1:{port}\n{service}\n")
    return running(["stunnel4", "stunnel.conf"], port)


def stunnel_totals(connections):
    """The bytes that stunnel has sent to its TLS peer and to the other one, for each of so many connections."""
    totals = []

    def read():
        nonlocal totals
        with open("proxy.err", encoding="ascii") as output:
            found = re.findall(r"Connection (?:closed|reset): (\d+) byte\(s\) sent to TLS, (\d+) byte", output.read())
        totals = [(int(to_tls), int(to_socket)) for to_tls, to_socket in found]
        return len(totals) == connections

    if not peer.wait_until(read, SECONDS):
        raise peer.CheckFailed(f"stunnel reports {totals}, not {connections} connections")
    return totals


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, port):
    """Runs a program that listens on `port`, and yields the port."""
    with open("proxy.err", "w+b") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        try:
            deadline = time.monotonic() + SECONDS
            while True:
                # Not by a connection: the proxy would connect to its server.
                if listens(port):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    raise peer.CheckFailed(f"{command[0]} has not started: {errors.read()!r}")
                time.sleep(0.01)
            yield port
        except (peer.CheckFailed, OSError) as failure:
            errors.seek(0)
            raise peer.CheckFailed(f"{command[0]}: {failure}; its output: {errors.read()[-2000:]!r}") from failure
        finally:
            process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def listens(port):
    with open("/proc/net/tcp", encoding="ascii") as table:
        return any(f"0100007F:{port:04X} 00000000:0000 0A" in line for line in table)


@contextlib.contextmanager
def plain_echo():
    """A server in plain text that echoes until the end of the input, and yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=echo, args=[listener.accept()[0]], daemon=True).start()

    def echo(sock):
        with sock, contextlib.suppress(OSError):
            while chunk := sock.recv(1 << 16):
                sock.sendall(chunk)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        # Wakes the thread that accepts.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def echoed(port, data, half_closes):
    """Sends `data` in plain text while it receives the echo, and returns all that it has received.

    With `half_closes`, sends a FIN after the data, and receives until the end.
    """
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:

        def send():
            with contextlib.suppress(OSError):
                sock.sendall(data)
                if half_closes:
                    sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = bytearray()
        try:
            while half_closes or len(received) < len(data):
                chunk = sock.recv(1 << 16)
                if not chunk:
                    break
                received += chunk
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sender.join()
        return bytes(received)
