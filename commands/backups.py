"""What may be asked of backups: that Aureus itself puts on record what it copied out of its place, and what it was put back from."""

from typing import Final, assert_never

from domain.backups import (
    KEEPER,
    Backup,
    BackupBegun,
    BackupEvent,
    BackupId,
    BackupTaken,
    Count,
    LedgerRestored,
    Position,
    evolve,
)
from domain.kernel import Asked, Command, Decider, require
from domain.values import Role, Sha256

ITSELF: Final = frozenset({Role.ADMIN})
"""The role that the platform's own service holds; nobody else gets past `_require_itself`."""


class BeginBackup(Command, name="backups.begin_backup", roles=ITSELF):
    """Put on record that a backup is taken from here on."""

    restrains = True  # it grants nothing: what is known is put on record, whether or not the policies can answer

    backup_id: BackupId


class RecordBackup(Command, name="backups.record_backup", roles=ITSELF):
    """Put on record what was written: the file's SHA-256, and how many events it holds."""

    restrains = True

    backup_id: BackupId
    size: Position
    root: Sha256
    sha256: Sha256
    size_bytes: Count
    artifacts: Count
    keys: bool


class RecordRestore(Command, name="backups.record_restore", roles=ITSELF):
    """Put on record that this ledger was put back from a backup."""

    restrains = True

    backup_id: BackupId
    size: Position
    root: Sha256
    sha256: Sha256
    erasures: Count


BackupCommand = BeginBackup | RecordBackup | RecordRestore


def decide(backup: Backup, command: BackupCommand, asked: Asked) -> list[BackupEvent]:
    require(
        asked.by.actor == KEEPER,
        "only_aureus_itself",
        "Aureus itself says what it has backed up and restored; nobody says it in its place.",
        remedy="Run `aureus backup` where Aureus runs: the record follows.",
    )
    match command:
        case BeginBackup():
            require(
                backup.status == "unknown",
                "backup_exists",
                f"There is a backup {command.backup_id} already.",
                field="backup_id",
                remedy="Take another one, under an id of its own.",
            )
            return [BackupBegun(backup_id=command.backup_id)]
        case RecordBackup():
            require(
                backup.status == "begun",
                "backup_not_begun",
                f"Backup {command.backup_id} is {backup.status}: only one that was begun can be finished.",
                field="backup_id",
                remedy="Take another one.",
            )
            return [BackupTaken(**command.model_dump())]
        case RecordRestore():
            require(
                (backup.status, backup.sha256) != ("restored", command.sha256),
                "restore_recorded_already",
                f"That this ledger was restored from {command.backup_id} is on record already.",
                field="backup_id",
                remedy="Nothing is left to do.",
            )
            return [LedgerRestored(**command.model_dump())]
        case _:
            assert_never(command)


DECIDER: Final[Decider[Backup, BackupCommand, BackupEvent]] = Decider(
    context="backups",
    category="backup",
    initial=Backup(),
    evolve=evolve,
    decide=decide,
    commands=(BeginBackup, RecordBackup, RecordRestore),
    events=(BackupBegun, BackupTaken, LedgerRestored),
    entity=lambda command: command.backup_id,
)
