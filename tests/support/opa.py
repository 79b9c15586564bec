"""A real OPA server of the tests' own, as scripts/opa.sh builds it, on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

BINARY: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aureus" / "bin" / "opa"
START_SECONDS_MAX: Final = 30


class Opa:
    """One server, that can be stopped and started again: it comes back empty."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self._log, self._options = folder / "opa.log", options
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{self.address}"

    def start(self) -> None:
        if not BINARY.is_file():
            pytest.fail(f"{BINARY} is missing; build it: scripts/opa.sh", pytrace=False)
        command = [str(BINARY), "run", "--server", "--addr", self.address, "--log-level", "error", "--skip-version-check", *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").is_success:
                    return
            time.sleep(0.02)
        pytest.fail(f"OPA does not start:\n{self._log.read_text()[-2_000:]}", pytrace=False)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
