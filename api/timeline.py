"""The audit timeline of anything over REST: who did what about it, when, why, with which outcome, and what that changed."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Path, Query
from pydantic import BaseModel

from api.errors import ApiError
from api.feeds import named_types
from api.reading import MOMENT, Reader, position_of
from api.routing import ContextRouter, Reading
from api.services import deciders
from domain.actions import ActionAllowed, ActionBlocked, ActionParked
from domain.differences import in_words
from domain.kernel import JsonObject
from domain.values import PEOPLE
from infra.read_queries import MAX_LIMIT
from infra.timeline import ACTING, Happened, Subject, Timelines, Turn, Wanted
from projections.evidence import actions

KINDS: Final = frozenset({decider.category for decider in deciders()} | ACTING | {"action", "policy", "budget"})
_ENDINGS: Final = {
    ActionAllowed.event_name: "allowed",
    ActionBlocked.event_name: "blocked",
    ActionParked.event_name: "requires_approval",
}


class Changed(BaseModel):
    """One value that an event changed, in the row of a list; null where it was not, or is not any more."""

    kind: str
    id: str
    field: str
    before: Any
    after: Any


class Entry(BaseModel):
    """One thing that happened: the event, the action it belongs to, and what it changed - in words, and value by value.

    What was refused or parked is told by the action's own event; `stream` is then what it was asked of.
    `evidence` is where the action's evidence pack is.
    """

    position: int
    at: str
    type: str
    stream: str
    actor: str
    outcome: str | None
    action: str | None
    action_id: str | None
    reason: str | None
    code: str | None
    message: str | None
    policy_version: str | None
    approval_id: str | None
    evidence: str | None
    artifacts: list[str]
    change: str | None
    changes: list[Changed]


class TimelinePage(BaseModel):
    """What happened about it, in order. A page may hold fewer entries than its limit, or none, and still not be the last."""

    kind: str
    id: str
    position: int
    items: list[Entry]
    next_cursor: str | None


router = ContextRouter(tags=["audit"])


@router.query("/v1/timeline/{kind}/{entity_id}", roles=PEOPLE, recorded=True)
async def timeline(
    reader: Reading,
    kind: Annotated[str, Path(description="What it is: dataset, agent, actor, policy, approval, budget, pipeline and so on.")],
    entity_id: Annotated[str, Path(description="Its id.")],
    types: Annotated[
        list[str] | None, Query(alias="type", description="Only these events: `catalog.tags_changed`, or `catalog.*` for all of a context.")
    ] = None,
    actor: Annotated[str | None, Query(description="Only what this actor did.")] = None,
    start: Annotated[str | None, Query(alias="from", description=f"Only what happened after this moment: {MOMENT}.")] = None,
    end: Annotated[str | None, Query(alias="to", description="Only what happened up to this moment.")] = None,
    latest_first: Annotated[bool, Query(description="From the latest back.")] = False,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Entries per page.")] = 50,
    cursor: Annotated[int | None, Query(ge=0, lt=2**62, description="The next_cursor of the page before.")] = None,
) -> TimelinePage:
    """Everything that happened about one thing, in order: what was done, refused or parked, by whom, why, and what it changed.

    What an event is about is what its topics say, the same by which evidence packs are proved whole (docs/packs.md).
    """
    subject = _subject(reader, kind, entity_id)
    size = reader.as_of if reader.as_of is not None else (await reader.services.ledger.refresh()).size
    after = await position_of(reader.services, "from", start) if start is not None else 0
    to = min(size, await position_of(reader.services, "to", end)) if end is not None else size
    if start is not None and end is not None and after > to:
        message, remedy = f"from ({start}) lies after to ({end}).", f"Swap them: from={end}&to={start}."
        raise ApiError(422, "invalid_parameter", message, field="from", rule="from comes before to", remedy=remedy)
    await reader.services.wait_for(to)
    if cursor is not None:
        after, to = (after, min(to, cursor)) if latest_first else (max(after, cursor), to)
    timelines = Timelines(reader.services.reads, reader.services.projections)
    wanted = Wanted(after, to, limit, named_types(types) if types else None, actor, latest_first)
    found, following = await timelines.page(subject, wanted)
    # Who has seen the whole ledger needs no second look at it.
    whole = following is None and (types, actor, start, end) == (None, None, None, None)
    if not found and cursor is None and not await timelines.known(subject, size, named=not whole):
        at_that_time = " at that time" if reader.as_of is not None else ""
        message, remedy = f"Nothing is known of a {kind} {entity_id!r}{at_that_time}.", "List them to see what is there."
        raise ApiError(404, f"{kind}_not_found", message, field="entity_id", remedy=remedy)
    items = await _entries(reader, timelines, subject, found)
    return TimelinePage(kind=kind, id=entity_id, position=size, items=items, next_cursor=None if following is None else str(following))


def _subject(reader: Reader, kind: str, entity_id: str) -> Subject:
    if kind not in KINDS or "\0" in entity_id:
        message = f"There are no timelines of a {kind!r}." if kind not in KINDS else "An id holds no NUL character."
        remedy = f"Use one of {', '.join(sorted(KINDS))}."
        raise ApiError(404, "timeline_not_found", message, field="kind", rule="a kind of thing", remedy=remedy)
    return Subject(reader.asker.tenant, kind, entity_id)


async def _entries(reader: Reader, timelines: Timelines, subject: Subject, found: list[Happened]) -> list[Entry]:
    turns = await timelines.turns(subject, found)
    rows = await reader.services.reads.many(actions, subject.tenant, list({_action_of(one) for one in found} - {""}))
    return [_entry(one, rows.get(_action_of(one)), turns.get(one.position, [])) for one in found]


def _action_of(one: Happened) -> str:
    return one.body["causation"] or ""


def _entry(one: Happened, action: JsonObject | None, turns: list[Turn]) -> Entry:
    body, known = one.body, action or {}
    return Entry(
        position=one.position,
        at=body["at"],
        type=body["type"],
        stream=str(known.get("stream", body["stream"])) if body["type"] in _ENDINGS else body["stream"],
        actor=body["actor"],
        outcome=_ENDINGS.get(body["type"], known.get("outcome")),
        action=known.get("action"),
        action_id=body["causation"],
        reason=known.get("reason"),
        code=known.get("code"),
        message=known.get("message"),
        policy_version=known.get("policy_version"),
        approval_id=known.get("approval_id"),
        evidence=known.get("evidenceRef"),
        artifacts=known.get("artifacts", []),
        change="; ".join(told for turn in turns if (told := _said(turn))) or None,
        changes=[Changed(kind=turn.kind, id=turn.id, **change._asdict()) for turn in turns for change in turn.changes],
    )


def _said(turn: Turn) -> str:
    name = f"{turn.kind.replace('_', ' ')} {turn.id}"
    if turn.new or turn.ended:
        return f"{name} {'added' if turn.new else 'removed'}"
    return f"{name}: {in_words(turn.changes)}" if turn.changes else ""
