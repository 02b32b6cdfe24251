"""Client libraries and programs: pymemcache, python3-memcache, pylibmc with both protocols, and libmemcached-tools."""

import os
import subprocess
import tempfile

import memcache
import pylibmc
import pymemcache
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

from peer import CheckFailed


def require(condition, what):
    if not condition:
        raise CheckFailed(what)


def check_pymemcache(port):
    client = pymemcache.Client(("127.0.0.1", port), timeout=15, connect_timeout=15)
    client.flush_all(noreply=False)
    require(client.set("a", b"1", noreply=False) is True, "set")
    require(client.get("a") == b"1" and client.get("none") is None, "get")
    require(client.add("a", b"2", noreply=False) is False, "add")
    require(client.replace("a", b"2", noreply=False) is True, "replace")
    require(client.append("a", b"3", noreply=False) is True, "append")
    require(client.prepend("a", b"1", noreply=False) is True, "prepend")
    value, version = client.gets("a")
    require(value == b"123", "gets")
    require(client.cas("a", b"5", b"0", noreply=False) is False, "cas with a wrong version")
    require(client.cas("a", b"5", version, noreply=False) is True, "cas")
    require(client.cas("none", b"5", version, noreply=False) is None, "cas of a missing key")
    require(client.incr("a", 10) == 15 and client.decr("a", 20) == 0, "incr and decr")
    require(client.incr("none", 1) is None, "incr of a missing key")
    require(client.touch("a", 100, noreply=False) is True, "touch")
    require(client.delete("a", noreply=False) is True and client.delete("a", noreply=False) is False, "delete")
    values = {f"key{number}": b"value %d" % number for number in range(5000)}
    require(client.set_many(values, noreply=False) == [], "set_many")
    require(client.get_many(list(values) + ["none"]) == values, "get_many")
    require(set(client.gets_many(list(values)[:100])) == set(list(values)[:100]), "gets_many")
    require(client.delete_many(list(values), noreply=False) is True, "delete_many")
    require(client.get_many(list(values)) == {}, "get_many after delete_many")
    for number in range(100):
        client.set("quiet", b"%d" % number, noreply=True)
    require(client.get("quiet") == b"99", "set without a reply")
    client.set("text", b"x", noreply=False)
    for error, call in [
        (MemcacheClientError, lambda: client.incr("text", 1)),
        (MemcacheServerError, lambda: client.set("large", b"x" * (1 << 20) + b"x", noreply=False)),
    ]:
        try:
            call()
            raise CheckFailed(f"no {error.__name__}")
        except error:
            pass
        client.close()
    require(client.stats()[b"curr_items"] > 0 and client.version().startswith(b"1."), "stats and version")
    client.quit()


def check_memcache(port):
    client = memcache.Client([f"127.0.0.1:{port}"], socket_timeout=15)
    require(client.flush_all() is None and client.set("object", {"a": [1, 2]}), "set of an object")
    require(client.get("object") == {"a": [1, 2]}, "get of an object")
    require(client.set_multi({str(number): number for number in range(500)}) == [], "set_multi")
    require(client.get_multi([str(number) for number in range(500)])["499"] == 499, "get_multi")
    require(client.incr("499") == 500 and client.touch("499", 10) and client.delete("499"), "incr, touch and delete")
    require(client.set("compressed", "x" * 500_000, min_compress_len=1000), "set of a compressed value")
    require(client.get("compressed") == "x" * 500_000, "get of a compressed value")
    require(client.get_stats()[0][1]["threads"] == "2", "get_stats")
    client.disconnect_all()


def check_pylibmc(port, is_binary):
    client = pylibmc.Client([f"127.0.0.1:{port}"], binary=is_binary, behaviors={"cas": True, "tcp_nodelay": True})
    require(client.flush_all() and client.set("a", "text") and client.get("a") == "text", "set and get")
    require(client.add("a", 1) is False and client.replace("a", 7), "add and replace")
    require(client.get("a") == 7 and client.incr("a", 3) == 10 and client.decr("a", 4) == 6, "incr and decr")
    value, version = client.gets("a")
    require(value == 6 and client.cas("a", 8, version), "gets and cas")
    values = {f"key{number}": os.urandom(number) for number in range(1000)}
    require(client.set_multi(values) == [] and client.get_multi(list(values)) == values, "set_multi and get_multi")
    require(client.set("large", b"x" * 1_000_000) and client.get("large") == b"x" * 1_000_000, "a large value")
    require(client.set("b", b"2") and client.append("b", b"3") and client.prepend("b", b"1"), "append and prepend")
    require(client.get("b") == b"123", "get of an appended value")
    require(client.touch("b", 100) and client.delete("b") and client.get("b") is None, "touch and delete")
    try:
        client.incr("none")
        raise CheckFailed("incr of a missing key")
    except pylibmc.NotFound:
        pass
    require(client.get_stats()[0][1]["version"] in ("1.6.18", b"1.6.18"), "get_stats")
    client.disconnect_all()


def run(arguments, **options):
    """Runs a program and requires that it succeeds. Returns its output."""
    outcome = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, **options)
    output = outcome.stdout.decode(errors="replace")
    require(outcome.returncode == 0, f"{arguments} ended with status {outcome.returncode}: {output[-500:]}")
    return output


def check_memccapable(port):
    output = run(["memccapable", "-h", "127.0.0.1", "-p", str(port)])
    require("FAIL" not in output and output.count("[pass]") >= 54, f"memccapable: {output}")
    return output.count("[pass]")


def check_tools(port):
    servers = f"--servers=127.0.0.1:{port}"
    for protocol in ([], ["--binary"]):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "file")
            content = os.urandom(50_000).hex()
            with open(path, "w", encoding="ascii") as file:
                file.write(content)
            run(["memccp", servers, *protocol, path])
            require(run(["memccat", servers, *protocol, "file"]).rstrip("\n") == content, "memccat differs from the file")
            run(["memcexist", servers, *protocol, "file"])
            run(["memctouch", servers, *protocol, "--expire=100", "file"])
            run(["memcrm", servers, *protocol, "file"])
            require(subprocess.run(["memcexist", servers, *protocol, "file"], timeout=60).returncode != 0, "memcexist after memcrm")
        run(["memcping", servers])
        run(["memcflush", servers, *protocol])
        for test in ("set", "get", "mget"):
            run(["memcslap", servers, *protocol, "--concurrency=10", "--execute-number=500", "--initial-load=500", f"--test={test}"])
    require("limit_maxbytes" in run(["memcstat", servers]), "memcstat")


def check_all(port):
    """Runs every client. Prints what each has done."""
    check_pymemcache(port)
    print(f"    pymemcache {pymemcache.__version__}: all commands", flush=True)
    check_memcache(port)
    print(f"    python3-memcache {memcache.__version__}: objects, many keys, compression", flush=True)
    for is_binary in (False, True):
        check_pylibmc(port, is_binary)
        print(f"    pylibmc {pylibmc.__version__}: {'binary' if is_binary else 'text'} protocol", flush=True)
    print(f"    memccapable: {check_memccapable(port)} tests passed", flush=True)
    check_tools(port)
    print("    memccp, memccat, memcexist, memctouch, memcrm, memcping, memcflush, memcslap, memcstat: both protocols", flush=True)
