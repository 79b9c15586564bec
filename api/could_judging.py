"""Judging who could read what at a moment: a plain ask for each pair of actor and dataset, and the approvals that were there for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, get_args

import orjson
from pydantic import ValidationError

from api.authentication import Unauthenticated
from api.could_told import Action, ApprovalThen, Approver, InForce, Moment, Standing, Verdict, said_of, sentence
from api.dataset_facts import Gathered, gather
from api.errors import ApiError
from api.reading import Reader
from commands.agents import TOOL_ACTIONS, RequestAction, agent_stream, dataset_stream
from commands.approvals import APPROVALS
from commands.catalog import RecordUsage
from commands.outcome import Outcome
from domain.duties import RULES_STREAM
from domain.kernel import Asker, Command, JsonObject, timestamp
from domain.policies import PolicySet
from domain.values import uuid7_text
from infra.could import Asking, PastPath
from infra.holdings import holdings_of
from infra.read_queries import ListQuery
from infra.standing import Standing as Standings
from projections.approvals import approvals

APPROVALS_MAX: Final = 1_000
APPROVALS_TOLD: Final = 5
Had = Mapping[tuple[str, str], Sequence[JsonObject]]
"""Approvals by who asked for them and the dataset they are for, the latest first."""


@dataclass(frozen=True, slots=True)
class Then:
    """A tenant at a moment: its read models, its command path, and the policies in force."""

    reader: Reader
    at: datetime
    path: PastPath
    policies: PolicySet
    in_force: InForce

    @property
    def told(self) -> Moment:
        assert self.reader.as_of is not None
        return Moment(position=self.reader.as_of, at=timestamp(self.at))


@dataclass(frozen=True, slots=True)
class Pair:
    """One actor and one dataset to judge."""

    actor: JsonObject
    standing: Standing
    dataset_id: str
    action: Action

    @property
    def actor_id(self) -> str:
        return self.standing.actor_id


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why somebody could not even have asked."""

    code: str
    message: str


async def judge(then: Then, pairs: Sequence[Pair], tool: str) -> list[JsonObject]:
    """For each pair what `Judged` holds: a plain ask first, and where that took an approval, the exact calls that had one."""
    had = await _approvals(then, pairs)
    named = [name for rows in had.values() for row in rows for name in _datasets_of(row)]
    gathered = await gather(then.reader, [*(pair.dataset_id for pair in pairs), *named])
    await _load(then, pairs, had, gathered)
    askers = await _askers(then, pairs)
    asked = [_plain(then, pair, askers[pair.actor_id], tool, gathered) for pair in pairs]
    outcomes = iter(await then.path.judge([one for one in asked if isinstance(one, Asking)]))
    ended = [next(outcomes) if isinstance(one, Asking) else one for one in asked]
    told = await _told(then, pairs, askers, ended, had, gathered)
    return [_judged(then, pair, end, approvals) for pair, end, approvals in zip(pairs, ended, told, strict=True)]


async def _load(then: Then, pairs: Sequence[Pair], had: Had, gathered: Gathered) -> None:
    """Reads at once the streams that the decisions are going to look at."""
    streams = [dataset_stream(name) for name in gathered.rows]
    streams += [RULES_STREAM, *(f"actor:{each}" for pair in pairs for each in (pair.actor_id, pair.actor["owner"]) if each)]
    streams += [agent_stream(each) for pair in pairs for each in (pair.actor_id, *pair.standing.acts_for)]
    for row in (row for rows in had.values() for row in rows):
        approval_id = row["approval_id"]
        streams += [f"{APPROVALS.category}:{approval_id}", f"action:{approval_id}", row["stream"] or ""]
    await then.path.ledger.load(then.reader.asker.tenant, filter(None, streams))


async def _askers(then: Then, pairs: Sequence[Pair]) -> Mapping[str, Asker | _Refused]:
    """Each actor with all that its groups and grants gave it then, or why it was not let in."""
    reads, tenant, as_of = then.reader.services.reads, then.reader.asker.tenant, then.reader.as_of
    standing = Standings(partial(reads.many, as_of=as_of), partial(holdings_of, reads, as_of=as_of), lambda: then.at)

    async def asker(known: JsonObject) -> Asker | _Refused:
        try:
            return await standing.of(tenant, known["actor_id"], known=known)
        except Unauthenticated as refused:
            whose, _, how = refused.reason.partition("_")
            who = f"{known['owner']}, who answered for {known['actor_id']}," if whose == "owner" else known["actor_id"]
            return _Refused(refused.reason, f"{who} was {how}: nobody was let in under that name.")

    rows = {pair.actor_id: pair.actor for pair in pairs}
    return dict(zip(rows, await asyncio.gather(*(asker(row) for row in rows.values())), strict=True))


def _plain(then: Then, pair: Pair, by: Asker | _Refused, tool: str, gathered: Gathered) -> Asking | _Refused:
    """The ask that reading this dataset would have been."""
    if isinstance(by, _Refused):
        return by
    if pair.action == RecordUsage.command_name:
        return Asking(by, RecordUsage(dataset_id=pair.dataset_id, used_by=pair.actor_id))
    try:
        facts = gathered.of(pair.dataset_id, then.at)
    except ApiError as refused:
        return _Refused(refused.code, refused.message)
    request_id = uuid7_text()
    then.path.ledger.assume_new(by.tenant, f"{TOOL_ACTIONS.category}:{pair.actor_id}.{request_id}")
    command = RequestAction(
        agent_id=pair.actor_id, request_id=request_id, tool=tool, datasets=(pair.dataset_id,), purpose="What could it do?", facts=(facts,)
    )
    return Asking(by, command)


