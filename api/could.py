"""Who could see this then: what an actor could read at a past moment, and who could read a dataset, each verdict with what decided it.

The facts are those of the position, the policies those in force there, and the verdicts those of the command path itself (`infra.could`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, Final

import orjson
from fastapi import Query

from api.could_judging import Pair, Then, judge
from api.could_told import (
    DEFAULT_TOOL,
    MEANINGS,
    Action,
    ActorVerdict,
    BudgetLeft,
    CouldRead,
    CouldSee,
    DatasetVerdict,
    Standing,
    Stop,
    Unmasking,
    Verdict,
    budgets_sentence,
    counted,
    counts_sentence,
    in_force_of,
    standing_sentence,
)
from api.errors import ApiError
from api.reading import Reader, require_role
from api.routing import ContextRouter, Reading
from api.services import deciders
from commands.agents import RequestAction
from domain.agents import chain
from domain.budgets import path_of
from domain.kernel import JsonObject, timestamp
from domain.values import EVERYBODY, ActorKind, Identifier, Role
from infra.could import PoliciesSilent, open_past
from infra.read_queries import ListQuery, Page
from projections.access import actors, api_keys
from projections.agents import agents
from projections.budgets import budgets, reservations
from projections.catalog import datasets
from projections.vault import unmasking_grants

EXAMINERS: Final = frozenset({Role.ADMIN, Role.AUDITOR})
PAGE_MAX: Final = 1_000
RESERVATIONS_MAX: Final = 1_000
_TOLD_OF_DATASET: Final = ("domain", "pii_level", "jurisdiction", "environment", "status")

router = ContextRouter(tags=["audit"])
Tool = Annotated[Identifier, Query(description="The tool that an agent would have called; policies may tell tools apart.")]
OnlyVerdict = Annotated[Verdict | None, Query(description="Only these of each page.")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="How many are judged per page.")]
Cursor = Annotated[str | None, Query(description="The next_cursor of the page before.")]


@asynccontextmanager
async def open_then(reader: Reader) -> AsyncIterator[Then]:
    """The moment that is asked about; the present is one position as well, so that all that is told of fits together."""
    services, tenant = reader.services, reader.asker.tenant
    at = await reader.moment()
    position = reader.as_of
    if position is None:
        position = (await services.ledger.refresh()).size
        await services.wait_for(position)
    past = open_past(services.reads, services.ledger.name, services.policy, deciders(), tenant, position, at)
    try:
        async with past as path:
            policy_version, policies = await path.policies()
            yield Then(replace(reader, as_of=position), at, path, policies, in_force_of(policy_version, policies))
    except PoliciesSilent as silent:
        message = f"The policies of that time did not answer: {silent}."
        raise ApiError(503, "policies_silent", message, {"retry-after": "1"}, remedy="Try again, or ask about fewer at once.") from None


@router.query("/v1/could/{actor_id}", roles=EVERYBODY, limit="queries")
async def could_read(
    actor_id: str,
    reader: Reading,
    dataset: Annotated[Identifier | None, Query(description="Only this dataset.")] = None,
    domain: Annotated[Identifier | None, Query(description="Only the datasets of this domain.")] = None,
    action: Annotated[Action | None, Query(description="The command to decide reading by; the one of the actor's kind.")] = None,
    tool: Tool | None = None,
    verdict: OnlyVerdict = None,
    limit: Limit = PAGE_MAX,
    cursor: Cursor = None,
) -> CouldRead:
    """What an actor could read then, under which policies and approvals, with what budget left. Everybody may ask about themselves."""
    if actor_id != reader.asker.actor:
        require_role(reader.asker, EXAMINERS)
    async with open_then(reader) as then:
        row = await _known(then, actors, actor_id, "actor")
        way, used = _way(row, action, tool)
        page, rows = await _datasets(then, dataset, domain, limit, cursor)
        (standing,) = await _standings(then, [row])
        found = await judge(then, [Pair(row, standing, one["dataset_id"], way) for one in rows], used)
        left = await _budgets(then.reader, actor_id)
        unmasking = await _unmasking(then, actor_id=actor_id)
        held = await then.reader.find(api_keys, {"actor_id": actor_id, "status": "active"})
    items = [
        DatasetVerdict(dataset_id=one["dataset_id"], **{name: one[name] for name in _TOLD_OF_DATASET}, **fields)
        for one, fields in zip(rows, found, strict=True)
    ]
    counts = counted(items)
    summary = items[0].explanation if dataset is not None else counts_sentence(counts, "datasets")
    return CouldRead(
        explanation=f"{standing_sentence(standing)} {summary} {budgets_sentence(left)}",
        as_of=then.told,
        actor=standing,
        api_keys=sum(key["expires_at"] > timestamp(then.at) for key in held),
        action=way,
        tool=used if way == RequestAction.command_name else None,
        meaning=MEANINGS[way],
        in_force=then.in_force,
        budgets=left,
        unmasking=unmasking,
        counts=counts,
        items=[item for item in items if verdict in (None, item.verdict)],
        next_cursor=page,
    )


@router.query("/v1/could-see/{dataset_id}", roles=EXAMINERS, limit="queries")
async def could_see(
    dataset_id: str,
    reader: Reading,
    kind: Annotated[ActorKind | None, Query(description="Only people, agents or services.")] = None,
    tool: Tool = DEFAULT_TOOL,
    verdict: OnlyVerdict = None,
    limit: Limit = PAGE_MAX,
    cursor: Cursor = None,
) -> CouldSee:
    """Who could read a dataset then: every actor with the verdict, and the policies, roles and approvals behind it."""
    async with open_then(reader) as then:
        seen = await _known(then, datasets, dataset_id, "dataset")
        page = await then.reader.page(actors, ListQuery({"kind": kind.value} if kind else {}, limit=limit, cursor=cursor))
        rows = [orjson.loads(document) for document in page.documents]
        standings = await _standings(then, rows)
        pairs = [Pair(row, standing, dataset_id, _way(row, None, None)[0]) for row, standing in zip(rows, standings, strict=True)]
        found = await judge(then, pairs, tool)
        unmasking = [one for one in await _unmasking(then) if one.subject_id in (None, *seen["owner_ids"])]
    items = [ActorVerdict(**pair.standing.model_dump(), action=pair.action, **fields) for pair, fields in zip(pairs, found, strict=True)]
    counts = counted(items)
    return CouldSee(
        explanation=counts_sentence(counts, "actors"),
        as_of=then.told,
        dataset={"dataset_id": dataset_id, **{name: seen[name] for name in (*_TOLD_OF_DATASET, "owners")}},
        tool=tool,
        meanings=dict(MEANINGS),
        in_force=then.in_force,
        unmasking=unmasking,
        counts=counts,
        items=[item for item in items if verdict in (None, item.verdict)],
        next_cursor=page.next_cursor,
    )


def _way(row: JsonObject, action: Action | None, tool: str | None) -> tuple[Action, str]:
    """The command that reading is decided by for this actor, and the tool."""
    agent = row["kind"] == ActorKind.AGENT
    way: Action = action or ("agents.request_action" if agent else "catalog.record_usage")
    calls = way == RequestAction.command_name
    if calls and not agent:
        message = f"{row['actor_id']} is no agent, and only agents ask for tool calls."
        raise ApiError(422, "invalid_parameter", message, field="action", rule="agents only", remedy="Leave it out.")
    if tool is not None and not calls:
        message = f"{way} takes no tool."
        raise ApiError(422, "invalid_parameter", message, field="tool", rule="agents.request_action only", remedy="Leave it out.")
    return way, tool or DEFAULT_TOOL


async def _known(then: Then, table: Any, row_id: str, kind: str) -> JsonObject:
    row = await then.reader.get(table, row_id)
    if row is None:
        message = f"There was no {kind} {row_id!r} at that time."
        raise ApiError(404, f"{kind}_not_found", message, field=f"{kind}_id", position=then.reader.as_of, remedy="List them as of then.")
    return row


async def _datasets(
    then: Then, dataset: str | None, domain: str | None, limit: int, cursor: str | None
) -> tuple[str | None, list[JsonObject]]:
    """Where the next page begins, and the datasets of this one."""
    if dataset is not None:
        return None, [await _known(then, datasets, dataset, "dataset")]
    page: Page = await then.reader.page(datasets, ListQuery({"domain": domain} if domain else {}, limit=limit, cursor=cursor))
    return page.next_cursor, [orjson.loads(document) for document in page.documents]


async def _standings(then: Then, rows: Sequence[JsonObject]) -> list[Standing]:
    """How actors stood; agents with all those up their chains of delegation, of whom one may have been stopped."""
    known: dict[str, JsonObject] = {}
    wanted = {row["actor_id"] for row in rows if row["kind"] == ActorKind.AGENT}
    while wanted:
        found = await then.reader.many(agents, sorted(wanted))
        known.update(found)
        wanted = {row["delegated_by"] for row in found.values() if row["delegated_by"]} - known.keys() - wanted
    delegated_by = {agent_id: row["delegated_by"] for agent_id, row in known.items()}
    return [_standing(row, chain(row["actor_id"], delegated_by), known) for row in rows]


def _standing(row: JsonObject, up: Sequence[str], known: Mapping[str, JsonObject]) -> Standing:
    stop = next((known[each] for each in up if each in known and known[each]["status"] == "stopped"), None)
    own = known.get(row["actor_id"], {})
    suspended = row["status"] != "active"
    return Standing(
        **{name: row[name] for name in ("actor_id", "kind", "roles", "owner")},
        status="suspended" if suspended else "stopped" if stop else "active",
        stop=Stop(agent_id=stop["agent_id"], **{name: stop["stop"][name] for name in ("by", "at", "reason")}) if stop else None,
        acts_for=list(up[1:]),
        purpose=own.get("purpose"),
        model=own.get("model"),
    )


async def _budgets(reader: Reader, actor_id: str) -> list[BudgetLeft]:
    """The budgets that an actor's latest reservations were made on, and what was left of each: no more than of any budget above it."""
    page = await reader.page(reservations, ListQuery({"reserved_by": actor_id}, sort="-reserved_at", limit=RESERVATIONS_MAX))
    own: dict[str, list[JsonObject]] = defaultdict(list)
    for row in map(orjson.loads, page.documents):
        own[row["budget_id"]].append(row)
    rows = await reader.many(budgets, sorted({above for budget_id in own for above in path_of(budget_id)}))
    return [
        BudgetLeft(
            **{name: rows[budget_id][name] for name in ("budget_id", "currency", "status", "limit_minor")},
            left_minor=min(rows[above]["available_minor"] for above in path_of(budget_id)) if rows[budget_id]["status"] == "open" else 0,
            held_minor=sum(row["amount_minor"] for row in mine if row["status"] == "reserved"),
            spent_minor=sum(row["spent_minor"] for row in mine),
        )
        for budget_id, mine in own.items()
    ]


async def _unmasking(then: Then, **whose: str) -> list[Unmasking]:
    """The grants that had not run out: who could see whose personal values."""
    rows = await then.reader.find(unmasking_grants, {**whose, "status": "granted"})
    return [Unmasking(**{name: row[name] for name in Unmasking.model_fields}) for row in rows if row["until"] > timestamp(then.at)]
