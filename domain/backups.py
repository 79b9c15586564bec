"""Backups: what was copied out of the ledger's place to be kept elsewhere, and that the ledger itself was put back from one.

A backup holds its own beginning, so a ledger that was restored knows which copy it comes from.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, assert_never

from pydantic import Field, StringConstraints

from domain.kernel import Event
from domain.values import MAX_SAFE_INTEGER, Sha256

KEEPER: Final = "svc-reactions"
"""Says what was backed up and restored: Aureus itself, and nobody else."""

Count = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, strict=True)]
Position = Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER, strict=True)]
BackupId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class BackupBegun(Event, name="backups.backup_begun"):
    """A backup is taken from here on: it holds this event, and as a rule nothing after it."""

    backup_id: BackupId


class BackupTaken(Event, name="backups.backup_taken"):
    """The backup is written: a file with this SHA-256, which holds the first `size` events, whose tree has this root.

    With `keys`, the private keys are in it, sealed under a passphrase.
    """

    backup_id: BackupId
    size: Position
    root: Sha256
    sha256: Sha256
    size_bytes: Count
    artifacts: Count
    keys: bool


class LedgerRestored(Event, name="backups.ledger_restored"):
    """This ledger was put back from the backup, which held its first `size` events; what came after them is not here.

    `erasures` certificates of a later time were carried out again before anything was served.
    """

    backup_id: BackupId
    size: Position
    root: Sha256
    sha256: Sha256
    erasures: Count


BackupEvent = BackupBegun | BackupTaken | LedgerRestored
Status = Literal["unknown", "begun", "taken", "restored"]


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup, and whether this ledger comes from it."""

    status: Status = "unknown"
    sha256: str = ""


def evolve(backup: Backup, event: BackupEvent) -> Backup:
    match event:
        case BackupBegun():
            return replace(backup, status="begun")
        case BackupTaken():
            return Backup("taken", event.sha256)
        case LedgerRestored():
            return Backup("restored", event.sha256)
        case _:
            assert_never(event)
