"""`guard_overhead` and `parked_flood`: what the Guard adds to a command, and whether those who wait for approval slow the others."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median
from typing import Final

import httpx
import psycopg

from api.services import DEFAULT_POLICIES, deciders
from bench import workload
from bench.append import ledger
from bench.aureus import Server
from bench.lab import CannotMeasure, Lab, ticking
from bench.load import put_load, render
from bench.measure import Contestant, Figure, Goal, Sample
from bench.over_http import aureus
from commands.catalog import RegisterDataset
from commands.path import Ask, CommandPath
from domain.kernel import Asked, Asker
from domain.values import Role, uuid7
from infra.ledger import Append, Ledger, StreamWrite
from infra.policy import PolicyEngine
from infra.policy_bundle import Bundle

OVERHEAD_MS_MAX: Final = 1.0
DOMAINS: Final = 48
REACTIONS_SECONDS_MAX: Final = 120
PARKED: Final = 10_000
"""Actions that wait for an approval while others go on."""

_ANALYST: Final = Asker("usr-bench", workload.TENANT, frozenset({Role.ANALYST}))
_IN_FLIGHT: Final = 64


def _registering(number: int, domain: str) -> Ask:
    command = RegisterDataset(dataset_id=f"bench.d{number}", name=f"D{number}", domain=domain)
    return Ask(command, _ANALYST, uuid7(), datetime.now(UTC))


@contextmanager
def added(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Commands decided and appended by turns with and without the Guard, one at a time: what it adds at the median.

    A bank has some dozens of domains, and its policies are asked the same of each again and again: those verdicts are
    remembered. `new` is a command whose question was never asked before, so that Rego is evaluated for it alone.
    """
    policy = PolicyEngine(Bundle.read(DEFAULT_POLICIES))
    lab.run(policy.start())
    try:
        with lab.database("ours") as dsn, ledger(lab, dsn) as opened:
            path, numbers = CommandPath(opened, policy, deciders()), itertools.count()

            async def guarded(number: int, domain: str) -> None:
                outcome = await path.handle(_registering(number, domain))
                if outcome.outcome != "allowed":
                    raise CannotMeasure(f"the command was {outcome.outcome}: {outcome.message}")

            async def compared() -> Sample:
                going = ticking(lab.round_seconds, time.perf_counter)
                times: dict[str, list[float]] = {"guarded": [], "new": [], "bare": []}
                while going():
                    number = next(numbers)
                    times["guarded"].append(await _milliseconds(guarded(next(numbers), f"domain-{number % DOMAINS}")))
                    times["new"].append(await _milliseconds(guarded(next(numbers), f"new-{number}")))
                    times["bare"].append(await _milliseconds(_appended(opened, _registering(next(numbers), "bare"))))
                bare = median(times["bare"])
                return {"added_ms": median(times["guarded"]) - bare, "new_ms": median(times["new"]) - bare}

            yield lambda: lab.run(compared())
    finally:
        lab.run(policy.close())


async def _milliseconds(work: Awaitable[None]) -> float:
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * 1_000


async def _appended(opened: Ledger, ask: Ask) -> None:
    """The same command as a program without a Guard would carry it out: decided on, and appended."""
    decider = next(decider for decider in deciders() if type(ask.command) in decider.commands)
    events = tuple(decider.decide(decider.initial, ask.command, Asked(ask.by, ask.at, ask.action_id)))
    await opened.append(Append(workload.TENANT, ask.by.actor, (StreamWrite(decider.stream(ask.command), 0, events),), ask.action_id))


def _commanding(parked: int) -> Contestant:
    """One client's allowed commands over HTTP, on a server where so many others wait for an approval."""

    @contextmanager
    def contestant(lab: Lab) -> Iterator[Callable[[], Sample]]:
        with aureus(lab) as running:
            running.post("/v1/budgets", {"budget_id": "bench", "label": "Bench", "currency": "EUR", "limit_minor": 10**12})
            lab.run(_park(running, lab.scaled(parked)))
            _wait_for_reactions(running)
            folder = lab.subfolder("load")

            def one_round() -> Sample:
                request = render("POST", "/v1/budgets/bench/reserve", running.bearer(), b'{"amount_minor": 1}')
                return put_load(running.port, [request], folder, connections=1, seconds=lab.round_seconds)

            yield one_round

    return contestant


def _wait_for_reactions(running: Server) -> None:
    """Until approvers were told of what waits for them: from then on the parked ones just stand there."""
    behind = "SELECT min(position) < (SELECT size FROM ledger.head) FROM streams.positions"
    deadline = time.monotonic() + REACTIONS_SECONDS_MAX
    with psycopg.connect(str(running.dsn), autocommit=True) as connection:
        while (row := connection.execute(behind).fetchone()) and row[0]:
            if time.monotonic() > deadline:
                raise CannotMeasure("the reactions did not come to the end of the flood")
            time.sleep(0.2)


async def _park(running: Server, count: int) -> None:
    """Has so many datasets wait for the approval that much personal data takes."""
    numbers = iter(range(count))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}", headers=running.bearer(), timeout=60) as client:

        async def park() -> None:
            for number in numbers:
                dataset = {"dataset_id": f"parked.d{number}", "name": f"P{number}", "domain": "flood", "pii_level": "high"}
                answer = await client.post("/v1/datasets", json=dataset)
                if answer.status_code != 202:
                    raise CannotMeasure(f"a command that should be parked was answered {answer.status_code}: {answer.text[:300]}")

        await asyncio.gather(*(park() for _ in range(_IN_FLIGHT)))


FIGURES: Final = (
    Figure(
        "guard_overhead",
        ours=added,
        goals=(
            Goal(OVERHEAD_MS_MAX, "added_ms", "ms (p50)", 1.0, better="lower"),
            Goal(OVERHEAD_MS_MAX, "new_ms", "ms (p50)", 1.0, better="lower", name="new"),
        ),
    ),
    Figure(
        "parked_flood",
        ours=_commanding(PARKED),
        peers={"quiet": _commanding(0)},
        goals=(Goal("quiet", "p50_ms", "ms (p50)", 1.1, better="lower"),),
    ),
)
