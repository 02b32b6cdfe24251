"""Rooms, names, history and commands of the example chat; both kinds of guests; signals."""

import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile

import websockets
from chat_servers import RUNNER, Chat, LineGuest, MessageGuest, free_port, own_address
from peer import DEADLINE, CheckFailed, check_equal, close_with_reset, open_descriptors, wait_until

GUESTS = 50
HISTORY = 50
INVALID = "* a name has 1 to 30 letters and digits, `-` and `_`"
COMMANDS = "the commands are: /nick NAME, /join ROOM, /who, /quit, and /help"


def guests_of(chat):
    """Both kinds of guests, alternately."""
    while True:
        yield chat.guest()
        yield chat.message_guest()


def a_line_reaches_all_guests_of_the_room_only(chat):
    rooms = ["garden", "kitchen"]
    guests = [guest.enter(f"g{number}", rooms[number // 2 % 2]) for number, guest in zip(range(GUESTS), guests_of(chat))]
    for number, guest in enumerate(guests):
        guest.say(f"line {number}")
    for number, guest in enumerate(guests):
        expected = {f"g{other}: line {other}" for other in range(GUESTS) if other // 2 % 2 == number // 2 % 2}
        while expected:
            line = guest.line()
            if not line.startswith("*"):
                if line not in expected:
                    raise CheckFailed(f"guest {number} received `{line}`")
                expected.remove(line)
    guests[0].say("/join kitchen")
    for other in (4, 5):
        guests[other].expect("* g0 has left")
    for other in (2, 3):
        guests[other].expect("* g0 is in kitchen")
    guests[4].say("only for the garden")
    for other in (4, 5):
        guests[other].expect("g4: only for the garden")
    guests[2].say("only for the kitchen")
    heard = guests[0].expect("g2: only for the kitchen")
    if "g4: only for the garden" in heard or "* g0 has left" in heard:
        raise CheckFailed("a guest who has left a room hears it")
    guests[1].close()
    guests[4].expect("* g1 has left")
    for guest in guests:
        guest.close()


def names_are_unique(chat):
    ann, ben = chat.guest().enter("Ann"), chat.message_guest().enter("ben")
    for taken in ("Ann", "ANN", "ann"):
        ben.say(f"/nick {taken}")
        ben.expect(f"* the name {taken} is taken")
    ben.say("/nick guest7")
    ben.expect("* names that begin with `guest` are reserved")
    for name in ("two words", "\x1b[31m", "x" * 31, "a/b"):
        ben.say(f"/nick {name}")
        ben.expect(INVALID)
    # A name that is given up is free.
    ann.say("/nick Anna")
    ben.expect("* Ann is now Anna")
    ben.say("/nick Ann")
    ben.expect("* you are Ann in lobby")
    ben.close()
    ann.expect("* Ann has left")
    ann.say("/nick ben")
    ann.expect("* you are ben in lobby")
    ann.close()


def commands(chat):
    for guest in (chat.guest(), chat.message_guest()):
        guest.enter("cook", "pantry")
        for line in ("/shout", "/", "/who else"):
            guest.say(line)
            guest.hears(f"* unknown command; {COMMANDS}")
        for line, reply in (
            ("/nick", "/nick needs a name"), ("/join ", "/join needs a room"),
            ("/nick cook", "you are cook already"), ("/nick COOK", "you are cook already"),
        ):
            guest.say(line)
            guest.hears(f"* {reply}")
        guest.say("/help")
        guest.hears(f"* {COMMANDS}")
        guest.say("/join a/b")
        guest.hears(f"* not joined: {INVALID[2:]}")
        guest.say("/join pantry")
        guest.hears("* you are cook in pantry")
        guest.say("/who")
        guest.hears("* 1 here: cook")
        guest.say("a\x1b[31mb")
        guest.hears("cook: a [31mb")
        guest.say("grüße, 世界 👋")
        guest.hears("cook: grüße, 世界 👋")
        guest.say("")
        guest.say("/quit")
        check_equal(guest.rest(), [], "after /quit")
        guest.close()
    check_equal(guest.code, 1000, "the code of the close after /quit")


def history(chat):
    """A newcomer gets the last lines, and then each further line once."""
    talker = chat.guest().enter("talker", "archive")
    for number in range(HISTORY + 10):
        talker.say(f"line {number}")
        talker.expect(f"talker: line {number}")
    for guest in (chat.guest(), chat.message_guest()):
        guest.say("/join archive")
        guest.expect(f"* the last lines in archive: {HISTORY}")
        guest.hears(*(f"talker: line {number}" for number in range(10, HISTORY + 10)))
        guest.expect(r"\* you are guest\S+ in archive", is_pattern=True)
        guest.close()
    # Newcomers enter while lines are on their way.
    last = HISTORY + 10
    for guest in [guest for _, guest in zip(range(20), guests_of(chat))]:
        guest.say("/join archive")
        for number in range(last, last + 30):
            talker.say(f"line {number}")
        last += 30
        numbers = []
        while not numbers or numbers[-1] != last - 1:
            said = re.fullmatch(r"talker: line (\d+)", guest.line())
            if said:
                numbers.append(int(said[1]))
        check_equal(numbers, list(range(numbers[0], last)), "the lines that a newcomer gets")
        guest.close()
        talker.expect(f"talker: line {last - 1}")
    talker.close()


def limits(chat):
    """What is too long, or no text, ends the connection with a reason."""
    with chat.guest() as guest:
        guest.say("x" * 2000)
        lines = guest.rest()
        if "* the line is longer than 1000 bytes" not in lines:
            raise CheckFailed(f"the reply to a long line: {lines}")
    with chat.guest() as guest:
        guest.sock.sendall(b"half")
        guest.sock.shutdown(socket.SHUT_WR)
        check_equal(guest.rest()[-1], "* the last line has no end and was not sent", "the reply to half a line")
    for message, code in (("x" * 5000, 1009), (b"bytes", 1003), (["x" * 3000, "x" * 3000], 1009)):
        guest = chat.message_guest()
        guest.say(message)
        guest.rest()
        check_equal(guest.code, code, f"the code of the close after {message[:1]!r}")
    guest = chat.message_guest()
    guest.expect(r"\* guest\S+ is in lobby", is_pattern=True)

    async def ping():
        await (await guest.socket.ping())

    RUNNER.wait(ping())
    RUNNER.wait(guest.socket.close(4001, "reason"))
    check_equal(guest.socket.close_code, 4001, "the code that is returned")


def paced(chat):
    """A guest who writes faster than permitted is read later: each line arrives, in order."""
    with chat.guest() as listener:
        listener.enter("listener", "races")
        for guest in (chat.guest(), chat.message_guest()):
            guest.say("/join races")
            guest.expect(r"\* guest\S+ is in races", is_pattern=True)
            lines = [f"{number} " + "x" * 850 for number in range(100)]
            for line in lines:
                guest.say(line)
            guest.say("/quit")
            heard = [line for line in listener.expect(r"\* guest\S+ has left", is_pattern=True) if not line.startswith("*")]
            check_equal([line.partition(": ")[2] for line in heard], lines, "the lines of a fast guest")
            guest.rest()
            guest.close()


def http(chat):
    """The page, and who may connect from it."""
    address = f"{chat.http_host}:{chat.http_port}"
    page = subprocess.run(["curl", "-sf", f"http://{address}/"], capture_output=True, timeout=DEADLINE, check=False)
    if page.returncode != 0 or b"<title>chat</title>" not in page.stdout:
        raise CheckFailed(f"curl did not get the page: {page.returncode}")
    check_equal(re.findall(rb"(?:src|href)=.(?!data:)", page.stdout), [], "what the page loads")
    for target, status in (("/", "200"), ("/none", "404"), ("/chat", "426")):
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}{target}"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False).stdout
        check_equal(found, status, f"the status of {target}")
    for origin, is_permitted in ((f"http://{address}", True), ("http://evil.example", False), ("null", False)):
        try:
            MessageGuest(chat.url, origin=origin).close()
        except websockets.InvalidStatusCode as refused:
            if is_permitted or refused.status_code != 403:
                raise CheckFailed(f"the origin {origin}: status {refused.status_code}") from None
        else:
            if not is_permitted:
                raise CheckFailed(f"the origin {origin} was accepted")
    # Requests that are sent without waiting for the responses.
    with socket.create_connection((chat.http_host, chat.http_port), timeout=DEADLINE) as sock:
        request = f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
        sock.sendall(request * 100 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = b""
        while chunk := sock.recv(1 << 16):
            received += chunk
    check_equal(received.count(b"HTTP/1.1 200 OK\r\n"), 101, "the responses")


def netcat(chat):
    """nc: what it sends before its end reaches the others, and it gets its lines."""
    guest = chat.guest().enter("listener")
    output = subprocess.run(
        ["nc", "-N", chat.host, str(chat.port)], input=b"/nick netcat\nhello from nc\n/who\n",
        capture_output=True, timeout=DEADLINE, check=False,
    ).stdout.decode()
    guest.expect("netcat: hello from nc")
    guest.expect("* netcat has left")
    for line in ("* you are netcat in lobby", "netcat: hello from nc", "* 2 here: listener, netcat"):
        if line not in output.splitlines():
            raise CheckFailed(f"nc did not print `{line}`: {output}")
    guest.close()


def fill(chat, listener):
    """Guests write to the room of the listener, until a guest who does not read has been removed."""
    for number in range(1000):
        with chat.guest() as writer:
            writer.say("/join full")
            for _ in range(40):
                writer.say("x" * 900)
            writer.say(f"end {number}")
            heard = listener.expect(rf"guest\S+: end {number}", is_pattern=True)
            if "* silent was removed: too much is unread" in heard:
                return
            writer.expect(rf"guest\S+: end {number}", is_pattern=True)
    raise CheckFailed("a guest who does not read was not removed")


def each_end_is_logged(program):
    """How each guest has left is logged once, with the name and the reason."""
    with Chat(program, "--max-unsent", "65536", log="info") as chat:
        listener = chat.guest().enter("listener")

        def leaves(guest, name, leave):
            guest.enter(name)
            leave(guest)
            listener.expect(f"* {name} has left")
            guest.close()

        def reset(guest):
            guest.input.close()
            close_with_reset(guest.sock)

        def say(line):
            return lambda guest: guest.say(line)

        def end(data):
            def leave(guest):
                guest.sock.sendall(data)
                guest.sock.shutdown(socket.SHUT_WR)
            return leave

        leaves(chat.guest(), "quit", say("/quit"))
        leaves(chat.guest(), "long", say("x" * 2000))
        leaves(chat.guest(), "half", end(b"half"))
        leaves(chat.guest(), "finished", end(b""))
        leaves(chat.guest(), "reset", reset)
        leaves(chat.message_guest(), "quit-message", say("/quit"))
        leaves(chat.message_guest(), "closed", lambda guest: guest.close())
        leaves(chat.message_guest(), "long-message", say("x" * 5000))
        leaves(chat.message_guest(), "aborted", lambda guest: RUNNER.loop.call_soon_threadsafe(guest.socket.transport.abort))
        silent = chat.guest(receive_buffer=4096).enter("silent", "full")
        listener.say("/join full")
        fill(chat, listener)
        stays = chat.message_guest().enter("stays")
        os.kill(chat.pid, signal.SIGTERM)
        listener.rest()
        listener.close()
        stays.rest()
        stays.close()
        log = chat.logged_at_end()
        silent.close()
    reasons = {
        "quit": "/quit", "long": "the line is longer than 1000 bytes", "half": "the last line has no end and was not sent",
        "finished": "both ends have finished", "reset": r"Connection reset by peer .*", "quit-message": "/quit",
        "closed": "closed by the client", "long-message": "closed with 1009", "aborted": ".+", "silent": "does not read",
        "stays": "the server ends", "listener": ".+",
    }
    for name, reason in reasons.items():
        found = re.findall(rf"^\[.*\] 127\.0\.0\.1:\d+ {name}: (.*)$", log, re.MULTILINE)
        if len(found) != 1 or not re.fullmatch(reason, found[0]):
            raise CheckFailed(f"the log of {name}: {found} instead of `{reason}`")


def tls(program):
    """The page and WebSocket with TLS; SIGHUP loads the certificate again. A failure is logged once."""
    with tempfile.TemporaryDirectory() as directory:
        cert, key = (os.path.join(directory, name) for name in ("cert.pem", "key.pem"))
        create = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        create += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert]
        subprocess.run(create, check=True, capture_output=True, timeout=DEADLINE)
        with Chat(program, "--tls", cert, key) as chat:
            url = f"localhost:{chat.http_port}"
            page = subprocess.run(["curl", "-sf", "--cacert", cert, f"https://{url}/"], capture_output=True, timeout=DEADLINE, check=False)
            if b"<title>chat</title>" not in page.stdout:
                raise CheckFailed(f"curl did not get the page with TLS: {page.returncode}")
            context = ssl.create_default_context(cafile=cert)
            with MessageGuest(f"wss://{url}/chat", ssl=context, origin=f"https://{url}") as ann, chat.guest().enter("ben") as ben:
                ben.say("hello")
                ann.expect("ben: hello")
                ann.say("hello with TLS")
                ben.expect("guest1: hello with TLS")
                os.kill(chat.pid, signal.SIGHUP)
                check_equal(chat.process.stdout.readline(), b"the certificate is loaded again\n", "the output after SIGHUP")
            with open(cert, "w", encoding="ascii") as broken:
                broken.write("broken")
            os.kill(chat.pid, signal.SIGHUP)
            if not wait_until(lambda: "stays in use" in chat.logged(), DEADLINE):
                raise CheckFailed(f"a failed reload is not logged: {chat.logged()}")
            os.kill(chat.pid, signal.SIGTERM)
            log = chat.logged_at_end()
            check_equal(log.count("\n"), 1, f"the lines about a failed reload: {log}")


def signals(program):
    for number in (signal.SIGTERM, signal.SIGINT):
        with Chat(program, "--grace", "3600") as chat:
            ann, ben = chat.guest().enter("ann"), chat.message_guest().enter("ben")
            ann.say("hello")
            ben.expect("ann: hello")
            os.kill(chat.pid, number)
            if "* the server ends" not in ann.rest():
                raise CheckFailed("a guest did not get the line that the server ends")
            ben.rest()
            check_equal(ben.code, 1001, "the code of the close when the server stops")
            ann.close()
            ben.close()
            check_equal(chat.stop_after_signal(), "2 guests, 3 lines, 0 guests removed\n", "the totals")
    # The second signal does not wait for a guest who does not close.
    with Chat(program, "--grace", "3600") as chat:
        guest = chat.guest().enter("ann")
        os.kill(chat.pid, signal.SIGTERM)
        guest.expect("* the server ends")
        os.kill(chat.pid, signal.SIGTERM)
        check_equal(chat.stop_after_signal(), "1 guests, 1 lines, 0 guests removed\n", "the totals")
        guest.close()


def command_line(program):
    def outcome(*arguments):
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False)

    help_text = outcome("--help")
    is_complete = help_text.stdout.startswith("usage: chat") and "path /chat" in help_text.stdout
    if help_text.returncode != 0 or not is_complete or help_text.stderr:
        raise CheckFailed(f"--help: {help_text}")
    for arguments in (
        ["--threads", "0"], ["--listen", "nonsense"], ["--nonsense"], ["extra"], ["--max-unsent", "1"], ["--http"],
        ["--backplane", "127.0.0.1:6379"], ["--backplane", "redis://user@host:1"], ["--backplane", "redis://host"],
    ):
        wrong = outcome(*arguments)
        if wrong.returncode != 2 or "usage: chat" not in wrong.stderr or wrong.stdout:
            raise CheckFailed(f"{arguments}: status {wrong.returncode}: {wrong.stderr}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        busy = outcome("--listen", f"127.0.0.1:{listener.getsockname()[1]}")
    if busy.returncode != 1 or busy.stderr.count("\n") != 1 or busy.stdout:
        raise CheckFailed(f"a used port: {busy}")
    # It serves without a reader of its output.
    host = own_address()
    port = free_port(host)
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [program, "--listen", f"{host}:{port}", "--http", f"{host}:0"], stdout=writer, stderr=subprocess.PIPE
    ) as process:
        os.close(writer)

        def is_served():
            try:
                LineGuest(host, port).enter("ann").close()
            except ConnectionRefusedError:
                return False
            return True

        try:
            if not wait_until(is_served, DEADLINE):
                raise CheckFailed("it does not serve without an output")
            process.terminate()
            _, errors = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
        check_equal((process.returncode, errors), (0, b""), "the end without an output")


def check_all(program):
    for threads in (1, 2, 3):
        with Chat(program, "--threads", str(threads)) as chat:
            before = open_descriptors(chat.pid)
            checks = [a_line_reaches_all_guests_of_the_room_only, names_are_unique, history]
            if threads == 2:
                checks += [commands, limits, paced, http, netcat]
            for check in checks:
                check(chat)
            if not wait_until(lambda: open_descriptors(chat.pid) <= before, DEADLINE):
                raise CheckFailed(f"{open_descriptors(chat.pid)} descriptors after {before}")
            print(f"    {threads} loops: {chat.stop().strip()}", flush=True)
    each_end_is_logged(program)
    tls(program)
    signals(program)
    command_line(program)
