"""The page of the example chat in headless Chromium."""

import json
import os
import re
import tempfile

import chromium
from chat_servers import Chat, HAProxy, Redis, free_port, own_address
from chromium import ALT
from peer import check_equal


class Browser(chromium.Browser):
    """A browser that shows the page of chat."""

    def __init__(self, folder, url, scheme="light"):
        super().__init__(folder, size=(900, 640))
        self.set_colours(scheme)
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && document.getElementById('text')")

    def wait_for(self, expression):
        self.await_true(f"!!({expression})", f"shows {expression}")

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


def process_of(text):
    """What the first names of the guests of a process end with."""
    return re.search(r"guest\d+(x[0-9a-f]{4}) in lobby", text)[1]


def converse(proxy, one, other, folder, screenshots):
    """A browser through HAProxy, one on the other process, and a program such as nc."""
    connected = "document.getElementById('status').textContent.startsWith('connected as guest')"
    urls = [f"http://127.0.0.1:{proxy.http_port}/"]
    with Browser(folder, urls[0]) as ann, one.guest() as netcat:
        ann.wait_for(connected)
        is_on_one = process_of(netcat.line()) == process_of(ann.evaluate("document.getElementById('log').innerText"))
        netcat.enter("netcat", "garden")
        urls.append(f"http://{other.http_host}:{(other if is_on_one else one).http_port}/")
        with Browser(folder, urls[1], "dark") as ben:
            ben.wait_for(connected)
            exchange(ann, ben, netcat)
            keyboard(ann)
            for browser, scheme, url in zip((ann, ben), ("light", "dark"), urls):
                back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
                light = sum(int(part) for part in back[4:-1].split(",")) > 3 * 128
                check_equal(light, scheme == "light", f"the background {back} is light")
                browser.screenshot(os.path.join(screenshots, f"chat-{scheme}.png"))
                own = (url, url.replace("http", "ws") + "chat")
                others = [found for found in browser.requests if found not in own and not found.startswith("data:")]
                check_equal((others, browser.complaints), ([], []), "other requests, and problems")


def exchange(ann, ben, netcat):
    """Each hears the others, and no name is used twice."""
    for browser, name in ((ann, "ann"), (ben, "ben")):
        browser.fill("n", name)
        browser.is_in(name, "lobby")
        browser.fill("r", "garden")
        browser.is_in(name, "garden")
        check_equal(browser.evaluate("document.activeElement.id"), "text", "the focus after joining")
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
    check_equal(ben.evaluate("document.getElementById('name').value"), "ben", "the name that is shown")
    # The first one in the order of names would be `ann`.
    ben.says("/who")
    ben.wait_for("document.getElementById('log').innerText.includes('here on this server: ben')")


def keyboard(browser):
    browser.evaluate("document.getElementById('log').focus()")
    browser.press("/")
    check_equal(browser.evaluate("document.activeElement.id + document.getElementById('text').value"), "text", "the focus after /")
    browser.press("ArrowUp")
    check_equal(browser.evaluate("document.getElementById('text').value"), "hello <b>ben</b>, grüße & 👋", "the line before")
    browser.press("n", ALT)
    browser.type("other")
    browser.press("Escape")
    check_equal(browser.evaluate("document.activeElement.id + document.getElementById('name').value"), "textann", "after Escape")
    browser.evaluate("document.getElementById('text').value = ''")


def reconnects(program, directory, screenshots):
    """The page returns to its name and room when the server has been restarted."""
    host = own_address()
    addresses = {"listen": f"{host}:{free_port(host)}", "http": f"{host}:{free_port(host)}"}
    with Chat(program, **addresses) as chat:
        with Browser(directory, f"http://{addresses['http']}/") as browser:
            browser.wait_for("document.getElementById('status').textContent.startsWith('connected')")
            browser.fill("n", "ann")
            browser.is_in("ann", "lobby")
            browser.fill("r", "garden")
            browser.is_in("ann", "garden")
            # The status changes with each attempt.
            browser.evaluate(
                "window.shown = []; new MutationObserver(() => shown.push(document.getElementById('status').textContent))"
                ".observe(document.getElementById('status'), {childList: true})"
            )
            chat.stop()
            browser.wait_for("shown.some(text => text.startsWith('not connected (1001)'))")
            check_equal(browser.evaluate("document.getElementById('send').disabled"), True, "the button without a connection")
            browser.screenshot(os.path.join(screenshots, "chat-lost.png"))
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
            converse(proxy, one, other, directory, screenshots or directory)
        reconnects(program, directory, screenshots or directory)
    print("    two browsers and nc; the page returns after a restart", flush=True)
