"""Personal values beside a pack's entries: opened for the purposes that its recipient may see, else named and withheld."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterator
from typing import Final

from domain.kernel import JsonObject
from infra.packing.plan import BuildFailed
from infra.packing.reading import Connection, Positions, within
from infra.vault import VaultError, opened

_SEALED: Final = """
    SELECT position, name, tenant, subject, purpose, sealed, wrapped FROM vault.disclosures JOIN vault.keys USING (tenant, subject, purpose)
    WHERE {within} ORDER BY position, name
"""


def disclosures(connection: Connection, chosen: Positions, vault_key: bytes, purposes: Collection[str]) -> Iterator[JsonObject]:
    """A line for each personal value of the chosen events; what is erased already left nothing that could be told."""
    query = _SEALED.format(within=within(chosen)).encode()
    for position, name, tenant, subject, purpose, sealed, wrapped in connection.execute(query, binary=True):
        try:
            plain = opened(vault_key, (tenant, subject, purpose), name, sealed, wrapped)
        except VaultError as error:
            raise BuildFailed("vault_damaged", f"The field {name} of position {position} cannot be told: {error}.") from error
        encoded = _base64url(plain)
        line = {"digest": _base64url(hashlib.sha256(encoded.encode()).digest()), "name": name, "position": position}
        yield {**line, "state": "open", "disclosure": encoded} if purpose in purposes else {**line, "state": "withheld"}


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
