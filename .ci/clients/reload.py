#!/usr/bin/env -S python3 -B
"""Checks that SIGHUP loads the certificate of a server again, and that a broken file leaves the old one in use.

usage: reload.py PROGRAM ARGUMENT...

The arguments CERT and KEY are replaced by the names of files. Needs openssl.
"""

import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile

import peer
from peer import CheckFailed, check_equal


def create(name):
    """Creates a self-signed certificate and its key. Returns the certificate as it is sent."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-days", "2"]
    subprocess.run([*command, "-keyout", f"{name}.key", "-out", f"{name}.pem"], capture_output=True, timeout=60, check=True)
    with open(f"{name}.pem", encoding="ascii") as file:
        return ssl.PEM_cert_to_DER_cert(file.read())


def use(name):
    for ending in ["pem", "key"]:
        shutil.copyfile(f"{name}.{ending}", f"current.{ending}")


def served(port):
    """The certificate that a new connection gets."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(peer.connect("127.0.0.1", port)) as sock:
        return sock.getpeercert(binary_form=True)


def await_line(output, beginning):
    for line in output:
        if line.startswith(beginning):
            return line
    raise CheckFailed(f"the server ended before it printed {beginning!r}")


def errors():
    with open("errors", encoding="utf-8") as file:
        return file.read()


def check(process, first, second):
    port = int(await_line(process.stdout, "listening on ").rpartition(":")[2])
    await_line(process.stdout, "try: ")
    use("second")
    check_equal(served(port) == first, True, "whether a server has its first certificate before SIGHUP")
    process.send_signal(signal.SIGHUP)
    await_line(process.stdout, "the certificate is loaded again")
    check_equal(served(port) == second, True, "whether a server has its second certificate after SIGHUP")
    with open("current.pem", "w", encoding="ascii") as broken:
        broken.write("broken")
    process.send_signal(signal.SIGHUP)
    if not peer.wait_until(lambda: errors().endswith("\n"), peer.DEADLINE):
        raise CheckFailed("no message about a broken file")
    check_equal(served(port) == second, True, "whether a server keeps its certificate with a broken file")
    process.send_signal(signal.SIGTERM)
    check_equal(process.wait(30), 0, "the exit status")
    is_right = errors().count("\n") == 1 and "stays in use" in errors() and "current.pem" in errors()
    check_equal(is_right, True, f"whether {errors()!r} is one message about a broken file")


def main():
    program, *arguments = sys.argv[1:]
    program = os.path.abspath(program)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        first, second = create("first"), create("second")
        use("first")
        command = [program, *({"CERT": "current.pem", "KEY": "current.key"}.get(argument, argument) for argument in arguments)]
        with open("errors", "w", encoding="utf-8") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            check(process, first, second)
        except (CheckFailed, OSError, subprocess.TimeoutExpired) as failure:
            raise SystemExit(f"reload.py: {os.path.basename(program)}: {failure}") from None
        finally:
            process.kill()
            process.wait()
            os.chdir("/")


if __name__ == "__main__":
    main()
