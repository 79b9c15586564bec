"""Who is told what: owners what was refused, approvers what waits for them, auditors what is unusual; and the receivers beyond Aureus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import SystemRandom
from types import MappingProxyType
from typing import Any, Final

from commands.notifications import Notify
from commands.reactions import STEWARDS
from domain.actions import ActionBlocked
from domain.approvals import ApprovalEscalated, ApprovalRequested
from domain.kernel import Command, Recorded
from domain.ledger import LedgerUnavailable
from domain.reactions import DeadLetterRecorded
from domain.values import Role
from infra.anomalies import HISTORY, examine
from infra.unusual import Finding
from infra.webhooks import Delivery, NotDelivered, WebhookPort, WebhookStore
from projections.access import actors
from projections.agents import agents
from projections.approvals import approvals
from projections.catalog import datasets
from projections.engine import ReadTable
from projections.pipelines import pipelines
from streams.reactions import ACTOR, Due, Reaction, ReadRows, Sweep
from streams.telling import TEXT_LENGTH, TOLD_MAX, cut, news, notice_id, people_of, registered

STEWARDS_TOLD: Final = "dead_letter_notifies_stewards"
EXAMINED: Final = timedelta(days=7)
EXAMINED_EVERY_SECONDS: Final = 900.0
_OWNERS: Final[Mapping[str, tuple[ReadTable[Any], str]]] = MappingProxyType(
    {"actor": (actors, "owner"), "agent": (agents, "owner"), "dataset": (datasets, "owner_ids"), "pipeline": (pipelines, "owner")}
)
"""Where the owners of an entity stand, by the category of its stream; what has no owner is not in it."""
_HOMES: Final[Mapping[str, ReadTable[Any]]] = MappingProxyType({"dataset": datasets, "pipeline": pipelines})
"""Where an entity tells the data domain it belongs to."""
_log = logging.getLogger("aureus.webhooks")


async def tell_owners(recorded: Recorded[ActionBlocked], reads: ReadRows) -> list[Command]:
    """Tells those who answer for who was refused, and for what they were refused, the same refusal once an hour.

    Who asked has their answer; and what the platform's own reactions are refused tells nobody, for that would never end.
    """
    if recorded.actor == ACTOR:
        return []
    event, tenant = recorded.event, recorded.tenant
    intent = event.intent
    answerable = {*await _owners_of(f"actor:{recorded.actor}", tenant, reads), *await _owners_of(intent.stream, tenant, reads)}
    hour = recorded.at_text[:13]
    notices = [
        Notify(
            notification_id=notice_id("action_blocked", recipient, recorded.actor, intent.command, intent.stream, event.code, hour),
            recipient=recipient,
            kind="action_blocked",
            subject=cut(f"{recorded.actor} was refused {intent.command} ({event.code})"),
            text=event.message,
            about=intent.stream,
            action_id=recorded.entity,
        )
        for recipient in await registered(answerable - {recorded.actor}, tenant, reads)
    ]
    return [*await news(notices, tenant, reads)]


async def tell_approvers(recorded: Recorded[ApprovalRequested | ApprovalEscalated], reads: ReadRows) -> list[Command]:
    """Tells those who may approve and reach what it is about, a bounded number of them, that somebody waits; nobody is told twice."""
    event, tenant = recorded.event, recorded.tenant
    roles = event.approver_roles if isinstance(event, ApprovalRequested) else event.to_roles
    asked_for = await reads.row(approvals, tenant, event.approval_id)
    assert asked_for is not None, "the read models have seen the request"
    holders = await reads.rows(actors, tenant, {"roles": [*roles], "status": ["active"], "kind": ["person"]})
    domain = await _domain_of(asked_for, tenant, reads)
    reaching = {row["actor_id"] for row in holders if domain is None or row["domains"] is None or domain in row["domains"]}
    independent = sorted(reaching - {asked_for["requester"], asked_for["requester_owner"]})
    notices = [
        Notify(
            notification_id=notice_id("approval_requested", recipient, event.approval_id),
            recipient=recipient,
            kind="approval_requested",
            subject=cut(f"{asked_for['requester']} asks for approval: {asked_for['command'] or asked_for['type']}"),
            text=asked_for["description"],
            about=recorded.stream,
            action_id=asked_for["evidence_action_id"],
        )
        for recipient in independent[:TOLD_MAX]
    ]
    return [*await news(notices, tenant, reads)]


async def _domain_of(asked_for: dict[str, Any], tenant: str, reads: ReadRows) -> str | None:
    """The data domain of what is to be approved: the one it is in, or that its registration names."""
    category, _, entity = (asked_for["stream"] or "").partition(":")
    home = _HOMES.get(category)
    row = None if home is None else await reads.row(home, tenant, entity)
    domain: str | None = row["domain"] if row is not None else (asked_for["inputs"] or {}).get("domain")
    return None if home is None else domain


async def tell_auditors(reads: ReadRows, now: datetime) -> list[Due]:
    """Tells auditors what is unusual in the audit trail, each finding once, and none to those whom it is about."""
    due: list[Due] = []
    since = now - EXAMINED
    for tenant in await reads.tenants(actors):
        auditors = await reads.rows(actors, tenant, {"roles": [Role.AUDITOR.value], "status": ["active"], "kind": ["person"]})
        if not auditors:
            continue
        trail = await reads.trail(tenant, since - HISTORY, now)
        report = await asyncio.to_thread(examine, trail, since, now)
        notices = [
            _about(found, row["actor_id"])
            for found in report.findings
            for row in auditors
            if row["actor_id"] not in (found.actor, found.counterpart)
        ]
        due += [(tenant, notice.notification_id, notice) for notice in await news(notices, tenant, reads)]
    return due


def _about(found: Finding, auditor: str) -> Notify:
    day = found.since[:10]
    return Notify(
        notification_id=notice_id("anomaly_found", auditor, found.id),
        recipient=auditor,
        kind="anomaly_found",
        subject=cut(f"{found.actor}: {found.kind.replace('_', ' ')}, {day}"),
        text=f"{found.explanation} Look: aureus audit anomalies --since {day} --actor {found.actor}",
        about=f"actor:{found.actor}",
        action_id=found.action_ids[0],
    )


async def _owners_of(stream: str, tenant: str, reads: ReadRows) -> list[str]:
    category, _, entity = stream.partition(":")
    if category not in _OWNERS:
        return []
    table, column = _OWNERS[category]
    row = await reads.row(table, tenant, entity)
    owners = row[column] if row else None
    return owners if isinstance(owners, list) else [owners] if owners else []


async def tell_stewards(recorded: Recorded[DeadLetterRecorded], reads: ReadRows) -> list[Command]:
    """Tells those who may replay and discard what Aureus could not do: of each reaction once an hour, and never of this one itself."""
    event, tenant = recorded.event, recorded.tenant
    if event.reaction == STEWARDS_TOLD:
        return []
    hour = recorded.at_text[:13]
    wanted = event.command or "what it was to do"
    notices = [
        Notify(
            notification_id=notice_id("dead_letter_left", recipient, event.reaction, hour),
            recipient=recipient,
            kind="dead_letter_left",
            subject=cut(f"{event.reaction} left a dead letter ({event.code})"),
            text=cut(f"It could not do {wanted}: {event.message} Look: aureus dead-letters list --reaction {event.reaction}", TEXT_LENGTH),
            about=recorded.stream,
        )
        for recipient in (await people_of(STEWARDS, tenant, reads))[:TOLD_MAX]
    ]
    return [*await news(notices, tenant, reads)]


REACTIONS: Final[Sequence[Reaction]] = (
    Reaction("blocked_action_notifies_owner", (ActionBlocked,), tell_owners),
    Reaction("approval_requested_notifies_approvers", (ApprovalRequested, ApprovalEscalated), tell_approvers),
    Reaction(STEWARDS_TOLD, (DeadLetterRecorded,), tell_stewards),
)
SWEEPS: Final[Sequence[Sweep]] = (Sweep("anomaly_notifies_auditors", EXAMINED_EVERY_SECONDS, tell_auditors),)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a delivery is tried, and how long after each failure: four times as long as before, give or take a quarter."""

    tries: int = 10
    first_seconds: float = 5
    longest_seconds: float = 6 * 3_600

    def pause_seconds(self, tries: int) -> float:
        pause: float = min(self.first_seconds * 4 ** (tries - 1), self.longest_seconds)
        return pause * _dice.uniform(0.75, 1.25)


