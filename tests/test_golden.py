"""What was shipped once is read for ever: event samples, event shapes, and the bytes that others verify."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from api.services import deciders, projections
from domain.budgets import BudgetId
from domain.kernel import EVENTS, Event, JsonObject, Recorded, UnknownEvent
from infra.envelope import recorded
from infra.verifier.ledger import Verifier
from projections.engine import Folding
from tests.golden import (
    EVENT_SAMPLES,
    GOLDEN,
    SCHEMAS,
    WIRES,
    Wire,
    digests,
    edited,
    event_classes,
    kept_digests,
    key_of,
    reshaped,
    stored_shapes,
    wire,
)
from tests.support.samples import ACTION

CLASSES = event_classes()
SAMPLES = sorted(EVENT_SAMPLES.glob("*.json"))


@pytest.mark.parametrize("event", CLASSES, ids=key_of)
def test_every_schema_ever_shipped_has_a_sample(event: type[Event]) -> None:
    wanted = [f"{event.event_name}.v{schema}.json" for schema in range(1, event.schema_version + 1)]
    missing = [name for name in wanted if not (EVENT_SAMPLES / name).exists()]
    assert missing == [], "build a sample in tests/support/samples.py, then: python -m tests.golden"


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_ever_stored_still_loads(path: Path) -> None:
    name, _, schema = path.stem.rpartition(".v")
    data = json.loads(path.read_text())
    event = EVENTS.load(name, int(schema), data)
    if int(schema) == event.schema_version:
        assert event.told() == data
        assert set(type(event).model_fields) - set(data) == set(event.personal), "a sample fills in every field that is not personal"


@pytest.mark.parametrize("event", CLASSES, ids=key_of)
def test_a_changed_shape_takes_a_new_schema(event: type[Event]) -> None:
    told = reshaped(event, key_of(event))
    assert told is None, told


class Closed(Event, name="made_up.closed"):
    """The shape of budgets.budget_closed."""

    budget_id: BudgetId


class ClosedWithReason(Event, name="made_up.closed_with_reason"):
    """The same, with a new optional field: whoever does not know it could not read an event that says it."""

    budget_id: BudgetId
    why: str | None = None


class ClosedLoosely(Event, name="made_up.closed_loosely"):
    """The same, with a wider type."""

    budget_id: str


def test_a_changed_shape_is_refused_with_what_to_do_and_a_new_optional_field_is_one() -> None:
    key = "budgets.budget_closed.v1"
    assert reshaped(Closed, key) is None
    for changed in (ClosedWithReason, ClosedLoosely):
        told = reshaped(changed, key)
        assert told is not None
        assert f"{changed.__name__} has changed, and ledgers hold events of its shape {key}" in told
        assert "schema=2 and an upcast from schema 1, then: python -m tests.golden" in told
    assert reshaped(Closed, "made_up.closed.v1") == "made_up.closed.v1 is new: python -m tests.golden"


# -- nobody mends yesterday by hand


def test_no_sample_and_no_shape_was_edited() -> None:
    assert edited() == []


def test_a_sample_edited_by_hand_is_refused_by_name_with_what_to_do_instead(tmp_path: Path) -> None:
    copy = shutil.copytree(GOLDEN, tmp_path / "golden")
    assert edited(copy) == []
    sample = copy / "events" / "approvals.approval_requested.v1.json"
    sample.write_text(sample.read_text().replace('"quorum": 2', '"quorum": 1'))
    shapes = json.loads((copy / SCHEMAS.name).read_text())
    shapes["budgets.budget_closed.v1"]["properties"]["why"] = {"type": "string"}
    (copy / SCHEMAS.name).write_text(json.dumps(shapes))
    (copy / "events" / "keys.key_added.v1.json").unlink()
    (copy / "wire" / "checkpoint.txt").write_text("another\n")
    (copy / "events" / "made.up.v1.json").write_text("{}")
    remedy = "Put it back (git checkout), and give the event a new schema with an upcast: docs/contributing.md."
    assert sorted(edited(copy)) == [
        f"events/approvals.approval_requested.v1.json was edited by hand. {remedy}",
        f"events/keys.key_added.v1.json is gone. {remedy}",
        "events/made.up.v1.json is new: python -m tests.golden",
        f"schemas.json#budgets.budget_closed.v1 was edited by hand. {remedy}",
        f"wire/checkpoint.txt was edited by hand. {remedy}",
    ]


def test_digests_cover_every_file_and_every_shape() -> None:
    assert set(kept_digests(GOLDEN)) == set(digests(GOLDEN))
    assert {f"events/{path.name}" for path in SAMPLES} <= set(kept_digests(GOLDEN))
    assert {f"{SCHEMAS.name}#{key}" for key in stored_shapes()} <= set(kept_digests(GOLDEN))


def git(*arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, cwd=GOLDEN, check=True, capture_output=True, text=True).stdout


def test_what_was_shipped_stayed_as_it_was_through_all_of_history() -> None:
    """Whoever edits a sample and its digest is found here: what is in the history was in somebody's ledger."""
    folders = ("events", *(folder.name for folder in WIRES))
    touched = git("log", "--diff-filter=MDRT", "--name-only", "--format=", "--", *folders).split()
    touched += git("diff", "HEAD", "--diff-filter=MDRT", "--name-only", "--", *folders).split()
    assert sorted(set(touched)) == [], "put it back, and give the event a new schema with an upcast: docs/contributing.md"
    shipped = stored_shapes()
    for commit in git("log", "--format=%H", "--", SCHEMAS.name).split():
        before: JsonObject = json.loads(git("show", f"{commit}:./{SCHEMAS.name}"))
        assert [key for key in before if shipped.get(key) != before[key]] == [], f"changed since {commit[:12]}"
        kept = git("ls-tree", "--name-only", commit, "events/").split()
        assert {f"events/{key}.json" for key in before} <= set(kept) | {f"events/{path.name}" for path in SAMPLES}


