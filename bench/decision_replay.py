"""`decision_replay`: ten thousand past decisions asked again under other policies, from the ledger's bytes to what flips."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from api.services import deciders
from bench.append import ledger
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from commands.budgets import OpenBudget
from commands.catalog import RegisterDataset
from commands.path import Ask, CommandPath
from domain.catalog import Environment, Jurisdiction, PiiLevel
from domain.kernel import Asker, Command
from domain.policies import PolicyProposed, Rule, Scope
from domain.values import Role, uuid7
from infra.decision_replay import Range
from infra.examining import Job, examine
from infra.policy import DEFAULT_BUNDLE
from infra.policy_bundle import Bundle
from infra.policy_sets import GovernedPolicies

DECISIONS: Final = 10_000
SECONDS_MAX: Final = 6.0
IN_FLIGHT: Final = 64
TENANT: Final = "acme"
_ADMIN: Final = Asker("usr-adm", TENANT, frozenset({Role.ADMIN, Role.ANALYST}))
_STRICTER: Final = PolicyProposed(
    policy_id="no_francs",
    version=1,
    owner="usr-adm",
    sha256="0" * 64,
    type="access",
    title="No francs",
    scope=Scope(actions=("budgets.open_budget",)),
    rule=Rule(outcome="block", reason="Not in this currency."),
)


def asked() -> Iterator[Command]:
    """Half budgets of every size, half datasets of every class: thousands of questions that are not alike."""
    classes = itertools.cycle(itertools.product(range(120), PiiLevel, Jurisdiction, Environment))
    for number, (domain, pii, jurisdiction, environment) in enumerate(classes):
        limit_minor = (1 + number % 97) * 10 ** (number % 7)
        yield OpenBudget(budget_id=f"b{number}", label="B", currency="CHF" if number % 3 else "EUR", limit_minor=limit_minor)
        yield RegisterDataset(
            dataset_id=f"d{number}",
            name="d",
            domain=f"domain-{domain}",
            pii_level=pii,
            jurisdiction=jurisdiction,
            environment=environment,
        )


async def _decide(path: CommandPath, decisions: int) -> None:
    commands = itertools.islice(asked(), decisions)

    async def work() -> None:
        for command in commands:
            await path.handle(Ask(command, _ADMIN, uuid7(), datetime.now(UTC)))

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


@contextmanager
def replays(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """The decisions are made beforehand, by the command path and the shipped policies; each round asks all of them again."""
    decisions = lab.scaled(DECISIONS)
    policies = GovernedPolicies(Bundle.read(DEFAULT_BUNDLE), timeout_s=5)
    with lab.database("decisions") as dsn:
        with ledger(lab, dsn) as opened:
            lab.run(_decide(CommandPath(opened, policies, deciders()), decisions))
            lab.run(policies.close())
        job = Job("candidate", dsn, Range(TENANT), [*policies.shipped.active(), _STRICTER])

        def one_round() -> Sample:
            started = time.perf_counter()
            result = lab.run(examine(job))
            seconds = time.perf_counter() - started
            if result["asked_again"] != decisions or not result["different"]:
                raise CannotMeasure(f"not every decision was asked again: {result['asked_again']} of {decisions}")
            return {"seconds": seconds, "distinct": result["distinct_questions"]}

        yield one_round


FIGURES: Final = (Figure("decision_replay", ours=replays, goals=(Goal(SECONDS_MAX, "seconds", "s", 1.0, "lower"),)),)
