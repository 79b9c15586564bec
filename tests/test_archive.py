"""The archive: what is sealed is closed, contiguous, asked, replayed and verified - and an erasure never touches it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from api.services import projections
from commands.access import RegisterActor
from commands.archive import DECIDER, FailSealing, RecordSegment, SealSegments
from domain.archive import ARCHIVIST, Archive, SealingFailed, SealingRequested, SegmentSealed, segment_id
from domain.kernel import Asker, Refused
from domain.values import ActorKind, Role
from infra.archive.fetching import fetched, sealed_segments
from infra.archive.reading import raw_events
from infra.archive.verifying import verify
from infra.rebuild import rebuild_all
from infra.settings import Settings, SettingsError
from streams.reactions import asker
from tests.given import ADMIN, ANALYST, given
from tests.support.kernel import ADM, ANA, ask, quiet
from tests.support.running import Aureus, running
from tests.test_threats import ALLOW_ALL

HASH = "ab" * 32
ITSELF = asker("acme")
AUD = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
THEM = Asker("usr-them", "rival", frozenset({Role.ADMIN, Role.AUDITOR}))


def record(first: int, last: int, checkpoint_size: int = 10**6) -> RecordSegment:
    hashes = dict.fromkeys(("manifest_sha256", "parquet_sha256", "tiles_sha256", "root"), HASH)
    return RecordSegment(first=first, last=last, parquet_bytes=1, checkpoint_size=checkpoint_size, **hashes)


def sealed(first: int, last: int) -> SegmentSealed:
    return SegmentSealed(segment_id=segment_id(first, last), **record(first, last).model_dump())


# -- decisions


def test_it_is_sealed_up_to_the_last_whole_tile() -> None:
    given(DECIDER).by(ADMIN).when(SealSegments(until=1_000)).then(SealingRequested(until=768))
    given(DECIDER, SealingRequested(until=768)).by(ADMIN).when(SealSegments(until=900)).then()
    given(DECIDER, sealed(1, 768)).by(ADMIN).when(SealSegments(until=1_024)).then(SealingRequested(until=1_024))


def test_where_nothing_is_closed_nothing_is_sealed() -> None:
    given(DECIDER).by(ADMIN).when(SealSegments(until=255)).refused("nothing_to_seal", field="until", sealed=0)
    given(DECIDER, sealed(1, 768)).by(ADMIN).when(SealSegments(until=1_023)).refused("nothing_to_seal", sealed=768)


def test_segments_follow_each_other() -> None:
    given(DECIDER).by(ITSELF).when(record(1, 512)).then(sealed(1, 512))
    given(DECIDER, sealed(1, 512)).by(ITSELF).when(record(513, 768)).then(sealed(513, 768))
    given(DECIDER, sealed(1, 512)).by(ITSELF).when(record(512, 768)).refused("segment_not_next", field="first", sealed=512)
    given(DECIDER, sealed(1, 512)).by(ITSELF).when(record(1, 512)).refused("segment_not_next")
    given(DECIDER).by(ITSELF).when(record(1, 500)).refused("segment_not_closed", field="last")
    given(DECIDER).by(ITSELF).when(record(1, 512, checkpoint_size=511)).refused("segment_not_closed")


def test_only_aureus_says_what_it_has_sealed() -> None:
    for command in (record(1, 512), FailSealing(first=1, code="disk_refused", reason="full")):
        given(DECIDER).by(ADMIN).when(command).refused("only_aureus_itself")
    given(DECIDER).by(ITSELF).when(FailSealing(first=1, code="disk_refused", reason="full")).then(
        SealingFailed(first=1, code="disk_refused", reason="full")
    )


def test_after_a_failure_nothing_is_waited_for() -> None:
    failed = SealingFailed(first=1, code="disk_refused", reason="full")
    given(DECIDER, SealingRequested(until=768), failed).by(ADMIN).when(SealSegments(until=900)).then(SealingRequested(until=768))


class Sealing(RuleBasedStateMachine):
    """Whoever asks for what, in whatever order: the segments are the ledger's beginning, without a gap and without an overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.state = Archive()
        self.segments: list[SegmentSealed] = []

    def done(self, command: Any, by: Asker) -> None:
        try:
            events = given(DECIDER).by(by)
            decided = DECIDER.decide(self.state, command, events.asked)
        except Refused:
            return
        for event in decided:
            self.state = DECIDER.evolve(self.state, event)
            if isinstance(event, SegmentSealed):
                self.segments.append(event)

    @rule(until=st.integers(1, 3_000))
    def ask(self, until: int) -> None:
        self.done(SealSegments(until=until), ADMIN)

    @rule(
        first=st.integers(0, 12), tiles=st.integers(-1, 4), off=st.sampled_from([0, 0, 0, 1]), by=st.sampled_from([ITSELF, ITSELF, ADMIN])
    )
    def say(self, first: int, tiles: int, off: int, by: Asker) -> None:
        start = first * 256 + 1
        self.done(record(start, max(1, start + tiles * 256 - 1 + off), checkpoint_size=2_000), by)

    @rule()
    def fail(self) -> None:
        self.done(FailSealing(first=1, code="x", reason="y"), ITSELF)

    @invariant()
    def it_is_the_beginning_without_a_gap(self) -> None:
        reached = 0
        for one in self.segments:
            assert one.first == reached + 1 <= one.last <= one.checkpoint_size
            assert one.last % 256 == 0
            reached = one.last
        assert self.state.sealed == reached