# -- last year's events under this year's code

CURRENT = {key_of(event) for event in CLASSES}
OLD = [path for path in SAMPLES if path.stem not in CURRENT]
ABSENT: dict[str, JsonObject] = {
    "access.api_key_issued.v1": {"scopes": None},
    "actions.action_allowed.v1": {"guard": (), "question": None, "signature": None, "snapshot": None},
    "actions.action_allowed.v2": {"signature": None},
    "actions.action_blocked.v1": {"guard": (), "question": None, "signature": None},
    "actions.action_blocked.v2": {"signature": None},
    "actions.action_parked.v1": {"guard": (), "question": None, "signature": None, "required_evidence": ()},
    "actions.action_parked.v2": {"signature": None},
    "approvals.approval_rejected.v1": {"on_behalf_of": None},
    "approvals.approval_requested.v1": {"seen_version": None, "escalates_at": None, "carry_out": None},
    "approvals.approval_requested.v2": {"carry_out": None},
    "approvals.approver_agreed.v1": {"on_behalf_of": None},
    "budgets.settings_changed.v1": {"settings.pause_agents_at_percent": None},
    "budgets.settings_rolled_back.v1": {"snapshot.pause_agents_at_percent": None},
    "keys.key_added.v1": {"holder": None, "authorised_by": None, "authorisation": None},
}
"""What each older shape could not say, and what it means that it is not there."""


def test_every_older_shape_says_what_it_could_not_say() -> None:
    assert sorted(ABSENT) == [path.stem for path in OLD]


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_an_older_event_means_what_it_meant(path: Path) -> None:
    name, _, schema = path.stem.rpartition(".v")
    data = json.loads(path.read_text())
    event = EVENTS.load(name, int(schema), data)
    for place, meaning in ABSENT[path.stem].items():
        value: Any = event
        for part in place.split("."):
            value = getattr(value, part)
        assert value == meaning, place
    known = {name: value for name, value in event.told().items() if name not in ABSENT[path.stem]}
    assert known == data, "nothing is made up, and nothing is lost"
    assert EVENTS.load(name, event.schema_version, event.told()) == event, "said today it would be the same event"


BEFORE = {
    "access.api_key_issued": "access.actor_registered",
    "actions.action_parked": "approvals.approval_requested",
    "approvals.approval_rejected": "approvals.approval_requested",
    "approvals.approver_agreed": "approvals.approval_requested",
    "budgets.settings_changed": "budgets.budget_opened",
    "budgets.settings_rolled_back": "budgets.budget_opened",
}
"""What had happened before, where an event says nothing by itself."""


