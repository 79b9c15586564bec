"""What is written: one event for those who race, as many plain bytes for those who only store, a history to rebuild from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from domain.actions import ActionAllowed, Intent, Output, PolicyResult
from domain.budgets import BudgetOpened, FundsCommitted, FundsReserved
from domain.catalog import DatasetRefreshed, DatasetRegistered, Jurisdiction, PiiLevel, Profile, UsageRecorded
from domain.kernel import Event
from domain.values import ActorKind, Role, uuid7
from infra.ledger import StreamWrite

TENANT: Final = "acme"
ACTOR: Final = "usr-ana"
ROW_BYTES: Final = 740
"""Of body, signature and leaf in our row of `reserved` (the body's members are fixed by its format)."""
_AT: Final = datetime(2026, 3, 3, tzinfo=UTC)
_DIGEST: Final = "0" * 64


def stream(number: int) -> str:
    return f"budget:lake-{number}"


def reserved(stream_number: int, reservation: int) -> FundsReserved:
    """A promise of money on a budget two levels deep."""
    budget_id = f"lake-{stream_number}.ingest"
    return FundsReserved(
        budget_id=budget_id, reservation_id=f"reservation-{reservation:09}", amount_minor=100, path=(budget_id, f"lake-{stream_number}")
    )


def payload() -> bytes:
    """What peers that only store bytes are given to write: no more than our row of this event holds."""
    return os.urandom(ROW_BYTES // 2).hex().encode()


class History:
    """What a year of governed work leaves behind, as the command path would have written it.

    Every action is a fact and the action's own event, which is its audit entry and evidence. Of ten actions four
    reserve money, four spend what was reserved, one records a refresh of a dataset and one that somebody used it.
    """

    def __init__(self, lane: int) -> None:
        """Lanes share no stream, so they can be written side by side."""
        self._lane = lane
        self._root, self._dataset = f"lake-{lane}", f"orders-{lane}"
        self._path = (f"{self._root}.ingest", self._root)
        self._versions: dict[str, int] = {}
        self._actions = self._endless()

    def take(self, events: int) -> tuple[StreamWrite, ...]:
        """The writes of the next actions, with so many events in all (an even number)."""
        facts: dict[str, list[Event]] = {}
        actions = []
        for _ in range(events // 2):
            command, stream, event = next(self._actions)
            facts.setdefault(stream, []).append(event)
            version = self._versions.get(stream, 0) + len(facts[stream])
            actions.append(StreamWrite(f"action:{uuid7()}", 0, (allowed(command, stream, event, version),), fresh=True))
        writes = [StreamWrite(stream, self._versions.get(stream, 0), tuple(found)) for stream, found in facts.items()]
        for write in writes:
            self._versions[write.stream] = write.expected_version + len(write.events)
        return (*writes, *actions)

    def _endless(self) -> Iterator[tuple[str, str, Event]]:
        tree, dataset = f"budget:{self._root}", f"dataset:{self._dataset}"
        for budget_id in reversed(self._path):
            yield "budgets.open_budget", tree, BudgetOpened(budget_id=budget_id, label="Ingestion", currency="EUR", limit_minor=10**12)
        profile = Profile(name="Orders", domain="sales", pii_level=PiiLevel.NONE, jurisdiction=Jurisdiction.EU)
        yield "catalog.register_dataset", dataset, DatasetRegistered(dataset_id=self._dataset, profile=profile)
        number = 0
        while True:
            for _ in range(4):
                number += 1
                name = f"reservation-{self._lane}-{number}"
                promise = FundsReserved(budget_id=self._path[0], reservation_id=name, amount_minor=100, path=self._path)
                yield "budgets.reserve_funds", tree, promise
                spent = FundsCommitted(budget_id=self._path[0], reservation_id=name, spent_minor=90, returned_minor=10, path=self._path)
                yield "budgets.commit_funds", tree, spent
            yield "catalog.record_refresh", dataset, DatasetRefreshed(dataset_id=self._dataset, refreshed_at=_AT, row_count=number)
            yield "catalog.record_usage", dataset, UsageRecorded(dataset_id=self._dataset, used_by=ACTOR, query_count=1)


def allowed(command: str, stream: str, event: Event, version: int) -> ActionAllowed:
    return ActionAllowed(
        intent=Intent(
            command=command,
            digest=_DIGEST,
            stream=stream,
            seen_version=version - 1,
            roles=(Role.ANALYST,),
            kind=ActorKind.PERSON,
            inputs=event.dump(),
        ),
        policy_version=_DIGEST,
        policy_results=(PolicyResult(policy="baseline_allow", outcome="allow"),),
        outputs=(Output(type=event.event_name, stream=stream, version=version),),
    )
