"""Catching up: while PostgreSQL writes what one batch changed, the next is folded upon it; on two cores that is twice the pace.

What the batch under way changed is not in the database yet, so it is laid over what is loaded. Should anything have come
in between - a rebuild swapped, a projection stopped, somebody else who moved one - the fold is thrown away, and done again
on what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from domain.kernel import Recorded
from infra.read_models import Overtaken, ReadModelWriter
from infra.read_rows import load_open
from infra.read_tables import LIVE, schema_name
from projections.engine import Folding, Projection, ProjectionError, RowKey, kinds_of, touched

SLICE_EVENTS: Final = 64
"""Folding holds the event loop up: after this many, others have their turn."""
Fresh = dict[RowKey, tuple[int, Any] | None]
"""Rows as a batch left them, None for those it ended."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What a batch makes of every projection."""

    foldings: dict[str, Folding]
    fresh: dict[str, Fresh]


class FoldingAhead:
    """Moves the projections that `writer` leads, one batch ahead of what is committed."""

    def __init__(self, writer: ReadModelWriter, reader: psycopg.AsyncConnection[TupleRow]) -> None:
        self._writer, self._reader = writer, reader
        self._flying: asyncio.Task[int] | None = None
        self._fresh: dict[str, Fresh] = {}
        self._until = -1
        """Where the batch under way ends; -1 when nothing is known of where the projections stand."""
        self.committed = 0
        """Up to where everything is committed, as far as this writer knows."""

    @classmethod
    async def open(cls, dsn: str, writer: ReadModelWriter) -> FoldingAhead:
        return cls(writer, await psycopg.AsyncConnection.connect(dsn, autocommit=True))

    async def advance(self, batch: Sequence[Recorded[Any]]) -> int:
        """Takes in the consecutive events of a batch; returns up to where they have been taken in: read on from there.

        They are committed only when the next call, or `land`, has returned; `committed` says how far that is.
        """
        folded = await self._folded(batch) if self._until == batch[0].position - 1 else None
        await self.land()
        if folded is not None and self._until == batch[0].position - 1:
            self._until, self._fresh = batch[-1].position, folded.fresh
            self._flying = asyncio.create_task(self._writer.write(batch, folded.foldings))
            return self._until
        reached = self.committed = await self._writer.advance(batch)
        # Only when all are level, and none has stopped, is it known what the next batch will be folded upon.
        self._until = reached if reached == batch[-1].position and not self._writer.stopped else -1
        self._fresh = {}
        return reached

    async def land(self) -> int:
        """Waits for the batch under way; returns up to where all is committed."""
        flying, self._flying = self._flying, None
        if flying is not None:
            try:
                self.committed = await flying
            except Overtaken:
                self._until = -1
                standings = (await self._writer.standings()).values()
                self.committed = min((standing.position for standing in standings if not standing.stopped), default=self.committed)
            except BaseException:
                self._until = -1
                raise
        return self.committed

    async def close(self) -> None:
        if self._flying is not None:
            await asyncio.gather(self._flying, return_exceptions=True)
        await self._reader.close()

    async def _folded(self, batch: Sequence[Recorded[Any]]) -> Folded | None:
        """The batch folded upon what the one under way leaves behind; None when a projection cannot, which the writer will deal with."""
        foldings: dict[str, Folding] = {}
        fresh: dict[str, Fresh] = {}
        first, kinds = batch[0].position, kinds_of(batch)
        try:
            for name, projection in self._writer.projections.items():
                if name in self._writer.led:
                    foldings[name], keys = await self._fold(projection, projection.concerning(batch, kinds))
                    rows = foldings[name].rows
                    fresh[name] = {key: row for key in keys if (row := rows.get(key)) is None or row[0] >= first}
        except ProjectionError:
            return None
        return Folded(foldings, fresh)

    async def _fold(self, projection: Projection, batch: Sequence[Recorded[Any]]) -> tuple[Folding, set[RowKey]]:
        keys = touched(projection, batch)
        fresh = self._fresh.get(projection.name, {})
        missing = keys - fresh.keys() if fresh else keys
        rows = await load_open(self._reader, projection, schema_name(projection.name, LIVE), missing) if missing else {}
        rows.update((key, row) for key in keys & fresh.keys() if (row := fresh[key]) is not None)
        folding = Folding(projection, rows)
        for start in range(0, len(batch), SLICE_EVENTS):
            folding.fold(batch[start : start + SLICE_EVENTS])
            await asyncio.sleep(0)
        return folding, keys
