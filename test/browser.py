# SPDX-License-Identifier: Apache-2.0
"""A real browser that opens the package's pages: Chromium without a window, driven over its DevTools pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

PATIENCE_S = 20.0

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")

ARGUMENTS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--no-sandbox"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--disable-background-networking", "about:blank"),
)


class Browser:
    """One page. `requests` are the addresses that it asked for, `errors` what its scripts raised."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out, self._received, self._number = into, out, b"", 0
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """What a command of the DevTools protocol returns."""
        number = self._send(method, parameters)
        while (answer := self._next()).get("id") != number:
            self._heard(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _send(self, method: str, parameters: Mapping[str, Any]) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._into, json.dumps(message).encode() + b"\0")
        return self._number

    def _next(self) -> Any:
        while b"\0" not in self._received:
            assert select([self._out], [], [], PATIENCE_S)[0], "the browser does not answer"
            self._received += os.read(self._out, 1 << 20)
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def _heard(self, event: Any) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"][:100])
        elif method == "Page.javascriptDialogOpening":  # the page asks whether to leave it
            self._send("Page.handleJavaScriptDialog", {"accept": True})
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(values["exceptionDetails"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])

    def open(self, page: Path, width: int = 1300, height: int = 900, *, touch: bool = False) -> None:
        """Open a file in a window of this size."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Page.navigate", url=page.absolute().as_uri())
        loaded = "document.readyState === 'complete' ? done() : addEventListener('load', done)"
        self.script(f"new Promise(done => {loaded})")

    def script(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise's once it is there."""
        values = {"expression": expression, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        result = self.call("Runtime.evaluate", **values)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, clicks: int = 1) -> None:
        """An event of the mouse: `mousePressed`, `mouseMoved` or `mouseReleased`."""
        values = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": clicks}
        self.call("Input.dispatchMouseEvent", **values, buttons=int(kind != "mouseReleased"))

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def tap(self, x: float, y: float) -> None:
        """A touch with one finger."""
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        for kind in ("keyDown", "keyUp"):
            values = {"type": kind, "key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
            self.call("Input.dispatchKeyEvent", **values, text=text if kind == "keyDown" else "")

    def screenshot(self, file: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in this folder."""
    assert CHROMIUM
    (read_commands, commands), (answers, write_answers) = os.pipe(), os.pipe()
    # away from the numbers 3 and 4, which the browser's ends get
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read_commands, write_answers)]
    arguments = [CHROMIUM, f"--user-data-dir={profile}", *ARGUMENTS]
    actions = [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(ends, (3, 4), strict=True)]
    quiet = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawn(CHROMIUM, arguments, os.environ, file_actions=[*actions, quiet], setpgroup=0)
    for end in (read_commands, write_answers, *ends):
        os.close(end)
    try:
        yield Browser(commands, answers)
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(commands)
        os.close(answers)
