"""How replays are built and dropped: through kills, names that are taken, users that may not, and keys that change."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.kernel import ADM
from tests.support.replays import AUD, requested, settled
from tests.support.running import running

pytestmark = pytest.mark.anyio
ROOT: Final = Path(__file__).parent.parent
PATIENCE_SECONDS: Final = 60.0
BUILD: Final = """
import asyncio, json, sys
from pathlib import Path
from api.services import projections
from infra.key_encryption import KeyEncryptionKeys
from infra.scratch import Scratch, Wanted

given = json.loads(sys.argv[1])
scratch = Scratch(given["dsn"], given["ledger"], "acme", KeyEncryptionKeys(Path(given["keys"])), embedded=False)
budgets = tuple(projection for projection in projections() if projection.name == "budgets")
asyncio.run(scratch.build(Wanted("acme", "june", given["requested"], given["until"], budgets)))
"""


def left_of(dsn: str, replay_id: str) -> list[str]:
    """Its schemas, roles and places."""
    with psycopg.connect(dsn) as owner:
        schemas = owner.execute("SELECT nspname::text FROM pg_namespace WHERE nspname ~ %s", (f"^(replay_)?{replay_id}_",)).fetchall()
        # Roles are the whole server's: those of other tests have other numbers.
        places = owner.execute("SELECT role FROM replays_private.places WHERE replay_id = %s", (replay_id,)).fetchall()
    return [name for (name,) in (*schemas, *places)]


async def until_gone(dsn: str, replay_id: str) -> None:
    while True:
        if not left_of(dsn, replay_id):
            return
        await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_killed_build_is_begun_again_by_whoever_leads_next(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, reacting=True) as aureus:
        await aureus.know(ADM, AUD)
        answer = await aureus.post("/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 1_000}, ADM)
        until = answer.json()["position"]
    async with running(database_url, tmp_path, reacting=False) as aureus:
        answer = await aureus.post("/v1/replays", {"replay_id": "june", "until": until, "contexts": ["budgets"]}, AUD)
        assert answer.status_code == 201, answer.text
        asked = answer.json()["position"]
        given = {"dsn": database_url, "ledger": aureus.services.ledger.name, "keys": str(tmp_path / "keys")}
        await killed_half_way(database_url, {**given, "requested": asked - 1, "until": until})
    assert "replay_june_budgets" in left_of(database_url, "june")
    async with running(database_url, tmp_path, reacting=True) as aureus:
        row = await settled(aureus, "june", asked)
        assert (row["status"], row["differing"]) == ("built", [])
        found = await aureus.post("/v1/replays/june/query", {"sql": "SELECT budget_id FROM budgets"}, AUD)
        assert found.json()["rows"] == [["lake"]]
        await dropped(aureus, database_url, row["role"])


async def killed_half_way(dsn: str, given: dict[str, Any]) -> None:
    """Whoever builds says how far it is; where that is kept from it, it is found with its tables made and its role not, and killed."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", BUILD, json.dumps(given), cwd=ROOT)
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as watcher:
        for query in (
            "SELECT FROM replays_private.places FOR UPDATE",
            "SELECT FROM pg_tables WHERE schemaname = 'replay_june_budgets' AND tablename = 'budgets'",
        ):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (holder if "UPDATE" in query else watcher).execute(query.encode()).fetchone() is None:
                    assert child.returncode is None, "it came to its end"
                    await asyncio.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        await child.wait()


async def dropped(aureus: Any, dsn: str, role: str) -> None:
    """Nothing of it stays, while somebody is logged in too."""
    login = await aureus.services.scratch.login("acme", "june")
    with psycopg.connect(make_conninfo(dsn, user=login.role, password=login.password)) as auditor:
        auditor.execute("SELECT * FROM budgets")
        assert (await aureus.post("/v1/replays/june/drop", {"comment": "Done"}, AUD)).status_code == 200
        async with asyncio.timeout(PATIENCE_SECONDS):
            await until_gone(dsn, "june")
        with pytest.raises(psycopg.OperationalError):
            auditor.execute("SELECT 1")
    with psycopg.connect(dsn) as owner:
        assert owner.execute("SELECT rolname FROM pg_roles WHERE rolname = %s", (role,)).fetchall() == []
    answer = await aureus.post("/v1/replays/june/query", {"sql": "SELECT 1"}, AUD)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "replay_not_built")


