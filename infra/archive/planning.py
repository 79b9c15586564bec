"""What is sealed next: how far a segment goes, and what of the ledger's tree leads from it to a signed checkpoint."""

from __future__ import annotations

from typing import Final

from domain.archive import TILE_EVENTS
from infra.archive.segment import SEGMENT_BYTES, ArchiveError, Plan
from infra.proofs import Proofs
from infra.settings import SEGMENT_EVENTS_MAX
from infra.tiles import Tiles

_FITS: Final = """
    SELECT max(tile) FROM (
        SELECT (position - 1) / %(tile)s AS tile,
            sum(sum(octet_length(body) + octet_length(signatures))) OVER (ORDER BY (position - 1) / %(tile)s) AS bytes
        FROM ledger.events WHERE position BETWEEN %(first)s AND %(until)s GROUP BY 1
    ) AS tiles WHERE bytes <= %(most)s
"""


async def plan(ledger: str, tiles: Tiles, proofs: Proofs, first: int, until: int) -> Plan:
    """The segment from `first` on, up to `until` at most: both at the edges of tiles. Raises ArchiveError, LedgerUnavailable."""
    within = {"tile": TILE_EVENTS, "first": first, "until": min(until, first + SEGMENT_EVENTS_MAX - 1), "most": SEGMENT_BYTES}
    ((tile,),) = await tiles.fetch(_FITS, within)
    if tile is None:
        raise ArchiveError("ledger_tampered", f"No events are found from position {first} on.", "Run `aureus log fsck`.")
    last = (tile + 1) * TILE_EVENTS
    size = await proofs.signed_size(last)
    note = await proofs.checkpoint(size) if size is not None else None
    if size is None or note is None:
        raise ArchiveError("ledger_tampered", f"No checkpoint covers position {last}.", "Run `aureus log fsck`.")
    # The path of a tree's last leaf leads over all that was full before it, the smallest first.
    before = (await tiles.tree(first, first - 1)).inclusion(first - 1)[::-1]
    grown = await proofs.consistency(last, size)
    return Plan(
        ledger=ledger,
        first=first,
        last=last,
        before=tuple(value.hex() for value in before),
        root=grown.old_root.hex(),
        checkpoint=note.decode(),
        checkpoint_size=size,
        consistency=tuple(value.hex() for value in grown.hashes),
    )
