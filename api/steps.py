"""A stream walked step by step: each event with who, when and why, the state that decisions were made on after it, and what it changed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel

from api.errors import ApiError
from api.reading import Reader, position_of
from api.services import Services, deciders
from domain.kernel import Decider, JsonObject, Recorded
from infra.explaining import Step, steps
from projections.engine import Folding, Projection, ProjectionError, ReadTable
from projections.evidence import actions

CHUNK_EVENTS: Final = 500
_STREAM: Final = re.compile(r"[a-z][a-z_]*:[A-Za-z0-9._@/+=~-]{1,280}")


class Why(BaseModel):
    """The action an event came of: what was asked and why, how that ended, and what the policies said."""

    action_id: str
    action: str
    outcome: str
    reason: str | None
    approval_id: str | None
    policy_version: str
    policy_results: list[dict[str, Any]]


class Changed(BaseModel):
    """One field of the state that an event changed, by its path; `kind` is changed, added or removed."""

    field: str
    kind: str
    before: Any
    after: Any


class StepTold(BaseModel):
    """One event and what it made of the state, which is null where no decisions are made on the stream. No personal value is in either."""

    position: int
    version: int
    at: str
    type: str
    event_id: str
    actor: str
    data: dict[str, Any]
    why: Why | None
    state: Any
    changes: list[Changed] | None
    explanation: list[str] | None


class Walk(BaseModel):
    """The steps of a page, and where the next one begins. `rows` are those the stream's events made in a table, up to the last step."""

    stream: str
    until: int
    steps: list[StepTold]
    rows: dict[str, Any] | None
    next_cursor: str | None


async def walked(
    reader: Reader,
    stream: str,
    *,
    until: str | None,
    after: str | None,
    explain: bool,
    table: str | None,
    limit: int,
    cursor: str | None,
) -> Walk:
    """The steps of a stream. ApiError 404 when nothing had happened in it by then, 422 for what cannot be understood."""
    services = reader.services
    if not _STREAM.fullmatch(stream):
        remedy = "Write a category, a colon and an id: dataset:customers, budget:eu-lake, policyset:active."
        raise ApiError(422, "invalid_parameter", f"{stream[:100]!r} is not a stream.", field="stream", rule="category:id", remedy=remedy)
    end = services.ledger.head.size if until is None else await position_of(services, "until", until)
    begin = 0 if after is None else await position_of(services, "after", after)
    if begin > end:
        message = "`after` lies behind `until`: nothing is between them."
        raise ApiError(422, "invalid_parameter", message, field="after", rule="not later than until", remedy="Exchange the two.")
    walk = _Walking(reader, stream, _folding(services, table), end, begin, limit, _version(cursor))
    told = await walk.steps(explain=explain)
    why = await _reasons(reader, [step.recorded for step in told])
    return Walk(
        stream=stream,
        until=end,
        steps=[_told(step, why, explain=explain, decided=walk.decider is not None) for step in told],
        rows=walk.rows,
        next_cursor=walk.next_cursor,
    )