def stored(name: str, schema: int, data: JsonObject, position: int) -> Recorded[Event]:
    """As the ledger would hold it: the bytes of a signed body."""
    decider = next((one for one in deciders() if EVENTS.find(name) in one.events), None)
    entity = next((value for field, value in sorted(data.items()) if field.endswith("_id")), "e1")
    body: JsonObject = {
        "_sd": [],
        "actor": "usr-ana",
        "at": "2026-03-03T14:00:00.000000Z",
        "causation": None,
        "correlation": ACTION,
        "data": data,
    }
    body |= {"id": ACTION, "key": "0" * 64, "ledger": "aureus.example/golden", "prev": "", "schema": schema, "tenant": "acme"}
    body |= {"stream": f"{decider.category if decider else 'action'}:{entity}", "type": name, "v": 1, "version": position}
    return recorded(position, orjson.dumps(body), bytes(32))


def history_of(path: Path, *, today: bool) -> list[Recorded[Event]]:
    """An old sample, behind what came before it; or the same said under today's schema."""
    name, _, schema = path.stem.rpartition(".v")
    data = json.loads(path.read_text())
    event = EVENTS.load(name, int(schema), data)
    schema_said, told = (event.schema_version, event.told()) if today else (int(schema), data)
    earlier = EVENTS.find(BEFORE.get(name, ""))
    if earlier is None:
        return [stored(name, schema_said, told, 1)]
    sample = json.loads((EVENT_SAMPLES / f"{key_of(earlier)}.json").read_text())
    return [stored(earlier.event_name, earlier.schema_version, sample, 1), stored(name, schema_said, told, 2)]


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_an_older_history_leads_to_the_same_state_and_the_same_rows(path: Path) -> None:
    then, now = history_of(path, today=False), history_of(path, today=True)
    for decider in deciders():
        if type(then[-1].event) in decider.events:
            events = [one.event for one in then if type(one.event) in decider.events]
            assert decider.replay(events) == decider.replay([one.event for one in now if type(one.event) in decider.events])
            assert decider.replay(events) != decider.initial
    folded = 0
    for projection in projections():
        rows = []
        for history in (then, now):
            folding = Folding(projection, {})
            folding.fold([one for one in history if type(one.event) in projection.folds])
            rows.append(folding.rows)
        assert repr(rows[0]) == repr(rows[1])
        folded += len(rows[0])
    assert folded > 0


# -- what this version does not know stops it


def test_a_newer_schema_than_this_version_knows_stops_it() -> None:
    for event in CLASSES:
        data = json.loads((EVENT_SAMPLES / f"{key_of(event)}.json").read_text())
        for schema in (event.schema_version + 1, 0, -1):
            with pytest.raises(UnknownEvent, match=rf"{event.event_name} was written under schema {schema}, and this version"):
                EVENTS.load(event.event_name, schema, data)


def test_an_event_that_no_class_stands_for_stops_it() -> None:
    with pytest.raises(UnknownEvent, match=r"no event is named 'budgets\.abolished' in this version of Aureus"):
        EVENTS.load("budgets.abolished", 1, {})


def test_a_field_that_no_schema_has_is_never_passed_over() -> None:
    with pytest.raises(ValidationError, match="why"):
        EVENTS.load("budgets.budget_closed", 1, {"budget_id": "eu-lake", "why": "It was spent."})


def test_no_shape_is_forgotten() -> None:
    """An event that is no longer written must still be read: its class stays."""
    kept = {f"{event.event_name}.v{schema}" for event in CLASSES for schema in range(1, event.schema_version + 1)}
    assert sorted(set(stored_shapes()) - kept) == []


@pytest.mark.anyio
async def test_the_bytes_others_verify_do_not_change() -> None:
    made, kept = await wire(), Wire.read(WIRES[-1])
    assert made == kept, (
        "The ledger's bytes have changed, so what verified yesterday may not verify tomorrow: docs/adr/0003. If that is "
        "meant, it is a new version of the format; keep these files and add new ones."
    )


@pytest.mark.parametrize("folder", WIRES, ids=lambda folder: folder.name)
def test_bytes_written_long_ago_verify(folder: Path) -> None:
    kept = Wire.read(folder)
    verifier = Verifier()
    verifier.add(kept.entries)
    verification = verifier.finish(kept.checkpoint)
    assert (verification.problems, verification.events) == ([], 5)
