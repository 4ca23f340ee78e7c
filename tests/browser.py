"""Looks at pages with a real browser, as a person would: no errors in the console, no failed requests, no faults that axe finds, nothing wider than
the window; on a light desktop and a dark phone, or both ways on both. Then, if asked, enters
as the operator and holds a conversation on the chat page.

usage: browser.py CHROMIUM AXE FOLDER URL [PATH...] [--all] [--chat] [--operator TOKEN]

Prints each fault, and ends with 1 if there were any. Pictures of all pages go to FOLDER. Speaks the browser's own protocol over a pipe, so that it
needs nothing but Python.
"""

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time

LIMIT = 60
SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True)}
LOOKS = [("desktop", "light"), ("phone", "dark")]
OTHER_LOOKS = [("desktop", "dark"), ("phone", "light")]
# axe's rules of WCAG 2.2, A and AA, and what it holds for good practice.
AXE = 'axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] })'


class Browser:
    def __init__(self, program, profile):
        to_read, self.to = os.pipe()
        self.of, to_write = os.pipe()
        # The browser takes its commands from descriptor 3 and answers on 4.
        wrapper = f"exec 3<&{to_read} 4>&{to_write}; exec \"$@\""
        flags = ["--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
                 f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        if os.geteuid() == 0:
            flags.insert(0, "--no-sandbox")
        self.process = subprocess.Popen(["bash", "-c", wrapper, "bash", program, *flags], pass_fds=(to_read, to_write),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.held, self.last, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def close(self):
        self.process.kill()
        self.process.wait()

    def message(self, until):
        while b"\0" not in self.held:
            if not select.select([self.of], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            piece = os.read(self.of, 1 << 20)
            if not piece:
                raise EOFError("the browser has ended")
            self.held += piece
        one, self.held = self.held.split(b"\0", 1)
        return json.loads(one)

    def call(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + LIMIT
        while True:
            answer = self.message(until)
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression[:80]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression):
        """Looks until it is true. A page that goes away meanwhile takes the question with it."""
        until, why = time.monotonic() + LIMIT, None
        while time.monotonic() < until:
            try:
                if self.evaluate(f"Boolean({expression})"):
                    return
            except RuntimeError as error:
                why = error
            time.sleep(0.05)
        raise TimeoutError(f"never: {expression} ({why})")

    def go(self, url):
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def faults(self):
        """What the console and the network say of the page that was gone to last."""
        for event in self.events:
            kind, params = event.get("method"), event.get("params", {})
            if kind == "Runtime.exceptionThrown":
                yield f"exception: {params['exceptionDetails'].get('exception', {}).get('description')}"
            elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                yield f"console: {[arg.get('value') for arg in params['args']]}"
            elif kind == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                yield f"log: {params['entry']['text']} {params['entry'].get('url', '')}"
            elif kind == "Network.loadingFailed" and not params.get("canceled"):
                yield f"request failed: {params.get('errorText')}"


def look(browser, axe, folder, url, path, looks):
    """All faults of a page."""
    for size, scheme in looks:
        width, height, mobile = SIZES[size]
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.go(url + path)
        where = f"{path} ({size}, {scheme})"
        yield from (f"{where}: {fault}" for fault in browser.faults())
        wide = browser.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide > 0:
            yield f"{where}: {wide} pixels wider than the window"
        browser.evaluate(axe)
        for violation in browser.evaluate(AXE)["violations"]:
            places = [node["html"][:120] for node in violation["nodes"][:3]]
            yield f"{where}: axe: {violation['id']}: {violation['help']}: {places}"
        picture = browser.call("Page.captureScreenshot", captureBeyondViewport=True)
        name = (path.strip("/").split("?")[0].replace("/", "-") or "dashboard")[:40]
        with open(os.path.join(folder, f"{name}-{size}-{scheme}.png"), "wb") as file:
            file.write(base64.b64decode(picture["data"]))


def type_into(browser, field, text):
    browser.evaluate(f"document.getElementById({json.dumps(field)}).focus()")
    browser.call("Input.insertText", text=text)


def press(browser, key):
    for kind in ["keyDown", "keyUp"]:
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=13, text="\r" if kind == "keyDown" else "")


def enter(browser, url, token):
    """Types the operator's token, as its cookie can't be set from a script."""
    browser.go(url + "/operator")
    browser.evaluate("document.querySelector('input[name=token]').id = 'token'")
    type_into(browser, "token", token)
    press(browser, "Enter")
    browser.wait_for("document.querySelector('.log')")
    # Stopped, and started again.
    for said in ["Start training", "Stop training"]:
        browser.evaluate("document.querySelector('form[action$=training] button').click()")
        browser.wait_for(f"document.readyState === 'complete' && document.body.textContent.includes({json.dumps(said)})")


def chat(browser, folder, url):
    """A conversation: a question by the keyboard, its answer, another one that is stopped."""
    browser.go(url + "/chat")
    browser.wait_for("document.getElementById('model').options.length > 0")
    browser.evaluate("document.getElementById('tokens').value = 24")
    type_into(browser, "said", "Who is there?")
    press(browser, "Enter")
    browser.wait_for("document.getElementById('speed').textContent.includes('First token')")
    said = browser.evaluate("[...document.querySelectorAll('.said')].map((one) => one.className + ': ' + one.textContent)")
    if len(said) != 2 or not said[0].endswith("Who is there?") or not said[1].startswith("said assistant") or "Answered by" not in said[1]:
        yield f"/chat: the conversation is {said}"
    # Over a slow line there is time to stop it.
    browser.evaluate("document.getElementById('tokens').value = ''")
    browser.evaluate("document.getElementById('anew').click()")
    browser.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=400, uploadThroughput=-1)
    type_into(browser, "said", "Go on")
    press(browser, "Enter")
    browser.wait_for("document.querySelectorAll('.said')[1]?.querySelector('p').textContent")
    browser.evaluate("document.getElementById('stop').click()")
    browser.wait_for("document.getElementById('stop').hidden")
    browser.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    yield from (f"/chat: {fault}" for fault in browser.faults())
    picture = browser.call("Page.captureScreenshot")
    with open(os.path.join(folder, "conversation.png"), "wb") as file:
        file.write(base64.b64decode(picture["data"]))


def main(program, axe, folder, url, *rest):
    with open(axe, encoding="utf-8") as file:
        axe = file.read()
    os.makedirs(folder, exist_ok=True)
    # What the browser still writes while it ends is of no use to anybody.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            if "--operator" in rest:
                enter(browser, url, rest[rest.index("--operator") + 1])
            looks = LOOKS + (OTHER_LOOKS if "--all" in rest else [])
            paths = [path for path in rest if path.startswith("/")]
            faults = [fault for path in paths for fault in look(browser, axe, folder, url, path, looks)]
            if "--chat" in rest:
                faults += chat(browser, folder, url)
        finally:
            browser.close()
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