TestSealing = Sealing.TestCase


@pytest.mark.parametrize("given_", ["100", "65537", "131072", "many", "-256", "0"])
def test_a_size_that_no_segment_has_is_refused(given_: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({"AUREUS_HOME": str(tmp_path), "AUREUS_ARCHIVE_EVENTS": given_})
    assert (refused.value.field, "multiple of 256" in refused.value.remedy) == ("AUREUS_ARCHIVE_EVENTS", True)


def test_it_seals_by_itself_only_where_somebody_said_so(tmp_path: Path) -> None:
    home = {"AUREUS_HOME": str(tmp_path)}
    assert Settings.from_environment(home).archive_events == 0
    assert Settings.from_environment({**home, "AUREUS_ARCHIVE_EVENTS": "off"}).archive_events == 0
    assert Settings.from_environment({**home, "AUREUS_ARCHIVE_EVENTS": "1024"}).archive_events == 1_024


# -- the story


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path, ALLOW_ALL) as opened:
        await opened.know(ADM, ANA, AUD)
        them = RegisterActor(actor_id=THEM.actor, kind=THEM.kind, granted_roles=tuple(THEM.roles))
        await opened.services.wait_for((await opened.services.path.handle(ask(them, replace(ADM, tenant=THEM.tenant)))).position)
        yield opened


async def grow(aureus: Aureus, size: int) -> int:
    """Registers people, with their names, until the ledger has at least so many events; the position of the last."""
    position, number = aureus.services.ledger.head.size, 0
    while position < size:
        people = [
            RegisterActor(
                actor_id=f"usr-p{position}-{number + each}", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,), display_name=NAME
            )
            for each in range(32)
        ]
        number += len(people)
        done = await asyncio.gather(*(aureus.services.path.handle(ask(one, ADM)) for one in people))
        position = max(outcome.position for outcome in done)
    return position


NAME = "Ottilie Wunderlich"


async def status(aureus: Aureus, until: int, *, again: bool = False) -> dict[str, Any]:
    """The archive, once it goes so far or has failed, though not before it is tried `again`."""
    async with asyncio.timeout(30):
        while True:
            found: dict[str, Any] = (await aureus.get("/v1/archive", AUD)).json()
            if found["sealed"] >= until or (found["failure"] and not again):
                return found
            await asyncio.sleep(0.05)


