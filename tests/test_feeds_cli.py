"""`aureus events follow` and `aureus changes follow`, in a process of their own, through a restart of the server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from domain.kernel import Asker
from tests.support.following import Served, served
from tests.support.kernel import ADM, ANA

pytestmark = pytest.mark.anyio
PATIENCE_SECONDS = 30


@asynccontextmanager
async def aureus(server: Served, home: Path, *line: str, by: Asker = ADM) -> AsyncIterator[Process]:
    token = server.identity(by)["Authorization"].removeprefix("Bearer ")
    said = {"AUREUS_HOME": str(home / "client"), "AUREUS_URL": f"http://127.0.0.1:{server.port}", "AUREUS_TOKEN": token}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUREUS_")} | said
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "api.cli", *line, env=environment, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines(process: Process, count: int) -> list[Any]:
    assert process.stdout is not None
    return [json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_SECONDS)) for _ in range(count)]


@pytest.mark.slow
async def test_following_goes_on_where_it_was_when_the_server_is_back(database_url: str, tmp_path: Path) -> None:
    events = "--json", "events", "follow", "--type", "budgets.*", "--after", "0"
    changes = "--json", "changes", "follow", "--table", "budgets", "--where", "status=open", "--after", "0"
    async with AsyncExitStack() as stack:
        async with served(database_url, tmp_path) as server:
            await server.open_budgets("lake", "sea")
            of_events = await stack.enter_async_context(aureus(server, tmp_path, *events))
            of_changes = await stack.enter_async_context(aureus(server, tmp_path, *changes))
            told, changed = await lines(of_events, 2), await lines(of_changes, 2)
        async with served(database_url, tmp_path, server.port) as again:
            await again.open_budgets("pond", "bay")
            told += await lines(of_events, 2)
            changed += await lines(of_changes, 2)
            await refusals(again, tmp_path)
            await what_people_see(again, tmp_path)
    assert [event["stream"] for event in told] == [f"budget:{name}" for name in ("lake", "sea", "pond", "bay")]
    assert [change["id"] for change in changed] == ["lake", "sea", "pond", "bay"]


async def refusals(server: Served, home: Path) -> None:
    for line, by, code, exit_code in (
        (("events", "follow", "--type", "budgets.nothing"), ADM, "invalid_parameter", 2),
        (("changes", "follow", "--table", "api_keys"), ANA, "unauthenticated", 6),  # nobody knows Ana here
        (("changes", "follow", "--where", "open"), ADM, "status=pending", 2),
    ):
        async with aureus(server, home, *line, by=by) as process:
            _, said = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
            assert (process.returncode, code in said.decode()) == (exit_code, True), said.decode()


async def what_people_see(server: Served, home: Path) -> None:
    async with aureus(server, home, "events", "follow", "-n", "1", "--after", "0", "--stream", "budget:bay") as process:
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0
    position, *_, type_, stream, version, actor = said.decode().split()
    assert position.isdigit()
    assert (type_, stream, version, actor) == ("budgets.budget_opened", "budget:bay", "v1", "usr-adm")