class _Walking:
    """One page of a walk: folds what is before it, and keeps what is on it."""

    def __init__(self, reader: Reader, stream: str, folding: Folding | None, end: int, begin: int, limit: int, cursor: int) -> None:
        self._ledger, self._stream, self._folding = reader.services.ledger, stream, folding
        self._end, self._begin, self._limit, self._cursor = end, begin, limit, cursor
        category = stream.partition(":")[0]
        self.decider: Decider[Any, Any, Any] | None = next((one for one in deciders() if one.category == category), None)
        self._tenant = (self.decider.tenant if self.decider else None) or reader.asker.tenant
        self.next_cursor: str | None = None

    @property
    def rows(self) -> JsonObject | None:
        """By their ids, as they stand after the last step."""
        return None if self._folding is None else {row_id: row for (_, _, row_id), (_, row) in self._folding.rows.items()}

    async def steps(self, *, explain: bool) -> list[Step]:
        state = self.decider.initial if self.decider else None
        page: list[Recorded[Any]] = []
        version, more, known = 0, True, False
        while more:
            chunk = await self._ledger.read_stream_page(self._tenant, self._stream, version, CHUNK_EVENTS)
            more = len(chunk) == CHUNK_EVENTS
            before = [one for one in chunk if one.position <= self._end and not self._on_page(one)]
            wanted = [one for one in chunk if one.position <= self._end and self._on_page(one)][: self._limit + 1 - len(page)]
            known = known or bool(before or wanted)
            state = await asyncio.to_thread(self._fold, state, before)
            page += wanted
            if len(page) > self._limit:
                self.next_cursor = str(page[self._limit - 1].version)
            if not chunk or len(page) > self._limit or chunk[-1].position > self._end:
                break
            version = chunk[-1].version
        if not known:
            message = f"Nothing had happened in {self._stream} by position {self._end}."
            remedy = "Ask for a later time, or look for its id in the lists."
            raise ApiError(404, "stream_not_found", message, field="stream", remedy=remedy)
        return await asyncio.to_thread(self._explained, state, page[: self._limit], explain)

    def _on_page(self, recorded: Recorded[Any]) -> bool:
        return recorded.version > self._cursor and recorded.position > self._begin

    def _fold(self, state: Any, history: Sequence[Recorded[Any]]) -> Any:
        self._fold_rows(history)
        return self.decider.replay((one.event for one in history), state) if self.decider else None

    def _explained(self, state: Any, page: Sequence[Recorded[Any]], explain: bool) -> list[Step]:
        self._fold_rows(page)
        if self.decider is None:
            return [Step(one, None, [], []) for one in page]
        return list(steps(self.decider, state, page, explain=explain))

    def _fold_rows(self, history: Sequence[Recorded[Any]]) -> None:
        if self._folding is None:
            return
        try:
            self._folding.fold(history)
        except ProjectionError as error:
            message = f"The rows of this table are made by several streams; those of {self._stream} alone do not make any."
            remedy = "Have a replay built, and ask it in SQL; or leave `table` out."
            raise ApiError(409, "table_of_several_streams", message, field="table", position=history[0].position, remedy=remedy) from error
        self._folding.ended.clear()


def _folding(services: Services, table: str | None) -> Folding | None:
    """What folds one table and no other."""
    if table is None:
        return None
    known: dict[str, tuple[Projection, ReadTable[Any]]] = {one.name: (each, one) for each in services.projections for one in each.tables}
    found = known.get(table.rpartition(".")[2])
    if found is None or table not in (found[1].name, f"{found[0].name}.{found[1].name}"):
        message = f"There is no table {table[:100]!r}."
        raise ApiError(422, "invalid_parameter", message, field="table", known=sorted(known), remedy="Name one of those that are known.")
    return Folding(Projection(found[0].name, (found[1],)), {})


def _version(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        remedy = "Send the next_cursor of the page before, or start without one."
        raise ApiError(422, "invalid_parameter", "The cursor does not belong to this walk.", field="cursor", rule="digits", remedy=remedy)
    return int(cursor)


async def _reasons(reader: Reader, page: Sequence[Recorded[Any]]) -> dict[str, Why]:
    """The actions that events came of, by their ids; what came of none of ours is not there."""
    wanted = {one.causation_text for one in page if one.causation_text is not None}
    rows = await reader.many(actions, sorted(wanted)) if wanted else {}
    return {
        action_id: Why(
            action_id=action_id,
            action=row["action"],
            outcome=row["outcome"],
            reason=row["reason"],
            approval_id=row["approval_id"],
            policy_version=row["policy_version"],
            policy_results=row["policyResults"],
        )
        for action_id, row in rows.items()
    }


def _told(step: Step, why: dict[str, Why], *, explain: bool, decided: bool) -> StepTold:
    recorded = step.recorded
    explained = explain and decided
    changes = [Changed(field=one.field, kind=one.kind, before=one.before, after=one.after) for one in step.differences]
    return StepTold(
        position=recorded.position,
        version=recorded.version,
        at=recorded.at_text,
        type=recorded.event.event_name,
        event_id=recorded.id_text,
        actor=recorded.actor,
        data=recorded.event.told(),
        why=why.get(recorded.causation_text or ""),
        state=step.state,
        changes=changes if explained else None,
        explanation=(step.sentences or ["nothing that decisions are made on"]) if explained else None,
    )
