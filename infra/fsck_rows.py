"""What several processes check of a ledger's database at once: its entries, and the signatures on its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psycopg

from infra.envelope import entry_bytes
from infra.verifier.keys import Key
from infra.verifier.notes import LOG, BadNote, VerifierKey, log_signed, parse_checkpoint, parse_note

_ENTRIES: Final = "SELECT position, body, signatures FROM ledger.events WHERE position > %s AND position <= %s ORDER BY position"
_NOTES: Final = "SELECT size, note FROM ledger.checkpoints WHERE size > %s AND size <= %s ORDER BY size"


@dataclass(frozen=True, slots=True)
class Rows:
    """A stretch of the table of events, read by whoever checks it."""

    dsn: str
    after: int
    until: int

    def read(self) -> Iterator[tuple[int, bytes]]:
        """(position, entry) of each row."""
        with psycopg.connect(self.dsn) as connection:
            rows = connection.execute(_ENTRIES, (self.after, self.until), binary=True).fetchall()
        for position, body, signatures in rows:
            try:
                yield position, entry_bytes(body, signatures)
            except ValueError:
                yield position, b""  # no envelope can be made of it, and the verifier says so

    def where(self, _position: int) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class SignedRoot:
    """A stored checkpoint: the root it signs, or what is wrong with it."""

    size: int
    root: bytes = b""
    wrong: str | None = None


def signed_roots(dsn: str, origin: str, keys: list[Key], after: int, until: int) -> list[SignedRoot]:
    """The stored checkpoints of these sizes, in order; `keys` are all the log keys there ever were."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(_NOTES, (after, until), binary=True).fetchall()
    return [signed_root(origin, keys, size, note) for size, note in rows]


def signed_root(origin: str, keys: list[Key], size: int, note: bytes) -> SignedRoot:
    """What a stored checkpoint signs, by the log key of its time."""
    try:
        parsed = parse_note(note)
        said = parse_checkpoint(parsed.text)
        if (said.origin, said.size) != (origin, size):
            raise BadNote(f"it is of {said.origin} with {said.size} events")
        if not any(log_signed(parsed, VerifierKey(origin, LOG, key.public)) for key in keys if key.signs_at(size)):
            raise BadNote("no log key that was valid then has signed it")
    except BadNote as error:
        return SignedRoot(size, wrong=str(error))
    return SignedRoot(size, said.root)
