"""Backups on record: what Aureus itself says of them, what nobody says in its place, and what is said once."""

from __future__ import annotations

from typing import Any, Final

import pytest

from commands.backups import DECIDER, BackupCommand, BeginBackup, RecordBackup, RecordRestore
from domain.backups import BackupBegun, BackupTaken, LedgerRestored
from domain.kernel import Asker
from domain.values import ActorKind, Role
from tests.given import ADMIN, Given, given

ITSELF: Final = Asker("svc-reactions", "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE)
SHA: Final = "ab" * 32
WHOLE: Final[dict[str, Any]] = {"backup_id": "b", "size": 7, "root": SHA, "sha256": SHA}
FILE: Final[dict[str, Any]] = {**WHOLE, "size_bytes": 100, "artifacts": 2, "keys": False}
BEGIN, RECORD, RESTORE = BeginBackup(backup_id="b"), RecordBackup(**FILE), RecordRestore(**WHOLE, erasures=1)
BEGUN, TAKEN, RESTORED = BackupBegun(backup_id="b"), BackupTaken(**FILE), LedgerRestored(**WHOLE, erasures=1)


def backup(*history: Any) -> Given:
    return given(DECIDER, *history).by(ITSELF)


def test_a_backup_is_begun_and_then_written() -> None:
    backup().when(BEGIN).then(BEGUN)
    backup(BEGUN).when(RECORD).then(TAKEN)


def test_a_restored_ledger_knows_the_beginning_of_its_backup_and_says_once_that_it_was_restored() -> None:
    backup(BEGUN).when(RESTORE).then(RESTORED)
    backup().when(RESTORE).then(RESTORED)
    backup(BEGUN, RESTORED).when(RESTORE).refused("restore_recorded_already")
    other = RecordRestore(**{**WHOLE, "sha256": "cd" * 32}, erasures=0)
    assert backup(BEGUN, RESTORED).when(other).events, "from another file of the same backup, that is another fact"


@pytest.mark.parametrize("command", [BEGIN, RECORD, RESTORE])
def test_nobody_says_it_in_its_place(command: BackupCommand) -> None:
    backup(BEGUN).by(ADMIN).when(command).refused("only_aureus_itself")


def test_a_backup_has_an_id_of_its_own_and_ends_once() -> None:
    backup(BEGUN).when(BEGIN).refused("backup_exists", field="backup_id")
    backup().when(RECORD).refused("backup_not_begun", field="backup_id")
    backup(BEGUN, TAKEN).when(RECORD).refused("backup_not_begun")
