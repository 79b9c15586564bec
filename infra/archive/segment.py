"""What a segment is made of: a Parquet file of events, the tiles over them, and a manifest that says what each byte belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Final

import orjson

from domain.kernel import JsonObject
from infra.merkle import Frontier

VERSION: Final = 1
SEGMENT_BYTES: Final = 48 * 1024 * 1024
"""Of bodies and signatures, at most: the file stays below what a blob may hold, even if nothing of it can be compressed."""
ROW_GROUP_EVENTS: Final = 8_192
COLUMNS: Final = ("position", "tenant", "stream", "version", "type", "at", "body", "signatures", "leaf")
STRUCTURE: Final = "structure"
"""The part of a Parquet file that belongs to no column: its marks, its Bloom filters and its footer."""


class ArchiveError(Exception):
    """A segment that cannot be written, read or asked: a stable code, what was found, and what would help."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(f"{message} {remedy}")
        self.code, self.message, self.remedy = code, message, remedy


def too_large() -> ArchiveError:
    message = "The question needs more memory or processor time than it may have."
    return ArchiveError("query_too_large", message, "Ask for less: group, or narrow the positions with `after` and `until`.")


@dataclass(frozen=True, slots=True)
class Plan:
    """A range to be sealed, and what of the ledger's tree leads from it to a signed checkpoint.

    `before` are the roots of the full subtrees of the first `first - 1` leaves, the largest first; `root` is the root at size
    `last`; `consistency` leads from there to the checkpoint. Hashes are hex.
    """

    ledger: str
    first: int
    last: int
    before: tuple[str, ...]
    root: str
    checkpoint: str
    checkpoint_size: int
    consistency: tuple[str, ...]

    @classmethod
    def load(cls, said: JsonObject) -> Plan:
        """From its JSON. Raises TypeError on what is no plan."""
        fields: JsonObject = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
        return cls(**fields)

    def root_of(self, leaves: Sequence[bytes]) -> str:
        """The root that these leaves come to behind what was there before them."""
        peaks = b"".join(map(bytes.fromhex, self.before))
        return Frontier.load(self.first - 1, peaks).extend(leaves).root().hex()


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of the Parquet file: the values of one column at these positions, or its structure."""

    column: str
    first: int
    last: int
    offset: int
    size: int
    sha256: str

    def holds(self, content: bytes) -> bool:
        return sha256(content[self.offset : self.offset + self.size]).hexdigest() == self.sha256

    def __str__(self) -> str:
        span = f"bytes {self.offset} to {self.offset + self.size - 1}"
        if self.column == STRUCTURE:
            return f"its structure, {span}"
        return f"the {self.column} of positions {self.first} to {self.last}, {span}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a segment holds, as it is kept: canonical JSON under its SHA-256."""

    plan: Plan
    parquet_sha256: str
    parquet_bytes: int
    parts: tuple[Part, ...]
    tiles_sha256: str

    def content(self) -> bytes:
        said = {
            "v": VERSION,
            **asdict(self.plan),
            "parquet": {"sha256": self.parquet_sha256, "bytes": self.parquet_bytes, "parts": [asdict(part) for part in self.parts]},
            "tiles": {"sha256": self.tiles_sha256},
        }
        return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def load(cls, content: bytes) -> Manifest:
        """Raises ArchiveError on what is no manifest of this version."""
        try:
            said: JsonObject = orjson.loads(content)
            if said.pop("v") != VERSION:
                raise ValueError("it is of another version")
            parquet, tiles = said.pop("parquet"), said.pop("tiles")
            parts = tuple(Part(**part) for part in parquet["parts"])
            return cls(Plan.load(said), parquet["sha256"], parquet["bytes"], parts, tiles["sha256"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "Read it with the version of Aureus that wrote it, or restore it from a backup."
            raise ArchiveError("manifest_unreadable", f"This is no manifest that can be read here: {error}.", remedy) from error

    def damaged(self, content: bytes) -> Iterator[str]:
        """Which parts of the Parquet file are not what was written."""
        if len(content) != self.parquet_bytes:
            yield f"it has {len(content)} bytes, and had {self.parquet_bytes}"
        for part in self.parts:
            if not part.holds(content):
                yield str(part)
