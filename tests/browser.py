"""A headless Chromium to walk through the console with, driven over the DevTools protocol through two pipes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

ANSWER_SECONDS_MAX: Final = 30
_MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--lang=en-GB",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Page:
    """One page of the browser."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.WriteTransport) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.requested: list[str] = []
        """The address of every request the page made."""
        self.complaints: list[str] = []
        """What the console of the browser was told: exceptions, refusals of the security policy, errors."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends one command of the protocol and answers its result, noting the events that come before it."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        while True:
            told = json.loads((await asyncio.wait_for(self._reader.readuntil(b"\0"), ANSWER_SECONDS_MAX))[:-1])
            self._note(told)
            if told.get("id") == number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result

    def _note(self, told: dict[str, Any]) -> None:
        match told.get("method"), told.get("params", {}):
            case "Network.requestWillBeSent", {"request": {"url": str(url)}}:
                self.requested.append(url)
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.complaints.append(json.dumps(details))
            case "Log.entryAdded", {"entry": {"level": "error", "source": source} as entry} if source != "network":
                self.complaints.append(json.dumps(entry))
            case _:
                pass

    async def attach(self) -> None:
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        self._session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def size(self, width: int, height: int) -> None:
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    async def scheme(self, name: str) -> None:
        """Prefers `light` or `dark`."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits until an expression is true."""
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while not await self.run(f"Boolean({condition})"):
            text = await self.run("document.body?.innerText") if time.monotonic() > deadline else ""
            assert time.monotonic() < deadline, f"{condition} did not come true; the page says:\n{text}\n{self.complaints}"
            await asyncio.sleep(0.05)

    async def text(self) -> str:
        return str(await self.run("document.body.innerText"))

    async def picture(self) -> bytes:
        """The whole page as PNG."""
        taken = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])


@contextlib.asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Page]:
    """A page of a browser of its own, with nothing remembered from another run."""
    program = shutil.which("chromium")
    assert program, "Chromium is not there. Install Debian's package `chromium`."
    to_browser, from_browser = os.pipe(), os.pipe()
    # The browser reads what is said to it from descriptor 3 and answers on 4; the shell puts our pipes there.
    wiring = f'exec 3<&{to_browser[0]} 4>&{from_browser[1]}; exec "$@"'
    command = ["bash", "-c", wiring, "bash", program, *_FLAGS, f"--user-data-dir={profile / 'profile'}"]
    process = await asyncio.create_subprocess_exec(
        *command,
        pass_fds=(to_browser[0], from_browser[1]),
        env={**os.environ, "HOME": str(profile)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_MESSAGE_BYTES_MAX)
    incoming, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(from_browser[0], "rb", 0))
    outgoing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(to_browser[1], "wb", 0))
    page = Page(reader, outgoing)
    try:
        await page.attach()
        yield page
    finally:
        outgoing.close()
        incoming.close()
        process.terminate()
        await asyncio.wait_for(process.wait(), ANSWER_SECONDS_MAX)
