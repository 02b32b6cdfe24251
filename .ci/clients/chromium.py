"""A page in headless Chromium, controlled by its DevTools protocol. Needs the packages chromium and python3-websockets of Debian."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request

import websockets

from peer import CheckFailed, wait_until

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0",
]
# On one core that is busy, Chromium takes a minute for a page.
DEADLINE = 300

# The codes of the keys that differ from their letters.
CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "/": 191}
ALT = 1


class Navigated(CheckFailed):
    """The page was replaced by another while an expression was evaluated."""


# The errors of the protocol for this.
NAVIGATED = ["Inspected target navigated or closed", "Execution context was destroyed", "Cannot find context with specified id"]


class Browser:
    """A browser with one page. What the page requests and reports is recorded."""

    def __init__(self, folder, size=(1400, 1500)):
        data = tempfile.mkdtemp(dir=folder)
        window = f"--window-size={size[0]},{size[1]}"
        # Chromium does not remove all its temporary files, so they are in the caller's folder too.
        self.process = subprocess.Popen(
            ["chromium", *FLAGS, window, f"--user-data-dir={data}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": data},
            start_new_session=True,
        )
        try:
            self._connect(data)
        except BaseException:
            self._end()
            raise

    def _connect(self, data):
        port = self._await_port(os.path.join(data, "DevToolsActivePort"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=DEADLINE) as reply:
            pages = [target for target in json.load(reply) if target["type"] == "page"]
        self.tasks = asyncio.new_event_loop()
        self.socket = self._await(lambda: websockets.connect(pages[0]["webSocketDebuggerUrl"], max_size=None, ping_interval=None))
        self.last_id = 0
        self.requests, self.complaints = [], []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _await(self, begin):
        async def wait():
            return await begin()

        return self.tasks.run_until_complete(asyncio.wait_for(wait(), DEADLINE))

    def _await_port(self, path):
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise CheckFailed(f"chromium has ended with status {self.process.returncode}")
            try:
                with open(path, encoding="ascii") as file:
                    lines = file.read().splitlines()
                if len(lines) >= 2:
                    return int(lines[0])
            except FileNotFoundError:
                pass
            time.sleep(0.05)
        raise CheckFailed("chromium does not open its port")

    def call(self, method, **parameters):
        self.last_id += 1
        self._await(lambda: self.socket.send(json.dumps({"id": self.last_id, "method": method, "params": parameters})))
        while True:
            message = json.loads(self._await(lambda: self.socket.recv()))
            if message.get("id") == self.last_id:
                if "error" in message:
                    is_navigated = any(message["error"]["message"].startswith(text) for text in NAVIGATED)
                    raise (Navigated if is_navigated else CheckFailed)(f"{method}: {message['error']}")
                return message["result"]
            self._record(message)

    def _record(self, message):
        parameters = message.get("params", {})
        if message["method"] == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            self.requests.append(parameters["url"])
        elif message["method"] == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif message["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise CheckFailed(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def await_true(self, expression, what):
        """Waits until the expression is true in the page, which may be another one than at the start."""

        def is_true():
            try:
                return self.evaluate(expression)
            except Navigated:
                return False

        end = time.monotonic() + DEADLINE
        while not is_true():
            if time.monotonic() > end:
                shown = self.evaluate("document.body?.innerText")
                raise CheckFailed(f"the page: {what} (not within {DEADLINE} s); it shows: {shown}")
            time.sleep(0.1)

    def press(self, key, modifiers=0):
        code = CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
        event = {"key": key, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code, "modifiers": modifiers}
        event["code"] = {"/": "Slash"}.get(key, f"Key{key.upper()}" if key.isalpha() and len(key) == 1 else key)
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 and not modifiers else "")
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def set_colours(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path):
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        with open(path, "wb") as file:
            file.write(base64.b64decode(picture["data"]))

    def close(self):
        self._await(self.socket.close)
        self.tasks.close()
        self._end()

    def _end(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # The processes that it has started may still write to its folder.
        if not wait_until(self._group_has_ended, DEADLINE):
            raise CheckFailed("the processes of chromium do not end")

    def _group_has_ended(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return False
