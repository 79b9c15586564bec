"""The plan of a pack: all that is settled before its first byte is written, so that whoever goes on with it writes the same bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from domain.kernel import JsonObject
from infra.durable import write_whole

FILE: Final = "plan.json"


class BuildFailed(Exception):
    """A pack cannot be written as the ledger stands: a stable code, and what was found where."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pack will hold. `selection`, `profile` and `index` read as in the manifest; positions are (after, until]."""

    export_id: str
    tenant: str
    ledger: str
    recipient: str
    created_at: str
    software: str
    scope: str
    selection: JsonObject
    profile: JsonObject
    views: tuple[str, ...]
    artifacts: bool
    after: int
    until: int
    checkpoint_size: int
    checkpoint: str
    """The note, with its cosignatures."""
    timestamps: dict[str, str]
    """By authority: the DER of its answer, base64."""
    service_key: str
    """Id of the key that will sign the manifest: the one that was in force at the checkpoint."""
    erasures: int = 0
    """How many erasures the tenant had seen, all of them certified at positions up to the checkpoint."""
    index: JsonObject | None = None

    @property
    def everything(self) -> bool:
        return self.scope == "everything"

    @property
    def horizon(self) -> int:
        """The last position that the pack accounts for."""
        return self.checkpoint_size if self.index is None else int(self.index["size"])

    @property
    def whole(self) -> bool:
        """Whether it is about all of the tenant's events from the first on, and holds none of them back."""
        return self.after == 0 and not any(self.selection.values()) and not self.profile["withhold_types"]

    def save(self, folder: Path) -> None:
        write_whole(folder / FILE, orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))

    @classmethod
    def load(cls, folder: Path) -> Plan | None:
        """The plan in a folder; None when there is none."""
        try:
            fields = orjson.loads((folder / FILE).read_bytes())
        except FileNotFoundError:
            return None
        return cls(**{**fields, "views": tuple(fields["views"])})
