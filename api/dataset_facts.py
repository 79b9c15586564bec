"""What policies are told of datasets that somebody wants to use: how they are classified, their contracts, freshness and lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from api.catalog import MAX_LINEAGE_EDGES
from api.errors import ApiError
from api.reading import Reader
from domain.agents import DatasetFacts, contract_status
from domain.kernel import JsonObject
from projections.catalog import datasets, freshness_at, lineage

LINEAGE_STEPS_MAX: Final = 20
ALL_EDGES_MAX: Final = 100_000
_CLASSIFIED: Final = ("pii_level", "jurisdiction", "environment", "status")


@dataclass(frozen=True, slots=True)
class Gathered:
    """Datasets as they stand in the catalog, and what each of them and of those behind them is made from."""

    rows: Mapping[str, JsonObject]
    upstream: Mapping[str, frozenset[str]]

    def of(self, dataset_id: str, at: datetime) -> DatasetFacts:
        """The facts of one at a moment; of one that the catalog does not know, only its id. ApiError when its lineage is too large."""
        row = self.rows.get(dataset_id)
        if row is None:
            return DatasetFacts(dataset_id=dataset_id)
        return DatasetFacts(
            dataset_id=dataset_id,
            **{name: row[name] for name in _CLASSIFIED},
            contract=contract_status(row["contract"]),
            fresh=freshness_at(dataset_id, row["freshness_sla"], row["last_refresh_at"], at).fresh,
            lineage_depth=self._depth(dataset_id),
        )

    def _depth(self, dataset_id: str) -> int:
        """How many steps away the farthest dataset it is made from stands; one met again is not opened again, so a circle ends."""
        level, seen, edges, depth = {dataset_id}, {dataset_id}, 0, 0
        while level and depth < LINEAGE_STEPS_MAX:
            behind = [self.upstream.get(each, frozenset()) for each in level]
            edges += sum(map(len, behind))
            if edges > MAX_LINEAGE_EDGES:
                raise _too_large(f"The lineage of {dataset_id}", MAX_LINEAGE_EDGES)
            level = set().union(*behind) - seen
            seen |= level
            depth += bool(level)
        return depth


async def gather(reader: Reader, dataset_ids: Iterable[str]) -> Gathered:
    """All that is needed to tell the facts of these datasets; one query for each step of their lineage."""
    wanted = list(dict.fromkeys(dataset_ids))
    rows = await reader.many(datasets, wanted)
    upstream: dict[str, set[str]] = {}
    level, seen, left = sorted(rows), set(rows), ALL_EDGES_MAX
    for _ in range(LINEAGE_STEPS_MAX):
        if not level:
            break
        found = await reader.find(lineage, {"downstream_id": level}, left + 1)
        left -= len(found)
        if left < 0:
            raise _too_large("The lineage of these datasets together", ALL_EDGES_MAX)
        for edge in found:
            upstream.setdefault(edge["downstream_id"], set()).add(edge["upstream_id"])
        level = sorted({edge["upstream_id"] for edge in found} - seen)
        seen.update(level)
    return Gathered(rows, {downstream: frozenset(behind) for downstream, behind in upstream.items()})


def _too_large(what: str, most: int) -> ApiError:
    message = f"{what} has more than {most} edges within {LINEAGE_STEPS_MAX} steps."
    return ApiError(422, "lineage_too_large", message, field="datasets", remedy="Name fewer datasets, or remove edges nobody needs.")
