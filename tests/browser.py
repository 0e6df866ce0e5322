"""A browser driven over WebDriver (W3C), which chromedriver speaks: plain HTTP and JSON, nothing to install.

`open_browser()` gives a `Browser` of a headless Chromium, or skips the test where there is none.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]


class Browser:
    """One window."""

    def __init__(self, address: str, binary: str, size: tuple[int, int]) -> None:
        self.address = address
        options = {"binary": binary, "args": [*ARGUMENTS, f"--window-size={size[0]},{size[1]}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.address += f"/session/{session['sessionId']}"

    def _send(self, method: str, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {json.load(error)['value']['message']}") from None

    def open(self, page: Path) -> None:
        """Show a file."""
        self._send("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns; `arguments` are its arguments."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def element(self, selector: str) -> str:
        """An element by its CSS selector."""
        return self._send("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector: str) -> None:
        """Click as a reader would."""
        self._send("POST", f"/element/{self.element(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type as a reader would."""
        self._send("POST", f"/element/{self.element(selector)}/value", {"text": text})

    def drag(self, selector: str, right: int, down: int) -> None:
        """Press the mouse in the middle of an element, move, and let go."""
        origin = {ELEMENT: self.element(selector)}
        moves = [
            {"type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "duration": 100, "origin": origin, "x": right, "y": down},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._send("POST", "/actions", {"actions": [mouse]})

    def console(self) -> list[str]:
        """What the console said since one last asked."""
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        """Save what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))

    def close(self) -> None:
        """End the browser."""
        self._send("DELETE", "")


@contextmanager
def open_browser(size: tuple[int, int] = (1400, 1000)) -> Iterator[Browser]:
    """A headless Chromium with its driver on a free port; skips where one of them is missing."""
    driver = shutil.which("chromedriver")
    binary = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if driver is None or binary is None:
        pytest.skip("no chromium with chromedriver (Debian: apt-get install chromium chromium-driver)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        browser = Browser(f"http://127.0.0.1:{port}", binary, size)
        yield browser
        browser.close()
    finally:
        process.terminate()
        process.wait(timeout=20)
