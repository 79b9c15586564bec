"""The policies that come with Aureus become the tenant's own at the first start, so that they are governed like any other."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Protocol

from commands.path import Ask, CommandPath
from commands.policies import DECIDER, AdoptDefaults, WrittenPolicy
from domain.kernel import Asker, Recorded
from domain.ledger import LedgerPort
from domain.values import ActorKind, Role, uuid7
from infra.demo import BOOTSTRAP_ACTOR
from infra.policy_sets import STREAM, GovernedPolicies
from infra.settings import Settings, SettingsError

_KEY: Final = "policies:defaults"


class Services(Protocol):
    """What adopting needs of what was opened."""

    @property
    def settings(self) -> Settings: ...

    @property
    def ledger(self) -> LedgerPort: ...

    @property
    def path(self) -> CommandPath: ...

    @property
    def policy(self) -> GovernedPolicies: ...


async def ensure_policies(services: Services) -> None:
    """Adopts the shipped policies unless the tenant has its own; raises SettingsError when they refuse that themselves."""
    tenant = services.settings.tenant
    history: list[Recorded[Any]] = await services.ledger.read_stream(tenant, STREAM)
    if DECIDER.replay(recorded.event for recorded in history).adopted:
        return
    shipped = services.policy.shipped.active()
    command = AdoptDefaults(policies=tuple(WrittenPolicy(policy_id=policy.policy_id, **policy.text()) for policy in shipped))
    bootstrap = Asker(BOOTSTRAP_ACTOR, tenant, frozenset({Role.ADMIN}), ActorKind.SERVICE)
    ask = Ask(command, bootstrap, uuid7(), datetime.now(UTC), idempotency_key=_KEY, reason="The policies that come with Aureus.")
    outcome = await services.path.handle(ask)
    if outcome.outcome != "allowed":
        raise SettingsError(
            "AUREUS_POLICIES",
            f"the policies refuse to be adopted: {outcome.message or 'they want it approved'}",
            "Let svc-bootstrap adopt them: allow services the context `policies`.",
        )
