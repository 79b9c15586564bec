"""Which fields of a row are masked for whom: asked of the policies in force, once for everybody who is alike to them.

A masked field is null where a row is shown, and cannot be used: not to filter, sort or search by, nor by what is worked out from rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from commands.policies import DECIDER
from commands.policy import ENGINE, PolicyPort
from domain.kernel import Asker, Decider, JsonObject, Refused
from domain.policies import PolicySet
from infra.ledger import Ledger
from infra.policy_bundle import DATA_FILE, Problem

FIELD_MASKED: Final = "field_masked"
LOOKED_AT_SECONDS: Final = 0.5
"""So often is looked whether a tenant's policies are still the same: what another process activates holds here within a second."""
_STREAM: Final = "policyset:active"
_DECIDER: Final[Decider[Any, Any, Any]] = DECIDER

CARRIED: Final[Mapping[str, frozenset[str]]] = {
    "actions": frozenset({"facts", "intent", "message", "outputs", "snapshot"}),
    "approvals": frozenset({"inputs"}),
    "dead_letters": frozenset({"inputs", "message"}),
}
"""What was asked for, in rows about it, holds what rows hold: it is masked wherever anything is."""

MASKABLE: Final[Mapping[str, frozenset[str]]] = {
    "agents": frozenset({"model", "provider", "purpose"}),
    "api_keys": frozenset({"issued_by", "label", "secret_sha256"}),
    "budgets": frozenset({"available_minor", "limit_minor", "reserved_minor", "spent_minor"}),
    "dataset_usage": frozenset({"query_count"}),
    "datasets": frozenset({"contract", "deprecation_reason", "description", "owner_ids", "owners", "registered_by", "tags"}),
    "reservations": frozenset({"amount_minor", "spent_minor"}),
}
"""What policies may mask, by table; all of it is while they give no answer. Rows of these tables leave through `Reader` alone. Nothing
that a row is found by - its id, its domain, whose it is - can be masked."""


class MaskedRow(dict[str, Any]):
    """A row with masked fields. Shown as a whole, they are null; whoever works with one is refused."""

    def __init__(self, row: JsonObject, table: str, masked: frozenset[str]) -> None:
        super().__init__(row, **dict.fromkeys(masked & row.keys()))
        self._table, self._masked = table, masked

    def __getitem__(self, name: str) -> Any:
        if name in self._masked:
            raise field_masked(self._table, name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        if name in self._masked:
            raise field_masked(self._table, name)
        return super().get(name, default)


def field_masked(table: str, name: str, *, parameter: str | None = None) -> Refused:
    """The refusal to use what is not shown; `parameter` is what named it, if that is not the field itself."""
    return Refused(
        FIELD_MASKED,
        f"{name} of {table.replace('_', ' ')} is masked for you, so nothing here goes by it.",
        field=parameter or name,
        rule=f"whoever is not shown {name} cannot use it",
        remedy="Leave it out. Or ask somebody whom the policies show it to.",
    )


def misnamed(data: JsonObject) -> list[Problem]:
    """What the lists of policies would mask and cannot, so that nobody takes a slip of the pen for a mask."""
    bank = data.get("bank")
    named = bank.get("fields") if isinstance(bank, dict) else None
    return [
        Problem(DATA_FILE, 1, f"`fields` names {name} of {table}, which cannot be masked: docs/access.md lists what can be")
        for table, whom in (named.items() if isinstance(named, dict) else ())
        for name in (sorted(whom.keys() - MASKABLE.get(table, frozenset())) if isinstance(whom, dict) else ["no fields"])
    ]


@dataclass(frozen=True, slots=True)
class _InForce:
    """The policies of one tenant as of one version of their stream, and what they have said."""

    version: int
    policies: PolicySet
    said: dict[tuple[object, ...], frozenset[str]] = field(default_factory=dict)


class Fields:
    """Asks the policies in force which fields are masked."""

    def __init__(self, ledger: Ledger, policy: PolicyPort) -> None:
        self._ledger, self._policy = ledger, policy
        self._in_force: dict[str, _InForce] = {}
        self._good_until: dict[str, float] = {}
        self._looking = asyncio.Lock()

    async def masked(self, asker: Asker, table: str) -> frozenset[str]:
        """The fields of a table that the asker is not shown. Where no answer comes, that is all that can be masked, and is asked again."""
        if table in CARRIED:
            return CARRIED[table] if [each for each in MASKABLE if await self._masked(asker, each)] else frozenset()
        return await self._masked(asker, table) if table in MASKABLE else frozenset()

    async def _masked(self, asker: Asker, table: str) -> frozenset[str]:
        in_force = await self._policies(asker.tenant)
        key = (asker.roles, asker.kind, asker.domains is None, table)
        if (known := in_force.said.get(key)) is not None:
            return known
        verdict = await (await self._policy.rulebook(in_force.policies)).check(_question(asker, table))
        if any(result.policy == ENGINE for result in verdict.results):
            return MASKABLE[table]
        return in_force.said.setdefault(key, frozenset(verdict.masked) & MASKABLE[table])

    async def require_whole(self, asker: Asker) -> None:
        """Refused with the first field that the asker is not shown, in whatever table: for what shows the history of everything."""
        for table in MASKABLE:
            for name in sorted(await self.masked(asker, table)):
                raise field_masked(table, name)

    async def _policies(self, tenant: str) -> _InForce:
        if self._now() < self._good_until.get(tenant, 0.0):
            return self._in_force[tenant]
        async with self._looking:
            if self._now() >= self._good_until.get(tenant, 0.0):
                await self._look(tenant)
        return self._in_force[tenant]

    async def _look(self, tenant: str) -> None:
        """One row tells whether anything has changed; only then is the stream read."""
        looked_at, key = self._now(), (tenant, _STREAM)
        version = (await self._ledger.store.stream_heads([key])).get(key, (0, b""))[0]
        known = self._in_force.get(tenant)
        if known is None or known.version != version:
            history = await self._ledger.read_stream(*key)
            policies: PolicySet = _DECIDER.replay(recorded.event for recorded in history)
            self._in_force[tenant] = _InForce(history[-1].version if history else 0, policies)
        self._good_until[tenant] = looked_at + LOOKED_AT_SECONDS

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _question(asker: Asker, table: str) -> JsonObject:
    """As for a command: classes, never ids."""
    actor: JsonObject = {"roles": sorted(asker.roles), "kind": asker.kind.value}
    if asker.domains is not None:
        actor["bounded"] = True
    return {
        "action": f"read.{table}",
        "actor": actor,
        "tenant": asker.tenant,
        "facts": {"fields": sorted(MASKABLE[table])},
        "has_reason": False,
        "evidence": {"kinds": [], "failed_tests": 0},
        "recent": 0,
    }