_dice: Final = SystemRandom()


class Courier:
    """Delivers what is queued until cancelled; each message at least once, or until its tries are spent."""

    def __init__(
        self, store: WebhookStore, port: WebhookPort, patience: Patience = Patience(), *, at_once: int = 16, poll_seconds: float = 1.0
    ) -> None:
        self._store, self._port, self._patience = store, port, patience
        self._at_once, self._poll_seconds = at_once, poll_seconds
        self._running = 0
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Goes round for ever; after a lost database it simply begins again."""
        while True:
            self._running = 0
            try:
                async with asyncio.TaskGroup() as group:
                    while True:
                        await self._round(group)
            except* LedgerUnavailable as lost:
                _log.warning("webhooks wait for the database: %s", lost.exceptions[0])
            except* Exception:  # noqa: BLE001 - said with its traceback, and tried again
                _log.exception("webhooks cannot go on")
            await asyncio.sleep(self._poll_seconds)

    async def _round(self, group: asyncio.TaskGroup) -> None:
        """Takes up what is due, and waits until there may be more."""
        self._wake.clear()
        await self._store.fill()
        if self._running < self._at_once:
            for delivery in await self._store.claim(self._at_once - self._running):
                self._running += 1
                group.create_task(self._deliver(delivery))
        try:
            async with asyncio.timeout(self._poll_seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._try(delivery)
        finally:
            self._running -= 1
            self._wake.set()

    async def _try(self, delivery: Delivery) -> None:
        try:
            if delivery.secret is None:
                raise NotDelivered("the secret kept for it is not the one on record")
            await self._port.deliver(delivery.url, delivery.secret, delivery.message, delivery.old_secret)
        except NotDelivered as problem:
            spent = delivery.tries >= self._patience.tries
            if spent:
                _log.warning("webhook %s: %s given up: %s", delivery.webhook_id, delivery.notification_id, problem)
            pause = self._patience.pause_seconds(delivery.tries)
            await self._store.settle(delivery, "failed" if spent else "pending", str(problem), pause)
        else:
            await self._store.settle(delivery, "delivered")