async def _approvals(then: Then, pairs: Sequence[Pair]) -> Had:
    """The approvals of these actors for reading these datasets that were granted by then, the latest first, by both."""
    wanted = {"command": list(get_args(Action)), "requester": sorted({pair.actor_id for pair in pairs}), "status": ["approved", "used"]}
    page = await then.reader.page(approvals, ListQuery(wanted, sort="-requested_at", limit=APPROVALS_MAX))
    found: dict[tuple[str, str], list[JsonObject]] = defaultdict(list)
    asked_about = {(pair.actor_id, pair.dataset_id) for pair in pairs}
    for row in map(orjson.loads, page.documents):
        for pair in {(row["requester"], name) for name in _datasets_of(row)} & asked_about:
            found[pair].append(row)
    return found


def _datasets_of(row: JsonObject) -> Collection[str]:
    """The datasets that an approval is for."""
    inputs = row["inputs"] or {}
    return inputs.get("datasets") or ([inputs["dataset_id"]] if "dataset_id" in inputs else [])


async def _told(
    then: Then,
    pairs: Sequence[Pair],
    askers: Mapping[str, Asker | _Refused],
    ended: Sequence[Outcome | _Refused],
    had: Had,
    gathered: Gathered,
) -> list[list[ApprovalThen]]:
    """For each pair its approvals; those not used yet are tried, where one was needed."""
    tried: list[tuple[int, JsonObject, Asking]] = []
    for index, (pair, end) in enumerate(zip(pairs, ended, strict=True)):
        if isinstance(end, Outcome) and end.outcome == "requires_approval":
            for row in had.get((pair.actor_id, pair.dataset_id), ()):
                command = _command_of(then, row, gathered) if row["status"] == "approved" else None
                by = askers[pair.actor_id]
                if command is not None and isinstance(by, Asker):
                    tried.append((index, row, Asking(by, command, row["approval_id"])))
    outcomes = await then.path.judge([asking for _, _, asking in tried])
    by_approval = {(index, row["approval_id"]): outcome for (index, row, _), outcome in zip(tried, outcomes, strict=True)}
    return [
        [_approval_then(row, by_approval.get((index, row["approval_id"]))) for row in had.get((pair.actor_id, pair.dataset_id), ())]
        for index, pair in enumerate(pairs)
    ]


def _command_of(then: Then, row: JsonObject, gathered: Gathered) -> Command | None:
    """The very command that was approved, as it would have been sent then: with the facts of that moment. None when it cannot be made."""
    known = then.path.commands[row["command"]]
    try:
        command = known.model_validate(row["inputs"])
        if isinstance(command, RequestAction):
            command = command.model_copy(update={"facts": tuple(gathered.of(name, then.at) for name in command.datasets)})
    except (ValidationError, ApiError):
        return None
    return command


def _approval_then(row: JsonObject, outcome: Outcome | None) -> ApprovalThen:
    covers = outcome is not None and outcome.outcome == "allowed"
    why_not = None if covers else (outcome.message if outcome is not None else _unused(row))
    given_by = [
        Approver(approver=one["approver"], on_behalf_of=one["on_behalf_of"], at=one["at"])
        for one in row["decisions"]
        if one["decision"] == "agreed"
    ]
    fields: JsonObject = {name: row[name] for name in ("approval_id", "status", "expires_at", "used_at")}
    fields |= {name: (row["inputs"] or {}).get(name) for name in ("request_id", "purpose")}
    return ApprovalThen(**fields, given_by=given_by, covers=covers, why_not=why_not)


def _unused(row: JsonObject) -> str:
    return f"It was used at {row['used_at']}." if row["status"] == "used" else "It took no approval, or could not be asked for at all."


def _judged(then: Then, pair: Pair, end: Outcome | _Refused, told: list[ApprovalThen]) -> JsonObject:
    """What `Judged` holds, of one pair."""
    outcome = end if isinstance(end, Outcome) else None
    wanted = (outcome.approval if outcome else None) or {}
    covering = [one for one in told if one.covers]
    others = [one for one in told if not one.covers]
    verdict: Verdict = "blocked"
    if outcome is not None and outcome.outcome != "blocked":
        verdict = "allowed" if outcome.outcome == "allowed" else "approved" if covering else "needs_approval"
    fields: JsonObject = {
        "verdict": verdict,
        "code": end.code,
        "message": end.message,
        "policies": said_of(outcome, then.policies) if outcome else [],
        "approver_roles": wanted.get("approver_roles", []),
        "quorum": wanted.get("quorum"),
        "required_evidence": wanted.get("required_evidence", []),
        "approvals": [*covering, *others][:APPROVALS_TOLD],
    }
    return {**fields, "explanation": sentence(pair.actor_id, pair.dataset_id, pair.action, fields)}
