"""The page of the example chat in headless Chromium, which is driven by the DevTools protocol."""

import asyncio
import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

import websockets
from chat_servers import PATIENCE, RUNNER, Chat, HAProxy, Redis, free_port, own_address
from peer import CheckFailed, check_equal, wait_until

KEYS = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "/": 191, "n": 78, "r": 82}
ALT = 1


class Browser:
    """A Chromium with one page."""

    def __init__(self, url, scheme="light"):
        self.directory = tempfile.mkdtemp()
        self.ids = itertools.count(1)
        self.waiting = {}
        self.problems = []
        self.requested = []
        # The shell script of Debian would change the environment; it is not needed.
        program = shutil.which("chromium")
        if program is None:
            raise CheckFailed("chromium is not installed")
        self.process = subprocess.Popen(
            [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", f"--user-data-dir={self.directory}",
                "--remote-debugging-port=0", "--window-size=900,640", "about:blank",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        try:
            self.open(url, scheme)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def open(self, url, scheme):
        active = os.path.join(self.directory, "DevToolsActivePort")

        def address():
            try:
                with open(active, encoding="ascii") as file:
                    return file.read().splitlines()
            except FileNotFoundError:
                return []

        if not wait_until(lambda: len(address()) == 2 or self.process.poll() is not None, PATIENCE) or not address():
            raise CheckFailed("chromium did not start")
        port, path = address()

        async def connect():
            self.socket = await websockets.connect(f"ws://127.0.0.1:{port}{path}", max_size=None, ping_interval=None)
            self.reader = asyncio.ensure_future(self.read())

        RUNNER.wait(connect(), PATIENCE)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.scheme(scheme)
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && document.getElementById('text')")

    async def read(self):
        """Until the browser ends."""
        try:
            async for message in self.socket:
                self.on_message(json.loads(message))
        except websockets.ConnectionClosed:
            pass

    def on_message(self, message):
        if "id" in message:
            self.waiting.pop(message["id"]).set_result(message)
        elif message["method"] == "Runtime.exceptionThrown":
            self.problems.append(message["params"]["exceptionDetails"].get("exception", {}).get("description"))
        elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.problems.append(message["params"]["entry"]["text"])
        elif message["method"] == "Network.requestWillBeSent":
            self.requested.append(message["params"]["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            self.requested.append(message["params"]["url"])

    def call(self, method, **parameters):
        async def request():
            number = next(self.ids)
            self.waiting[number] = asyncio.get_running_loop().create_future()
            message = {"id": number, "method": method, "params": parameters}
            if self.session:
                message["sessionId"] = self.session
            await self.socket.send(json.dumps(message))
            return await self.waiting[number]

        reply = RUNNER.wait(request(), PATIENCE)
        if "error" in reply:
            raise CheckFailed(f"{method}: {reply['error']}")
        return reply["result"]

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise CheckFailed(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, expression):
        end = time.monotonic() + PATIENCE
        while not self.value(f"!!({expression})"):
            if time.monotonic() > end:
                shown = self.value("document.body ? document.body.innerText : ''")
                raise CheckFailed(f"the page does not show in time: {expression}; it shows: {shown}")
            time.sleep(0.05)

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, modifiers=0):
        parameters = {"key": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": modifiers}
        parameters["code"] = {"/": "Slash"}.get(key, f"Key{key.upper()}" if len(key) == 1 else key)
        text = {"Enter": "\r", "/": "/"}.get(key)
        self.call("Input.dispatchKeyEvent", type="keyDown", **parameters, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def fill(self, key, text):
        """Alt and a key select a field, whose text is replaced."""
        self.press(key, ALT)
        self.type(text)
        self.press("Enter")

    def says(self, text):
        self.type(text)
        self.press("Enter")

    def hears(self, name, text):
        """Waits for a line of a guest."""
        line = json.dumps(f"{name}{text}")
        self.wait_for(f"[...document.querySelectorAll('#log li')].some(item => item.textContent === {line})")

    def is_in(self, name, room):
        self.wait_for(f"document.getElementById('status').textContent === 'connected as {name} in {room}'")

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def process_of(text):
    """What the first names of the guests of a process end with."""
    return re.search(r"guest\d+(x[0-9a-f]{4}) in lobby", text)[1]


def converse(proxy, one, other, screenshots):
    """A browser through HAProxy, one on the other process, and a program such as nc."""
    connected = "document.getElementById('status').textContent.startsWith('connected as guest')"
    urls = [f"http://127.0.0.1:{proxy.http_port}/"]
    with Browser(urls[0], "light") as ann, one.guest() as netcat:
        ann.wait_for(connected)
        is_on_one = process_of(netcat.line()) == process_of(ann.value("document.getElementById('log').innerText"))
        netcat.enter("netcat", "garden")
        urls.append(f"http://{other.http_host}:{(other if is_on_one else one).http_port}/")
        with Browser(urls[1], "dark") as ben:
            ben.wait_for(connected)
            exchange(ann, ben, netcat)
            keyboard(ann)
            for browser, scheme, url in zip((ann, ben), ("light", "dark"), urls):
                back = browser.value("getComputedStyle(document.body).backgroundColor")
                light = sum(int(part) for part in back[4:-1].split(",")) > 3 * 128
                check_equal(light, scheme == "light", f"the background {back} is light")
                browser.screenshot(os.path.join(screenshots, f"chat-{scheme}.png"))
                own = (url, url.replace("http", "ws") + "chat")
                others = [found for found in browser.requested if found not in own and not found.startswith("data:")]
                check_equal((others, browser.problems), ([], []), "other requests, and problems")


def exchange(ann, ben, netcat):
    """Each hears the others, and no name is used twice."""
    for browser, name in ((ann, "ann"), (ben, "ben")):
        browser.fill("n", name)
        browser.is_in(name, "lobby")
        browser.fill("r", "garden")
        browser.is_in(name, "garden")
        check_equal(browser.value("document.activeElement.id"), "text", "the focus after joining")
        netcat.expect(f"* {name} is in garden")
    ann.says("hello <b>ben</b>, grüße & 👋")
    ben.hears("ann", "hello <b>ben</b>, grüße & 👋")
    netcat.expect("ann: hello <b>ben</b>, grüße & 👋")
    ben.says("hello from another browser")
    ann.hears("ben", "hello from another browser")
    netcat.expect("ben: hello from another browser")
    netcat.say("and hello from nc")
    for browser in (ann, ben):
        browser.hears("netcat", "and hello from nc")
    # The name of another is refused, on the other process too.
    ben.fill("n", "ANN")
    ben.wait_for("document.getElementById('log').innerText.includes('the name ANN is taken')")
    check_equal(ben.value("document.getElementById('name').value"), "ben", "the name that is shown")
    # The first one in the order of names would be `ann`.
    ben.says("/who")
    ben.wait_for("document.getElementById('log').innerText.includes('here on this server: ben')")


def keyboard(browser):
    browser.value("document.getElementById('log').focus()")
    browser.press("/")
    check_equal(browser.value("document.activeElement.id + document.getElementById('text').value"), "text", "the focus after /")
    browser.press("ArrowUp")
    check_equal(browser.value("document.getElementById('text').value"), "hello <b>ben</b>, grüße & 👋", "the line before")
    browser.press("n", ALT)
    browser.type("other")
    browser.press("Escape")
    check_equal(browser.value("document.activeElement.id + document.getElementById('name').value"), "textann", "after Escape")
    browser.value("document.getElementById('text').value = ''")


def reconnects(program, directory):
    """The page returns to its name and room when the server has been restarted."""
    host = own_address()
    addresses = {"listen": f"{host}:{free_port(host)}", "http": f"{host}:{free_port(host)}"}
    with Chat(program, **addresses) as chat:
        with Browser(f"http://{addresses['http']}/") as browser:
            browser.wait_for("document.getElementById('status').textContent.startsWith('connected')")
            browser.fill("n", "ann")
            browser.is_in("ann", "lobby")
            browser.fill("r", "garden")
            browser.is_in("ann", "garden")
            # The status changes with each attempt.
            browser.value(
                "window.shown = []; new MutationObserver(() => shown.push(document.getElementById('status').textContent))"
                ".observe(document.getElementById('status'), {childList: true})"
            )
            chat.stop()
            browser.wait_for("shown.some(text => text.startsWith('not connected (1001)'))")
            check_equal(browser.value("document.getElementById('send').disabled"), True, "the button without a connection")
            browser.screenshot(os.path.join(directory, "chat-lost.png"))
            with Chat(program, **addresses) as chat:
                browser.is_in("ann", "garden")
                with chat.guest().enter("ben", "garden") as ben:
                    browser.press("Escape")
                    browser.says("back again")
                    ben.expect("ann: back again")


def check_all(program, screenshots=None):
    with tempfile.TemporaryDirectory() as directory, Redis(directory) as redis:
        options = ["--backplane", redis.url]
        with Chat(program, *options) as one, Chat(program, *options) as other, HAProxy(directory, [one, other]) as proxy:
            converse(proxy, one, other, screenshots or directory)
        reconnects(program, screenshots or directory)
    print("    two browsers and nc; the page returns after a restart", flush=True)
