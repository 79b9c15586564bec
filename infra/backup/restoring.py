"""Putting a ledger back: into an empty database, in one transaction, each table compared with the backup before it counts.

From the first moment the database bears a mark under which nothing serves from it. Killed at any time, it is begun again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import psycopg
from psycopg import sql

from infra.backup.contents import DERIVED, KEPT, OF_THE_PLACE, READ_MODELS
from infra.backup.copying import Columns, Connection, columns_of, copied_in, copied_out
from infra.backup.manifest import TableOf
from infra.backup.reading import Backup, BadBackup
from infra.backup.taking import Report, full_of
from infra.schema import create_schema
from infra.settings_error import SettingsError
from infra.webhooks import SCHEMA as WEBHOOKS

_KNOWN: Final = "SELECT to_regclass('ledger.head') IS NOT NULL, to_regclass('backups.restored') IS NOT NULL"
_MARK: Final = """
    INSERT INTO backups.restored (backup_id, sha256, size, root) VALUES (%s, %s, %s, %s)
    ON CONFLICT (one) DO UPDATE SET backup_id = excluded.backup_id, sha256 = excluded.sha256, size = excluded.size, root = excluded.root,
        began_at = now(), erasures = 0, recorded = false
"""
_FINISH: Final = "UPDATE backups.restored SET finished_at = now(), erasures = %s"


async def begin(dsn: str, backup: Backup, sha256: str) -> None:
    """Marks an empty database, or one whose restore was not finished, which is emptied. Raises SettingsError for any other."""
    said = backup.manifest
    with _connected(dsn) as connection:
        _empty_again(connection, said.ledger)
    await create_schema(dsn)
    with _connected(dsn) as connection, connection.transaction():
        connection.execute("LOCK TABLE ledger.head IN ACCESS EXCLUSIVE MODE")
        _require_empty(connection, said.ledger)
        connection.execute(_MARK, (said.backup_id, sha256, said.size, said.root))


def load(dsn: str, backup: Backup, report: Report) -> None:
    """Fills the tables, all or none of them. Raises SettingsError, and BadBackup for what does not fit into them."""
    said = backup.manifest
    total, done = sum(table.rows for table in said.tables), 0
    with _connected(dsn) as connection:
        with connection.transaction():
            connection.execute(WEBHOOKS)
            for table in said.tables:
                _fill(connection, backup, table)
                done += table.rows
                report("rows", done, total)
        for table in said.tables:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*table.table.split("."))))


def finish(dsn: str, erasures: int) -> None:
    """Takes the mark away: from here on the database may be served from."""
    with _connected(dsn) as connection:
        connection.execute(_FINISH, (erasures,))


def _fill(connection: Connection, backup: Backup, table: TableOf) -> None:
    columns: Columns = tuple((column[0], column[1]) for column in table.columns)
    if table.table not in KEPT:
        raise BadBackup(table.table, "this version of Aureus knows no such table: restore with the one that wrote the backup")
    if odd := set(columns) - set(columns_of(connection, table.table)):
        raise BadBackup(table.table, f"this version of Aureus has no column {' '.join(min(odd))} in it")
    if not table.table.startswith("ledger."):
        # What is made with the table itself, such as where a follower begins, gives way to what was.
        connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(*table.table.split("."))))
    copied_in(connection, table.table, columns, backup.pieces(table))
    found = (piece.data for piece in copied_out(connection, table.table, columns, full_of(table.table)))
    for number, (wanted, there) in enumerate(_side_by_side(backup.pieces(table), found)):
        if wanted != there:
            raise BadBackup(table.table, f"piece {number} of it came back from the database as other bytes than it went in")


def _side_by_side(one: Iterator[bytes], other: Iterator[bytes]) -> Iterator[tuple[bytes | None, bytes | None]]:
    while True:
        pair = next(one, None), next(other, None)
        if pair == (None, None):
            return
        yield pair


def _empty_again(connection: Connection, origin: str) -> None:
    """Drops what an unfinished restore left; refuses any other ledger."""
    has_head, has_mark = connection.execute(_KNOWN).fetchone() or (False, False)
    unfinished = has_mark and connection.execute("SELECT 1 FROM backups.restored WHERE finished_at IS NULL").fetchone() is not None
    if has_head and not unfinished:
        _require_empty(connection, origin)
    if unfinished:
        known = {table.partition(".")[0] for table in (*KEPT, *DERIVED, *OF_THE_PLACE)} - {"backups"}
        found = [row[0] for row in connection.execute("SELECT nspname::text FROM pg_namespace").fetchall()]
        for schema in found:
            if schema in known or READ_MODELS.fullmatch(schema):
                connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))


def _require_empty(connection: Connection, origin: str) -> None:
    head = connection.execute("SELECT origin, size FROM ledger.head").fetchone()
    if head is not None:
        what = "the same ledger" if head[0] == origin else f"the ledger {head[0]}"
        raise SettingsError(
            "DATABASE_URL",
            f"it holds {what} with {head[1]} events already, and the backup is of {origin}: nothing is ever restored over a ledger.",
            "Name an empty database, or for the embedded one an AUREUS_HOME without `postgres/`.",
        )


def _connected(dsn: str) -> Connection:
    try:
        return psycopg.connect(dsn, autocommit=True)
    except psycopg.OperationalError as error:
        rule = f"the database cannot be reached: {error}"
        raise SettingsError("DATABASE_URL", rule, "Check the address, the password and the server.") from error
