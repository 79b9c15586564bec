"""What a tenant had erased, and where it is certified: so that a pack says of every value whether it is shown, withheld or gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from infra.packing.reading import Connection, connected
from infra.vault import ALL_PURPOSES

# Of one subject one order is out at a time: the first certificate behind it is its own. What a restore carried out again was ordered
# in a ledger that went on after the backup: in this one nothing stands at that position that would ever be certified.
_ERASED: Final = """
    SELECT e.subject, e.purpose, e.until, (
        SELECT c.position FROM ledger.events c
        WHERE c.tenant = e.tenant AND c.stream = o.stream AND c.type = 'subjects.subject_erased' AND c.version > o.version
        ORDER BY c.version LIMIT 1
    ) FROM vault.erased e JOIN ledger.events o
        ON o.position = e.ordered_position AND o.tenant = e.tenant AND o.stream = 'subject:' || e.subject
            AND o.type = 'subjects.erasure_ordered'
    WHERE e.tenant = %s ORDER BY e.ordered_position, e.purpose
"""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was kept of a subject for a purpose in events up to `until` is gone; None for a certificate that is still to come."""

    subject: str
    purpose: str
    until: int
    certificate: int | None


class Erasures:
    """Those of one tenant, to be looked up by whose value it was, and for what it was kept."""

    def __init__(self, found: Iterable[Erasure]) -> None:
        self._found: dict[tuple[str, str], list[Erasure]] = {}
        for one in found:
            self._found.setdefault((one.subject, one.purpose), []).append(one)

    def __bool__(self) -> bool:
        return bool(self._found)

    def certificate(self, position: int, owners: Iterable[tuple[str, str]]) -> int | None:
        """The position of the first certificate that covers an event here, of one of these (subject, purpose)."""
        covering = [
            one.certificate
            for subject, purpose in owners
            for kept_for in (purpose, ALL_PURPOSES)
            for one in self._found.get((subject, kept_for), ())
            if one.certificate is not None and position <= one.until
        ]
        return min(covering, default=None)


def erasures_of(connection: Connection, tenant: str) -> list[Erasure]:
    return [Erasure(*row) for row in connection.execute(_ERASED, (tenant,))]


def erased_in(dsn: str, tenant: str) -> list[Erasure]:
    """The erasures of a tenant, as they stand now."""
    with connected(dsn) as connection:
        return erasures_of(connection, tenant)


def accounted_from(connection: Connection) -> int:
    """Behind this position every digest has its value in the vault, or a certificate."""
    row = connection.execute("SELECT position FROM vault.accounted").fetchone()
    return int(row[0]) if row else 0
