"""`aureus replay`, `replays` and `queries`, as an auditor uses them against a running Aureus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.cli.main import app
from tests.support.following import served
from tests.support.replays import AUD, lived_in

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
Aureus = Callable[..., Awaitable[Result]]


async def test_an_auditor_walks_folds_asks_saves_and_drops(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path / "home") as server:
        until = await lived_in(server.aureus)
        token = server.identity(AUD)["Authorization"].removeprefix("Bearer ")
        environment = {"AUREUS_HOME": str(tmp_path / "client"), "AUREUS_URL": f"http://127.0.0.1:{server.port}", "AUREUS_TOKEN": token}

        async def aureus(*line: str, exit_code: int = 0) -> Result:
            result = await asyncio.to_thread(CliRunner().invoke, app, line, env=environment)
            assert result.exit_code == exit_code, (line, result.output, result.exception)
            return result

        await _walks(aureus)
        told = (await aureus("replay", "--into", "june", "--until", str(until), "--context", "budgets,catalog,approvals,agents")).output
        assert f"up to position {until}" in told
        assert "june_catalog" in told
        await _asks(aureus, tmp_path)
        login = json.loads((await aureus("replays", "login", "june", "--json")).stdout)
        assert login["role"].startswith("aureus_replay_june_")
        assert "login_handed_out" in (await aureus("replays", "login", "june", exit_code=4)).output
        assert "built" in (await aureus("replays", "list")).output
        assert "usr-aud" in (await aureus("replays", "show", "june")).output
        assert "Dropped" in (await aureus("replays", "drop", "june")).output


async def _walks(aureus: Aureus) -> None:
    told = (await aureus("replay", "--stream", "dataset:crm.people", "--explain")).output
    assert "- pii_level: low -> high" in told
    assert "catalog.describe_dataset; rest: allow" in told
    stated = (await aureus("replay", "--stream", "budget:lake", "--table", "budgets", "--limit", "1")).output
    assert '"limit_minor": 1000' in stated
    assert "row lake of budgets" in stated
    assert "goes on" in stated
    steps = json.loads((await aureus("replay", "--stream", "budget:lake", "--json")).stdout)["steps"]
    assert [step["version"] for step in steps] == [1, 2, 3]
    await aureus("replay", exit_code=2)
    await aureus("replay", "--stream", "budget:lake", "--into", "june", exit_code=2)
    assert "stream_not_found" in (await aureus("replay", "--stream", "budget:dry", exit_code=5)).output


async def _asks(aureus: Aureus, tmp_path: Path) -> None:
    assert "budgets-by-what-is-left" in (await aureus("queries", "list")).output
    assert "since: From then on" in (await aureus("queries", "show", "who-approved-what")).output
    assert "lake" in (await aureus("queries", "run", "budgets-by-what-is-left", "--replay", "june")).output
    question = tmp_path / "question.sql"
    question.write_text("SELECT limit_minor FROM budgets WHERE budget_id = $1")
    found = await aureus("queries", "run", "--replay", "june", "-f", str(question), "-p", "1=lake", "--json")
    assert json.loads(found.stdout)["rows"] == [[1000]]
    await aureus("queries", "save", "limit-of", "--title", "A limit", "-f", str(question), "--parameter", "id=Which budget")
    assert "500" in (await aureus("queries", "run", "limit-of", "--replay", "june", "-p", "id=alp")).output
    await aureus("queries", "retire", "limit-of")
    assert "query_not_found" in (await aureus("queries", "run", "limit-of", "--replay", "june", exit_code=5)).output
    wrong = (await aureus("queries", "run", "--replay", "june", "--sql", "SELECT x FROM budgets", exit_code=2)).output
    assert 'column "x" does not exist' in wrong
    assert "42703" in wrong
    await aureus("queries", "run", "limit-of", "--replay", "june", "--sql", "SELECT 1", exit_code=2)
    await aureus("queries", "run", "--replay", "june", exit_code=2)
    await aureus("queries", "run", "--replay", "june", "--sql", "SELECT $1", "-p", "2=x", exit_code=2)
    assert "limit-of" in (await aureus("queries", "runs", "--replay", "june")).output
