"""A headless Chromium, driven over its DevTools protocol by two pipes: what a page logs, asks for and shows.

No package is needed beyond the browser, Debian's `chromium`; tests that need it skip where there is none. The README's
picture of the report is made by `python tests/browser.py paper/report.html docs/report.png`.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
)


class Tab:
    """One page. `events` holds all that the browser told of it."""

    def __init__(self, write: BinaryIO, read: BinaryIO) -> None:
        self._write, self._read, self._ids = write, read, itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer; RuntimeError where the browser refuses or ends."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (told := self._next()).get("id") != number:
            self.events.append(told)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        found: dict[str, Any] = told["result"]
        return found

    def _next(self) -> dict[str, Any]:
        parts = bytearray()
        while (byte := self._read.read(1)) not in (b"\0", b""):
            parts += byte
        if not parts:
            raise RuntimeError("the browser ended")
        told: dict[str, Any] = json.loads(parts)
        return told

    def open(self, url: str) -> None:
        """Opens a page and waits until it has loaded."""
        self("Page.navigate", url=url)
        while not any(told.get("method") == "Page.loadEventFired" for told in self.events):
            self.events.append(self._next())

    def run(self, code: str) -> Any:
        """The value of an expression; RuntimeError where it throws."""
        answer = self("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def told(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every event of that name."""
        return [one["params"] for one in self.events if one.get("method") == method]

    def screenshot(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """The first `height` pixels of the page at a width, light or dark, as PNG."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A browser with a profile of its own, ended afterwards."""
    assert PROGRAM is not None
    to_browser, write = os.pipe()
    read, from_browser = os.pipe()
    script = 'exec "$@" 3<&"$READ" 4>&"$WRITE"'
    env = os.environ | {"READ": str(to_browser), "WRITE": str(from_browser), "HOME": str(profile)}
    call = ["bash", "-c", script, "-", PROGRAM, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(call, env=env, pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL)
    os.close(to_browser)
    os.close(from_browser)
    try:
        with os.fdopen(write, "wb") as sink, os.fdopen(read, "rb") as source:
            yield Tab(sink, source)
    finally:
        process.terminate()
        process.wait(timeout=60)


LOOK_UP = """(() => {
  const section = document.querySelector(".model:not([hidden]) section[id^='pairs-']");
  const search = section.querySelector("input[type=search]");
  search.value = "kitabu";
  search.dispatchEvent(new Event("input"));
  document.documentElement.style.scrollBehavior = "auto";
  section.scrollIntoView();
})()"""


def picture(page: Path, out: Path, width: int = 1040, height: int = 1000) -> None:
    """The report's word pairs, one of them looked up, as PNG."""
    with tempfile.TemporaryDirectory() as folder, tab(Path(folder) / "profile") as opened:
        opened("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        opened.open(page.resolve().as_uri())
        opened.run(LOOK_UP)
        opened.screenshot(out, width, height)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
