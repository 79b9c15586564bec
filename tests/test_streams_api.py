"""How events travel, as people see it: over REST and in the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.services import projections
from tests.support.kernel import ADM, ANA
from tests.support.running import running

pytestmark = pytest.mark.anyio


async def test_streams_say_how_far_each_follower_is_and_who_leads_it(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(ANA, ADM)
        answer = await aureus.get("/v1/streams", ANA)
        assert answer.status_code == 200
        found = answer.json()
        size = aureus.services.ledger.head.size
        assert (found["mode"], found["size"], found["relays"], found["workers"]) == ("inprocess", size, [], [])
        rows = {row["name"]: row for row in found["projections"]}
        assert {name: row["ordering"] for name, row in rows.items()} == {one.name: one.ordering for one in projections()}
        assert {(row["position"], row["lag_events"], row["stopped"]) for row in rows.values()} == {(size, 0, None)}
        leaders = {row["led_by"] for row in rows.values()} | {found["reactions"]["led_by"]}
        assert len(leaders) == 1, "one process leads them all"
        assert None not in leaders
        assert found["reactions"]["dead_letters_waiting"] == 0


async def test_without_anybody_who_moves_them_the_read_models_are_led_by_nobody(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path / "first") as aureus:
        await aureus.know(ANA, ADM)
    async with running(database_url, tmp_path / "first", reacting=False) as aureus:
        found = (await aureus.get("/v1/streams", ANA)).json()
        assert {row["led_by"] for row in found["projections"]} == {None}
        assert found["reactions"]["led_by"] is None
