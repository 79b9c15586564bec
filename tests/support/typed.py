"""The command line as somebody types it, against a running Aureus on a port of its own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from api.app import create_app
from domain.kernel import Asker
from infra.tasks import ended
from tests.support.running import Aureus

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class CommandLine:
    """Runs `aureus` in a process of its own, with the environment of one person."""

    environment: dict[str, str]

    async def __call__(self, *arguments: str, exit_code: int = 0) -> str:
        """Standard output; a failing command's standard error."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api.cli", *arguments),
            env=self.environment,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == exit_code, f"{arguments} ended with {process.returncode}:\n{out.decode()}\n{err.decode()}"
        return (err if exit_code and not out else out).decode()

    async def json(self, *arguments: str, exit_code: int = 0) -> Any:
        return json.loads(await self("--json", *arguments, exit_code=exit_code))


@asynccontextmanager
async def typed(aureus: Aureus, home: Path, by: Asker) -> AsyncIterator[CommandLine]:
    """A command line whose commands come from `by`."""
    app = create_app(services=aureus.services)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
            await asyncio.sleep(0.01)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AUREUS_")} | {
            "AUREUS_HOME": str(home),
            "AUREUS_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "AUREUS_TOKEN": aureus.services.tokens.issue(by),
        }
        try:
            yield CommandLine(environment)
        finally:
            server.should_exit = True
            await serving
            await ended(serving)