async def test_a_schema_that_is_somebody_elses_is_left_alone(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(ADM, AUD)
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute("CREATE SCHEMA mine_budgets CREATE TABLE kept (a int)")
        row = await requested(aureus, "mine", contexts=["budgets"])
        assert (row["status"], row["failure_code"]) == ("failed", "schema_taken")
        assert "mine_budgets" in row["failure"]
        assert left_of(database_url, "mine") == ["mine_budgets"]
        again = await requested(aureus, "mine", contexts=["access"])
        assert again["status"] == "built", "after a failure the id may be asked for again"
        keks = aureus.services.vault.vault.keks
        keks.current = keks.prepare([keks.current])
        # As a rotation does, or whoever wraps again in the background would go back to the key of before.
        await aureus.services.vault.vault.keys.wrap_with(aureus.services.vault.pool, keks.current)
        await aureus.services.scratch.reseal()
        with psycopg.connect(database_url) as owner:
            assert owner.execute("SELECT kek FROM replays_private.places").fetchall() == [(keks.current,)]
        found = await aureus.post("/v1/replays/mine/query", {"sql": "SELECT count(*) FROM actors"}, AUD)
        assert found.json()["rows"] == [[2]], "its password opens under the key of today"
        nothing = await aureus.post("/v1/replays", {"replay_id": "none", "until": 0}, AUD)
        assert (nothing.status_code, nothing.json()["error"]["details"]["field"]) == (422, "until")


@pytest.fixture
def ordinary_url(postgres_url: str) -> Iterator[str]:
    """A database whose owner is no superuser, as the operators' guide sets one up; gone when the test is over."""
    user, password = f"plain_{uuid4().hex[:8]}", uuid4().hex
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'".encode())
        for role in ("aureus_app", "aureus_reader"):
            if server.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
                server.execute(f"CREATE ROLE {role} NOLOGIN".encode())
            server.execute(f"GRANT {role} TO {user} WITH ADMIN OPTION".encode())
        server.execute(f"CREATE DATABASE {user} OWNER {user} TEMPLATE template0".encode())
    # Written as a URL again: settings take nothing else.
    parts = conninfo_to_dict(postgres_url)
    host = quote(str(parts.get("host") or ""), safe="")
    rest = "&".join(f"{name}={parts[name]}" for name in ("sslmode",) if name in parts)
    yield f"postgresql://{user}:{password}@/{user}?host={host}&port={parts.get('port') or 5432}&{rest}".rstrip("&")
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"DROP DATABASE {user} WITH (FORCE)".encode())
        server.execute(f"DROP ROLE {user}".encode())


async def test_an_ordinary_user_is_told_what_is_missing_and_then_can_do_all_of_it(
    postgres_url: str, ordinary_url: str, tmp_path: Path
) -> None:
    user = conninfo_to_dict(ordinary_url)["user"]
    async with running(ordinary_url, tmp_path) as aureus:
        await aureus.know(ADM, AUD)
        refused = await aureus.post("/v1/replays", {"replay_id": "june"}, AUD)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "role_not_possible")
        assert refused.json()["error"]["details"]["remedy"] == f"Let a superuser run: ALTER ROLE {user} CREATEROLE;"
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute(f"ALTER ROLE {user} CREATEROLE".encode())
        row = await requested(aureus, "june", contexts=["access", "budgets"])
        assert row["status"] == "built", row
        found = await aureus.post("/v1/replays/june/query", {"sql": "SELECT actor_id FROM actors ORDER BY 1"}, AUD)
        assert found.json()["rows"] == [["usr-adm"], ["usr-aud"]]
        refused = await aureus.post("/v1/replays/june/query", {"sql": "SELECT * FROM ledger.events"}, AUD)
        assert refused.json()["error"]["details"]["sqlstate"] == "42501"
        await dropped(aureus, ordinary_url, row["role"])
