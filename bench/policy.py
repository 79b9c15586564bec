"""`policy_decisions`: the default policies in the embedded evaluator's one worker, beside a real OPA server over REST.

Every question is another one, so that nothing is answered from memory. `opa` is OPA as Aureus asks it: by the same caller, for
the same checked verdicts, on the same two cores. `opa_counted` says what is left out there: OPA with one core to evaluate on,
as a worker has, asked by the cheapest client there is, which only counts the answers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.lab import CannotMeasure, Lab, ticking
from bench.load import put_load, render
from bench.measure import Figure, Goal, Sample
from bench.servers import answers, ending, free_port, wait_until
from infra.opa import ASKED_AT_ONCE, OpaEngine, OpaServer
from infra.policy import DEFAULT_BUNDLE, PolicyEngine
from infra.policy_bundle import Bundle

IN_FLIGHT: Final = 64
DECISIONS_PER_SECOND: Final = 2_500
OPA: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aureus" / "bin" / "opa"
QUESTIONS: Final = 20_000
"""Rendered for the client that only counts; more than are answered in a round."""
_LOW: Final = {"domain": "sales", "pii_level": "low", "jurisdiction": "EU", "environment": "staging", "becomes": {}}
_HIGH: Final = {"domain": "web", "pii_level": "high", "jurisdiction": "EU", "environment": "dev", "becomes": {"pii_level": "high"}}
_ASKED: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("person", "budgets.reserve_funds", {"currency": "EUR", "is_root": False, "amount_up_to": 25_000}),
    ("service", "catalog.sync_dataset", _LOW),
    ("agent", "catalog.record_usage", _LOW | {"environment": "production"}),
    ("person", "catalog.tag_dataset", _HIGH | {"becomes": {}}),
    ("person", "catalog.register_dataset", _HIGH),
)


def question(number: int) -> dict[str, Any]:
    """What a bank's day asks: four that are allowed, and one that is held. No two are the same."""
    kind, action, facts = _ASKED[number % len(_ASKED)]
    return {
        "action": action,
        "actor": {"roles": ["analyst"], "kind": kind},
        "tenant": f"tenant-{number}",
        "facts": facts,
        "has_reason": False,
        "evidence": {"kinds": [], "failed_tests": 0},
        "recent": 64,
    }


async def _decide(engine: PolicyEngine | OpaEngine, seconds: float, in_flight: int, numbers: Iterator[int]) -> Sample:
    going = ticking(seconds, time.perf_counter)

    async def ask() -> int:
        decided = 0
        while going():
            verdict = await engine.check(question(next(numbers)))
            if verdict.outcome == "block":
                raise CannotMeasure(f"a question was blocked: {verdict.results}")
            decided += 1
        return decided

    started = time.perf_counter()
    decided = sum(await asyncio.gather(*(ask() for _ in range(in_flight))))
    return {"rate": decided / (time.perf_counter() - started)}


@contextmanager
def embedded(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """The engine that serves commands."""
    engine, numbers = PolicyEngine(Bundle.read(DEFAULT_BUNDLE), timeout_s=5), itertools.count()
    lab.run(engine.start())
    try:
        yield lambda: lab.run(_decide(engine, lab.round_seconds, IN_FLIGHT, numbers))
    finally:
        lab.run(engine.close())


@contextmanager
def opa(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """The engine that serves commands where an OPA judges; as many in flight as serve it best."""
    with _serving(lab, cores=2) as port:
        server, numbers = OpaServer(f"http://127.0.0.1:{port}"), itertools.count()
        engine = server.engine(Bundle.read(DEFAULT_BUNDLE))
        lab.run(engine.start())
        try:
            yield lambda: lab.run(_decide(engine, lab.round_seconds, ASKED_AT_ONCE, numbers))
        finally:
            lab.run(server.close())


@contextmanager
def opa_counted(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """OPA's answers, neither read nor checked."""
    with _serving(lab, cores=1) as port:
        lab.run(_load(f"http://127.0.0.1:{port}"))
        bodies = (json.dumps({"input": question(number)}).encode() for number in range(QUESTIONS))
        requests = [render("POST", "/v1/data/aureus/verdict", {}, body) for body in bodies]
        folder = lab.subfolder("load")
        yield lambda: put_load(port, requests, folder, connections=ASKED_AT_ONCE, seconds=lab.round_seconds)


@contextmanager
def _serving(lab: Lab, cores: int) -> Iterator[int]:
    """The port of an OPA server without policies."""
    if not OPA.is_file():
        raise CannotMeasure(f"{OPA} is missing; build it: scripts/opa.sh")
    port, log = free_port(), lab.subfolder("opa") / "log"
    options = ["--addr", f"127.0.0.1:{port}", "--log-level", "error", "--skip-version-check", "--optimize-store-for-read-speed"]
    with log.open("wb") as output:
        environment = {**os.environ, "GOMAXPROCS": str(cores)}
        process = subprocess.Popen([OPA, "run", "--server", *options], env=environment, stdout=output, stderr=output)
    with ending(process):
        wait_until(lambda: answers(port, "/health"), process, "opa", log)
        yield port


async def _load(url: str) -> None:
    server = OpaServer(url)
    await server.load(Bundle.read(DEFAULT_BUNDLE))
    await server.close()


FIGURES: Final = (
    Figure(
        "policy_decisions",
        ours=embedded,
        peers={"opa": opa, "opa_counted": opa_counted},
        goals=(
            Goal(DECISIONS_PER_SECOND, "rate", "decisions/s", 1.0, name="worker"),
            Goal("opa", "rate", "decisions/s", 1.0, name="opa"),
            Goal("opa_counted", "rate", "decisions/s", 0.5, name="opa_counted"),
        ),
    ),
)
