"""What of an Aureus is backed up, what can be made again, and what is of the place alone: every table and file is in one list.

`tests/test_backup.py` fails when a table or a file appears that is in none of them.
"""

from __future__ import annotations

import re
from typing import Final

KEPT: Final = (
    "ledger.head",
    "ledger.events",
    "ledger.checkpoints",
    "ledger.requests",
    "ledger.cosignatures",
    "ledger.timestamps",
    "vault.wrapping",
    "vault.keys",
    "vault.disclosures",
    "vault.erased",
    "vault.accounted",
    "access_private.passwords",
    "access_private.second_factors",
    "access_private.recovery_codes",
    "access_private.last_used",
    "notifications_private.secrets",
    "notifications_private.deliveries",
    "notifications_private.queued",
    "hooks_private.secrets",
    "hooks_private.deliveries",
    "scim_private.users",
    "scim_private.groups",
    "streams.positions",
)
"""Backed up, in this order: nothing else says what they say."""
DERIVED: Final = (
    "ledger.tiles",
    "topics.chains",
    "topics.memory",
    "topics.marks",
    "projections.positions",
    "projections.ahead",
)
"""Made again from the events, as the read models are."""
OF_THE_PLACE: Final = (
    "packing.progress",
    "replays_private.places",
    "streams.workers",
    "backups.restored",
    "access_private.login_failures",
    "access_private.login_places",
)
"""Of these processes and this database, such as the login roles of its replays: elsewhere it would be untrue."""
READ_MODELS: Final = re.compile(r"(read|build|replay)_\w+")
"""Schemas of nothing but derived tables."""

FILES_KEPT: Final = ("blobs", "exports")
"""Of the home: each file under its SHA-256."""
FILES_WITH_KEYS: Final = ("keys", "demo-logins.json")
"""Secrets, which go into a backup on demand, and sealed."""
FILES_OF_THE_PLACE: Final = tuple(
    "postgres postgres.log postgres.log.1 postgres.lock witness archive cli.json cli.lock .keys-restored".split()
)
"""The database's own files, whose tables are backed up; the memory of the demo's witness, which must never be put back to what it
was; segments of the archive on their way to the store of artifacts; and who is logged in."""


def is_decided(table: str) -> bool:
    """Whether it is known what becomes of a table (`schema.name`) in a backup."""
    return table in {*KEPT, *DERIVED, *OF_THE_PLACE} or READ_MODELS.fullmatch(table.partition(".")[0]) is not None
