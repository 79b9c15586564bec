"""What has been kept for as long as the rules of its jurisdiction let it stay: whose, for which purpose, since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from domain.kernel import JsonObject
from domain.values import duration_seconds
from infra.traces import Kept, Traces
from projections.subjects import holds, retention_rules, subjects

MOST_SUBJECTS: Final = 10_000
"""Looked at in one statement."""
LONGEST: Final = timedelta(days=36_500)


@dataclass(frozen=True, slots=True)
class DueErasure:
    """Values of a subject that a retention rule has erased from `due_at` on, unless a hold keeps them."""

    subject_id: str
    jurisdiction: str
    purpose: str
    fields: int
    last_position: int
    last_recorded_at: datetime
    keep: str
    due_at: datetime
    holds: tuple[str, ...]


async def due(traces: Traces, tenant: str, at: datetime) -> list[DueErasure]:
    """What is due at a moment as things stand now, what an order is out for already left out; the longest due first."""
    rules = {(row["jurisdiction"], row["purpose"]): row["keep"] for row in await traces.rows(retention_rules, tenant, {})}
    if not rules:
        return []
    jurisdictions = sorted({jurisdiction for jurisdiction, _ in rules})
    known = {row["subject_id"]: row for row in await traces.rows(subjects, tenant, {"jurisdiction": jurisdictions})}
    waiting = [subject for subject, row in known.items() if row["status"] not in ("ordered", "erasing")]
    placed = await traces.rows(holds, tenant, {"status": "placed"})
    found: list[DueErasure] = []
    for start in range(0, len(waiting), MOST_SUBJECTS):
        for kept in await traces.last_kept(tenant, waiting[start : start + MOST_SUBJECTS]):
            jurisdiction = known[kept.subject_id]["jurisdiction"]
            keep = rules.get((jurisdiction, kept.purpose))
            if keep is not None and (due_at := ends(kept.recorded_at, keep)) <= at:
                found.append(_due(kept, jurisdiction, keep, due_at, holds_on(placed, kept.subject_id, at)))
    return sorted(found, key=lambda one: (one.due_at, one.subject_id, one.purpose))


def _due(kept: Kept, jurisdiction: str, keep: str, due_at: datetime, held: tuple[str, ...]) -> DueErasure:
    return DueErasure(kept.subject_id, jurisdiction, kept.purpose, kept.fields, kept.position, kept.recorded_at, keep, due_at, held)


def ends(recorded_at: datetime, keep: str) -> datetime:
    """When a value has been kept for so long; a rule of more than a century is one of a century."""
    return recorded_at + timedelta(seconds=min(duration_seconds(keep), LONGEST.total_seconds()))


def holds_on(placed: Sequence[JsonObject], subject: str, at: datetime) -> tuple[str, ...]:
    """Ids of the holds (rows) that keep a subject at a moment."""
    return tuple(row["hold_id"] for row in placed if holds_it(row, subject, at))


def holds_it(row: dict[str, Any], subject: str, at: datetime) -> bool:
    over = row["until"] is not None and datetime.fromisoformat(row["until"]) <= at
    return row["status"] == "placed" and not over and (row["everybody"] or subject in row["subject_ids"])
