"""Personal values beside a pack's entries: opened for the purposes that its recipient may see, else named and withheld, or gone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from domain.kernel import JsonObject
from infra.key_encryption import KekMissing, KeyEncryptionKeys
from infra.packing.erased import Erasures
from infra.packing.plan import BuildFailed
from infra.packing.reading import Connection, Positions, connected, copied, within
from infra.personal import subjects_of
from infra.vault import VaultError, is_decoy, opened
from infra.vault_keys import FIND_KEYS, SubjectKey, columns

_WITH_FIELDS: Final = """
    SELECT position, body FROM ledger.events WHERE {within} AND substr(body, 1, 9) <> '{{"_sd":[]'::bytea ORDER BY position
"""
_SEALED: Final = """
    SELECT position, name, tenant, subject, purpose, sealed FROM vault.disclosures WHERE {within} ORDER BY position, name
"""


@dataclass(frozen=True, slots=True)
class VaultPlace:
    """What opens the vault for one who only reads: the key-encryption keys, and the database that has the wrapped ones."""

    keks: KeyEncryptionKeys
    keys_dsn: str

    def keys_of(self, owners: Collection[SubjectKey]) -> dict[SubjectKey, tuple[bytes, str]]:
        with connected(self.keys_dsn) as connection:
            rows = connection.execute(FIND_KEYS, columns(owners), binary=True)
            return {(tenant, subject, purpose): (wrapped, kek) for tenant, subject, purpose, wrapped, kek in rows}


def disclosures(
    connection: Connection, chosen: Positions, vault: VaultPlace, purposes: Collection[str], erasures: Erasures
) -> Iterator[JsonObject]:
    """A line for each personal value of the chosen events, decoys included: these are shown to everybody, for they are nobody's.

    Of a value that is gone, the position of the certificate; of one that is gone without, nothing: whoever verifies misses it.
    """
    query = _SEALED.format(within=within(chosen)).encode()
    lines = list(_kept(connection.execute(query, binary=True).fetchall(), vault, purposes))
    told = {(line["position"], line["digest"]) for line in lines}
    for position, certificate, digests in _gone(connection, chosen, erasures):
        erased = {"certificate": certificate, "position": position, "state": "erased"}
        lines += [{**erased, "digest": digest} for digest in digests if (position, digest) not in told]
    yield from sorted(lines, key=lambda line: int(line["position"]))


def certificates(connection: Connection, chosen: Positions, erasures: Erasures) -> set[int]:
    """Positions of the certificates that the lines of these events may name."""
    return {certificate for _, certificate, _ in _gone(connection, chosen, erasures)}


def _gone(connection: Connection, chosen: Positions, erasures: Erasures) -> Iterator[tuple[int, int, list[str]]]:
    """(position, certificate, all digests) of the events of which something was erased."""
    if not erasures:
        return
    for position, body in copied(connection, _WITH_FIELDS.format(within=within(chosen)), ["int8", "bytea"]):
        member = orjson.loads(body)
        certificate = erasures.certificate(position, subjects_of(member["type"], member["data"]))
        if certificate is not None:
            yield position, certificate, member["_sd"]


def _kept(rows: Sequence[tuple[Any, ...]], vault: VaultPlace, purposes: Collection[str]) -> Iterator[JsonObject]:
    keys = vault.keys_of({_owner(row) for row in rows}) if rows else {}
    for row in rows:
        position, name, *_, sealed = row
        if (wrapped := keys.get(_owner(row))) is None:
            continue
        try:
            plain = opened(vault.keks, _owner(row), name, sealed, wrapped)
        except (VaultError, KekMissing) as error:
            raise BuildFailed("vault_damaged", f"The field {name} of position {position} cannot be told: {error}.") from error
        encoded = _base64url(plain)
        line = {"digest": _base64url(hashlib.sha256(encoded.encode()).digest()), "name": name, "position": position}
        yield {**line, "state": "open", "disclosure": encoded} if row[4] in purposes or is_decoy(name) else {**line, "state": "withheld"}


def _owner(row: tuple[Any, ...]) -> SubjectKey:
    return row[2], row[3], row[4]


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
