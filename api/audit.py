"""The audit over REST: the proof that a stopped agent did nothing more, and what is unusual in the audit trail.

Both are made from the ledger's own events, read again; the read models only add what was there before, and what is still held.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import Query
from pydantic import BaseModel

from api.errors import ApiError
from api.routing import ContextRouter, Reader, Reading
from commands.agents import agent_stream
from domain.actions import ActionAllowed, ActionBlocked
from domain.agents import AgentDelegated, AgentResumed, AgentStopped, DelegationRevoked, chain
from domain.kernel import Recorded, timestamp
from domain.values import PEOPLE, Role
from infra.anomalies import HISTORY, examine
from infra.audit_trail import read_trail
from infra.unusual import Finding, Unjudged
from projections.approvals import approvals
from projections.budgets import reservations
from projections.evidence import actions

PAGE_EVENTS: Final = 500
LISTED_MAX: Final = 100
EXAMINERS: Final = frozenset({Role.ADMIN, Role.AUDITOR})
WINDOW: Final = timedelta(days=7)
WINDOW_MAX: Final = timedelta(days=92)
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_A_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DELEGATIONS: Final = (AgentDelegated.event_name, DelegationRevoked.event_name)

router = ContextRouter(tags=["audit"])


class Place(BaseModel):
    """An event of the ledger: where it stands, who recorded it, and the leaf that the tree holds of it."""

    position: int
    event_id: str
    type: str
    leaf: str
    at: str
    by: str


class Contradiction(BaseModel):
    """What the claim cannot be true with: an event after the stop, or something that is still held."""

    what: Literal["acted_after_stop", "reservation_held", "approval_live"]
    id: str
    position: int | None = None
    by: str | None = None


class StopProof(BaseModel):
    """Whether a stop held, from its position up to `until`: where the agent was resumed, or where the checkpoint ends.

    `delegates` are those at the stop's position; `delegations` are what was given or revoked under it since then.
    """

    agent_id: str
    proved: bool
    contradictions: list[Contradiction]
    stop: Place
    reason: str
    until: int
    resumed: Place | None
    delegates: list[str]
    delegations: list[Place]
    actions_before: int
    blocked_after: int
    allowed_after: int
    reservations_held: int
    approvals_live: int
    checkpoint_size: int
    checkpoint: str


class Anomalies(BaseModel):
    """What is unusual from `since` to `until`, the most unusual first, at most 100 of the `found`; compared with what was usual since
    `history_since`.

    `unjudged` are those of whom nothing, or not everything, can be said yet; `notes` say what was left out.
    """

    since: str
    until: str
    history_since: str
    actions_read: int
    found: int
    findings: list[Finding]
    unjudged: list[Unjudged]
    notes: list[str]


class Aftermath:
    """What the ledger says of a stop, told event by event in order of position: first what came before it, then what came after."""

    def __init__(self, stop: Recorded[AgentStopped], before: Iterable[Recorded[Any]]) -> None:
        self._stop = stop
        self._delegated_by: dict[str, str | None] = {}
        for recorded in before:
            if recorded.tenant == stop.tenant and recorded.position < stop.position:
                self._delegate(recorded.event)
        self.delegates = sorted(agent_id for agent_id in self._delegated_by if agent_id != self._agent_id and self._is_under(agent_id))
        self.delegations: list[Recorded[Any]] = []
        self.resumed: Recorded[Any] | None = None
        self.blocked = self.allowed = 0
        self.acted: list[Recorded[Any]] = []
        """What was recorded on behalf of somebody under the stop and is no refusal: there must be none."""

    @property
    def _agent_id(self) -> str:
        return self._stop.event.agent_id

    @property
    def everybody(self) -> list[str]:
        """The agent and its delegates as they were when it was stopped."""
        return [self._agent_id, *self.delegates]

    def see(self, recorded: Recorded[Any]) -> None:
        """One more event; what another tenant did, or what came after the agent was resumed, is not the stop's affair."""
        if recorded.tenant != self._stop.tenant or recorded.position <= self._stop.position or self.resumed is not None:
            return
        if self._is_under(recorded.actor):
            self.blocked += isinstance(recorded.event, ActionBlocked)
            self.allowed += isinstance(recorded.event, ActionAllowed)
            if not isinstance(recorded.event, ActionBlocked):
                self.acted.append(recorded)
        event = recorded.event
        if isinstance(event, AgentResumed) and event.agent_id == self._agent_id:
            self.resumed = recorded
        elif isinstance(event, AgentDelegated | DelegationRevoked):
            was_under = self._is_under(event.agent_id)
            self._delegate(event)
            if was_under or self._is_under(event.agent_id):
                self.delegations.append(recorded)

    def _delegate(self, event: Any) -> None:
        if isinstance(event, AgentDelegated | DelegationRevoked):
            self._delegated_by[event.agent_id] = event.delegated_by if isinstance(event, AgentDelegated) else None

    def _is_under(self, actor: str) -> bool:
        return self._agent_id in chain(actor, self._delegated_by)


