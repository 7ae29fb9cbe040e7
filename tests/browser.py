"""A headless Chromium, spoken to over a pipe (DevTools protocol), with nothing to install but the browser."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROBLEMS = (
    "Runtime.exceptionThrown",
    "Runtime.consoleAPICalled",
    "Log.entryAdded",
    "Page.javascriptDialogOpening",
    "Page.windowOpen",
)


class Browser:
    def __init__(self, program: str):
        self.profile = tempfile.mkdtemp(prefix="textebm-browser-")
        theirs_in, self.out = os.pipe()
        self.inward, theirs_out = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]

        def place_pipes() -> None:  # the browser reads descriptor 3 and writes 4; one pipe may lie there already
            reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out))
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self.process = subprocess.Popen(
            [program, *options, f"--user-data-dir={self.profile}"],
            close_fds=False,
            preexec_fn=place_pipes,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.count, self.buffer, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        self.downloads = Path(self.profile) / "downloads"
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                piece = os.read(self.inward, 1 << 20)
                if not piece:
                    raise EOFError("the browser is gone")
                self.buffer += piece
            line, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(
        self, path: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False, address: str = ""
    ) -> None:
        """Open a file or address and wait until it says that it is drawn. address: what stands behind the # of it."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)
        if address:
            self.call("Page.navigate", url="about:blank")  # else only the fragment would change
        self.call("Page.navigate", url=(path if isinstance(path, str) else path.as_uri()) + address)
        end = time.monotonic() + 20
        while self.js("document.documentElement?.dataset.ready") != "yes":
            assert time.monotonic() < end, f"the page is not ready: {self.problems()}"
            time.sleep(0.05)
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float) -> None:
        button = "none" if kind == "mouseMoved" else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=1, clickCount=1)

    def key(self, name: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name)

    def problems(self) -> list[str]:
        """Dialogs, windows, console lines, errors and violations of the policy since the page was opened."""
        self.js("1")  # what happened before this answer has arrived
        return [json.dumps(event)[:500] for event in self.events if event["method"] in PROBLEMS]

    def requests(self) -> set[str]:
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return {event["params"]["request"]["url"] for event in asked}

    def downloaded(self, name: str) -> bytes:
        """A file that the page saved, once it is there."""
        path, end = self.downloads / name, time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < end, f"{name} was not saved: {[*self.downloads.glob('*')]}"
            time.sleep(0.05)
        return path.read_bytes()

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        try:
            self.session = ""
            self.call("Browser.close")
            self.process.wait(10)
        except (OSError, EOFError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.inward)
        shutil.rmtree(self.profile, ignore_errors=True)


def started() -> Iterator[Browser]:
    """A browser for a fixture; skips where there is none, or none that starts."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here (apt-get install chromium): the page is not looked at in a browser")
    try:
        browser = Browser(program)
    except (OSError, EOFError) as error:
        pytest.skip(f"{program} does not start here: {error!r}")
    try:
        yield browser
    finally:
        browser.close()
