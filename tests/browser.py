"""A headless Chromium, driven by its DevTools protocol: pages are clicked and typed into as people do."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import Request, urlopen

import pytest

from tests.waiting import HANG_SECONDS

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1200,1300 --remote-debugging-port=0 "
    "--remote-allow-origins=*"
)


def chromium_program() -> str:
    """Return the browser's program, or skip the test."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium to click through the page with")
    return program


class Browser:
    """A page in a headless Chromium.

    Parameters
    ----------
    folder : Path
        For its profile and downloads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.errors = folder, list[str]()
        self._number = 0
        command = [chromium_program(), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        from websockets.sync.client import connect

        port = self.folder / "profile" / "DevToolsActivePort"
        self.until(lambda: port.is_file() and len(port.read_text().splitlines()) == 2)
        url = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/new"
        page = json.loads(urlopen(Request(url, method="PUT"), timeout=HANG_SECONDS).read())
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None, open_timeout=HANG_SECONDS)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(HANG_SECONDS)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; errors that the page throws or logs meanwhile are kept."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=HANG_SECONDS))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(f"{message['params']['entry']['text']} {message['params']['entry'].get('url')}")
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address, and wait until the page is loaded."""
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    def text(self, name: str) -> str:
        """Return the text of the element of an id, "" where it is hidden."""
        return str(self.value(f"(document.getElementById({name!r}) ?? {{}}).innerText ?? ''"))

    def until(self, seen: Any) -> None:
        """Wait until something is seen, a function or an expression in the page."""
        end = time.monotonic() + HANG_SECONDS
        while not (seen() if callable(seen) else self.value(seen)):
            assert time.monotonic() < end, seen
            time.sleep(0.05)

    def keys(self, text: str) -> None:
        """Type; a tab and a newline are the keys Tab and Enter."""
        for sign in text:
            key = {"\t": "Tab", "\n": "Enter"}.get(sign, sign)
            code = {"\t": 9, "\n": 13}.get(sign, 0)
            more = {"windowsVirtualKeyCode": code, "text": "\r" if sign == "\n" else sign if code == 0 else ""}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def choose(self, name: str, path: Path) -> None:
        """Choose a file in the input of an id."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=f"#{name}")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        """Write the page as a PNG file."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))