@pytest.mark.anyio
async def test_an_admin_has_it_sealed_and_an_auditor_asks_verifies_and_replays_it(aureus: Aureus) -> None:
    services = aureus.services
    size = await grow(aureus, 600)
    assert (await aureus.get("/v1/archive", AUD)).json()["sealed"] == 0
    nothing = await aureus.post("/v1/archive/query", {"sql": "SELECT 1"}, AUD)
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "nothing_archived")
    assert (await aureus.post("/v1/archive/seal", {}, ANA)).status_code == 403
    ahead = await aureus.post("/v1/archive/seal", {"until": 10**6}, ADM)
    assert (ahead.status_code, ahead.json()["error"]["details"]["field"]) == (422, "until")

    assert (await aureus.post("/v1/archive/seal", {"until": 300}, ADM)).status_code == 200
    assert (await status(aureus, 256))["sealed"] == 256
    assert (await aureus.post("/v1/archive/seal", {}, ADM)).status_code == 200
    told = await status(aureus, size // 256 * 256)
    assert (told["segments"], told["failure"]) == (2, None)
    refused = await aureus.post("/v1/archive/seal", {"until": 300}, ADM)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "nothing_to_seal")

    listed = (await aureus.get("/v1/archive/segments", AUD)).json()["items"]
    assert [(one["first"], one["last"]) for one in listed] == [(1, 256), (257, told["sealed"])]
    assert (await aureus.get(f"/v1/archive/segments/{listed[0]['segment_id']}", AUD)).json() == listed[0]
    assert (await aureus.get("/v1/archive/segments/none", AUD)).status_code == 404

    question = {"sql": "SELECT count(*) FROM events WHERE type = 'access.actor_registered'"}
    answer = (await aureus.post("/v1/archive/query", question, AUD)).json()
    stored = await services.ledger.entries(0, told["sealed"])
    mine = sum(event.type == "access.actor_registered" and event.tenant == "acme" for event in stored)
    assert (answer["rows"], answer["first"], answer["last"]) == ([[mine]], 1, told["sealed"])
    theirs = (await aureus.post("/v1/archive/query", question, THEM)).json()
    assert theirs["rows"] == [[sum(event.type == "access.actor_registered" and event.tenant == "rival" for event in stored)]]
    assert (await aureus.post("/v1/archive/query", question, ANA)).status_code == 403
    wrong = await aureus.post("/v1/archive/query", {"sql": "COPY events TO 'x.csv'"}, AUD)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "query_not_a_select")

    checked = await verify(services.dsn, services.blobs, services.settings.archive_dir)
    assert (checked.problems, checked.segments, checked.events) == ([], 2, told["sealed"])
    assert (await replayed(aureus))["done"]["equal"] is True
    await nothing_personal_is_in_there(aureus)
    await read_models_from_segments_equal_the_live_ones(aureus)


async def nothing_personal_is_in_there(aureus: Aureus) -> None:
    """So an erasure has nothing to do there, and every segment still verifies after it."""
    services = aureus.services
    segments = await sealed_segments(services.ledger)
    async with fetched(services.blobs, segments, services.settings.archive_dir) as files:
        bodies = [body for rows in raw_events(files) for _, body, _, _ in rows]
    registered = [body for body in bodies if '"type":"access.actor_registered","v"' in body]
    assert len(registered) > 100
    assert all('"_sd":["' in body for body in registered if "usr-p" in body)
    assert not any("Ottilie" in body or "Wunderlich" in body for body in bodies)


async def read_models_from_segments_equal_the_live_ones(aureus: Aureus) -> None:
    """In every context; and a segment with a byte flipped is read by nobody."""
    services = aureus.services
    await services.wait_for((await services.ledger.refresh()).size)
    segments = await sealed_segments(services.ledger)
    async with fetched(services.blobs, segments, services.settings.archive_dir) as sealed_files:
        built = await rebuild_all(services.dsn, projections(), swap=False, accept_changes=False, progress=quiet, sealed=sealed_files)
    assert [one.projection for one in built if not one.equal] == []
    file = services.settings.blobs_dir / segments[0].parquet_sha256[:2] / segments[0].parquet_sha256
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert (await replayed(aureus))["error"]["code"] == "segment_tampered"
    asked = await aureus.post("/v1/archive/query", {"sql": "SELECT 1"}, AUD)
    assert (asked.status_code, asked.json()["error"]["code"]) == (500, "segment_tampered")


async def replayed(aureus: Aureus) -> dict[str, Any]:
    """What a rebuild from the archive comes to."""
    answer = await aureus.http.post(
        "/v1/projections/access/rebuild", params={"swap": False, "archive": True}, headers=aureus._identity(ADM)
    )
    told: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    return told


@pytest.mark.anyio
async def test_it_seals_by_the_clock_and_says_why_when_it_cannot(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path, ALLOW_ALL, archive_events=256) as aureus:
        await aureus.know(ADM, AUD)
        await grow(aureus, 300)
        assert (await status(aureus, 256))["requested_by"] is None
        blobs = aureus.services.settings.archive_dir
        blobs.rmdir()
        blobs.write_text("no folder")
        await grow(aureus, 530)
        told = await status(aureus, 512)
        assert (told["sealed"], told["failure_code"]) == (256, "disk_refused")
        blobs.unlink()
        assert (await aureus.post("/v1/archive/seal", {}, ADM)).status_code == 200
        assert (await status(aureus, 512, again=True))["failure"] is None


def test_the_archivist_is_who_the_domain_says() -> None:
    assert ITSELF.actor == ARCHIVIST
    assert ANALYST.actor != ARCHIVIST