@router.query("/v1/audit/stopped/{agent_id}", roles=PEOPLE, limit="queries", recorded=True)
async def stopped(agent_id: str, reader: Reading) -> StopProof:
    """Prove, from the ledger itself, that nothing of a stopped agent or its delegates was allowed after its latest stop."""
    services = reader.services
    head = await services.ledger.refresh()
    end = head.size if reader.as_of is None else min(reader.as_of, head.size)
    stop = await _latest_stop(reader, agent_id, end)
    aftermath = Aftermath(stop, await services.ledger.read_types(_DELEGATIONS, 0, stop.position))
    for seen in range(stop.position, end, PAGE_EVENTS):
        for recorded in await services.ledger.read(seen, min(PAGE_EVENTS, end - seen)):
            aftermath.see(recorded)
    await services.wait_for(end)
    held, live = await _left_over(replace(reader, as_of=end), stop, aftermath.everybody)
    note = head.note if end == head.size else await services.ledger.store.note(end)
    before = {"actor_id": aftermath.everybody}
    acted = [_acted(recorded) for recorded in aftermath.acted]
    contradictions = [*acted, *held, *live]
    return StopProof(
        agent_id=agent_id,
        proved=not contradictions,
        contradictions=contradictions[:LISTED_MAX],
        stop=_place(stop),
        reason=stop.event.reason,
        until=aftermath.resumed.position if aftermath.resumed else end,
        resumed=_place(aftermath.resumed) if aftermath.resumed else None,
        delegates=aftermath.delegates,
        delegations=[_place(recorded) for recorded in aftermath.delegations],
        actions_before=await services.reads.count(actions, reader.asker.tenant, before, stop.position),
        blocked_after=aftermath.blocked,
        allowed_after=aftermath.allowed,
        reservations_held=len(held),
        approvals_live=len(live),
        checkpoint_size=end if note else head.size,
        checkpoint=(note or head.note).decode(),
    )


async def _latest_stop(reader: Reader, agent_id: str, end: int) -> Recorded[AgentStopped]:
    history: list[Recorded[Any]] = await reader.services.ledger.read_stream(reader.asker.tenant, agent_stream(agent_id))
    stops = [recorded for recorded in history if isinstance(recorded.event, AgentStopped) and recorded.position <= end]
    if not stops:
        message = f"Nobody has stopped agent {agent_id}."
        remedy = "If it is a delegate of an agent that was stopped, ask for that one; `aureus agents stop` stops it."
        raise ApiError(404, "stop_not_found", message, field="agent_id", remedy=remedy)
    return stops[-1]


async def _left_over(reader: Reader, stop: Recorded[Any], everybody: list[str]) -> tuple[list[Contradiction], list[Contradiction]]:
    """What they reserved and what they asked approval for before the stop, and still have."""
    held = await reader.find(reservations, {"reserved_by": everybody, "status": "reserved"})
    live = await reader.find(approvals, {"requester": everybody, "status": ["pending", "approved"]})
    return (
        [
            Contradiction(what="reservation_held", id=row["reservation_id"], by=row["reserved_by"])
            for row in held
            if row["reserved_at"] <= stop.at_text
        ],
        [
            Contradiction(what="approval_live", id=row["approval_id"], by=row["requester"])
            for row in live
            if row["requested_at"] <= stop.at_text
        ],
    )


def _acted(recorded: Recorded[Any]) -> Contradiction:
    return Contradiction(what="acted_after_stop", id=str(recorded.id), position=recorded.position, by=recorded.actor)


def _place(recorded: Recorded[Any]) -> Place:
    return Place(
        position=recorded.position,
        event_id=str(recorded.id),
        type=recorded.event.event_name,
        leaf=recorded.leaf.hex(),
        at=recorded.at_text,
        by=recorded.actor,
    )


@router.query("/v1/audit/anomalies", roles=EXAMINERS, limit="queries")
async def anomalies(
    reader: Reading,
    since: Annotated[str | None, Query(description="The first day (2026-03-03, of UTC) or a time in it; a week before `until`.")] = None,
    until: Annotated[str | None, Query(description="The last day or a time in it; now.")] = None,
    actor: Annotated[str | None, Query(description="Only what is unusual about this actor.")] = None,
) -> Anomalies:
    """Find what is unusual in the audit trail: each actor's days against their own past and their role's, and who approves whom."""
    latest = max(await reader.moment(), _EARLIEST)
    end = latest if until is None else min(_moment("until", until, end_of_day=True), latest)
    start = end - WINDOW if since is None else _moment("since", since)
    if not end - WINDOW_MAX <= start <= end:
        message = f"since must lie before until, and within {WINDOW_MAX.days} days of it."
        remedy = "Look at a shorter time, or at several, one after another."
        raise ApiError(422, "invalid_parameter", message, field="since", until=timestamp(end), remedy=remedy)
    first_day = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    trail = await read_trail(reader.services.reads, reader.asker.tenant, first_day - HISTORY, end, up_to=reader.as_of)
    # Many thousands of actions take long enough to compare that other requests would have to wait.
    report = await asyncio.to_thread(examine, trail, start, end)
    findings = [one for one in report.findings if actor in (None, one.actor, one.counterpart)]
    unjudged = [one for one in report.unjudged if actor is None or actor in one.actor.split(" and ")]
    notes = [] if trail.whole else [f"There are more actions than one look takes in: those before {timestamp(trail.begins)} were left out."]
    notes += [f"The first {LISTED_MAX} of {len(unjudged)} who cannot be fully judged are listed."] if len(unjudged) > LISTED_MAX else []
    return Anomalies(
        since=timestamp(max(first_day, trail.begins)),
        until=timestamp(end),
        history_since=timestamp(trail.begins),
        actions_read=len(trail.entries),
        found=len(findings),
        findings=findings[:LISTED_MAX],
        unjudged=unjudged[:LISTED_MAX],
        notes=notes,
    )


def _moment(field: str, text: str, *, end_of_day: bool = False) -> datetime:
    """A time with its zone, or a day of UTC: its beginning or its end."""
    if _A_DAY.fullmatch(text):
        text += "T23:59:59.999999Z" if end_of_day else "T00:00:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or moment < _EARLIEST:
        message = f"{field} {text!r} is neither a day nor a time with its zone."
        remedy = "Write 2026-03-03 or 2026-03-03T14:00:00Z."
        raise ApiError(422, "invalid_parameter", message, field=field, rule="a day, or an RFC 3339 time", remedy=remedy)
    return moment
