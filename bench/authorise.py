"""`authorise`: what it costs a read and a command to be asked by somebody whose roles reach some domains, and who holds a grant besides.

Beside them the bare handlers run by turns: the same row looked up and answered, the same command taken by the path for an asker who
is simply believed. So a token is verified, an actor looked up when that is due, and every row and stream held against the reach.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from statistics import median
from typing import Any, Final

import orjson
from fastapi.routing import APIRoute

from api.app import create_app
from api.representing import row_response
from api.routing import Declared
from api.services import Services, open_services
from bench import workload
from bench.lab import CannotMeasure, Lab, ticking
from bench.measure import Figure, Goal, Sample
from commands.access import BoundDomains, RegisterActor
from commands.catalog import RegisterDataset, TagDataset
from commands.grants import GrantRole
from commands.path import Ask
from domain.kernel import Asker, Command
from domain.values import ActorKind, Role, uuid7, uuid7_text
from infra.limit_settings import Front
from infra.settings import Settings
from projections.catalog import datasets

ADDED_MS_MAX: Final = 0.3
_ADMIN: Final = Asker("usr-bench", workload.TENANT, frozenset({Role.ADMIN}))
_ANALYST: Final = Asker("usr-reach", workload.TENANT, frozenset({Role.ANALYST}))
_BELIEVED: Final = Asker("usr-believed", workload.TENANT, frozenset({Role.ANALYST}))
_DATASET: Final = "bench.orders"


@dataclass(frozen=True)
class _Aureus:
    """One in this process, and its routes by method and path."""

    services: Services
    app: Any
    routes: dict[tuple[str, str], Any]

    async def answered(self, token: str, method: str, path: str, body: bytes = b"") -> None:
        """Asks a declared route for the dataset, as the front door would."""
        scope = {
            "type": "http",
            "app": self.app,
            "method": method,
            "path": path,
            "path_params": {"dataset_id": _DATASET},
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "state": {"request_id": uuid7_text()},
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        response = await self.routes[method, path].response(scope, receive)
        if response.status_code != 200:
            raise CannotMeasure(f"{method} {path} was answered {response.status_code}: {bytes(response.body)[:300]!r}")

    async def read_bare(self) -> None:
        found = await self.services.reads.get(datasets, workload.TENANT, _DATASET, None, f"dataset:{_DATASET}")
        assert found is not None
        row_response(found.document, found.stream_version or 0, {"headers": [], "state": {"request_id": uuid7_text()}})

    async def taken(self, command: Command, by: Asker) -> None:
        outcome = await self.services.path.handle(Ask(command, by, uuid7(), datetime.now(UTC)))
        if outcome.outcome != "allowed":
            raise CannotMeasure(f"the command was {outcome.outcome}: {outcome.message}")


async def _opened(lab: Lab, dsn: str, stack: AsyncExitStack) -> _Aureus:
    settings = Settings(lab.subfolder("home"), database_url=dsn, tenant=workload.TENANT, demo=False, front=Front.open())
    services = await stack.enter_async_context(open_services(settings, run_projections=True))
    app = create_app(services=services)
    app.state.services = services
    declared = [route for route in app.routes if isinstance(route, APIRoute) and isinstance(route.app, Declared)]
    routes = {(method, route.path): route.app for route in declared for method in route.methods or ()}
    made = _Aureus(services, app, routes)
    for one in (_ADMIN, _ANALYST):
        register = RegisterActor(actor_id=one.actor, kind=ActorKind.PERSON, granted_roles=tuple(one.roles))
        await made.taken(register, _ADMIN if one is not _ADMIN else Asker("usr-first", workload.TENANT, frozenset({Role.ADMIN})))
    await made.taken(RegisterDataset(dataset_id=_DATASET, name="Orders", domain="crm"), _ADMIN)
    await made.taken(BoundDomains(actor_id=_ANALYST.actor, domains=("crm",)), _ADMIN)
    until = datetime.now(UTC) + timedelta(days=30)
    grant = GrantRole(grant_id="bench", role=Role.VIEWER, about="domain:hr", actor_id=_ANALYST.actor, until=until)
    await made.taken(grant, _ADMIN)
    await services.wait_for(services.ledger.head.size)
    return made


@contextmanager
def added(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """What is added at the median, in milliseconds, to a read and to a command."""
    stack, numbers = AsyncExitStack(), count()
    with lab.database("ours") as dsn:
        aureus = lab.run(_opened(lab, dsn, stack))

        def tagged() -> TagDataset:
            return TagDataset(dataset_id=_DATASET, tags=(f"round-{next(numbers)}",))

        async def timed(each: dict[str, Callable[[], Awaitable[None]]]) -> dict[str, float]:
            """The median of each, by turns, each begun when whatever follows from the one before is done."""
            going, times = ticking(lab.round_seconds / 2, time.perf_counter), {name: list[float]() for name in each}
            while going():
                for name, work in each.items():
                    times[name].append(await _ms(work()))
                    await aureus.services.wait_for(aureus.services.ledger.head.size)
            return {name: median(found) for name, found in times.items()}

        async def compared() -> Sample:
            token = aureus.services.tokens.issue(_ANALYST)
            tag = partial(aureus.answered, token, "POST", "/v1/datasets/{dataset_id}/tags")
            read = await timed({"ours": lambda: aureus.answered(token, "GET", "/v1/datasets/{dataset_id}"), "bare": aureus.read_bare})
            command = await timed(
                {"ours": lambda: tag(orjson.dumps({"tags": tagged().tags})), "bare": lambda: aureus.taken(tagged(), _BELIEVED)}
            )
            return {"read_ms": read["ours"] - read["bare"], "command_ms": command["ours"] - command["bare"]}

        try:
            yield lambda: lab.run(compared())
        finally:
            lab.run(stack.aclose())


async def _ms(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1_000


FIGURES: Final = (
    Figure(
        "authorise",
        ours=added,
        goals=(
            Goal(ADDED_MS_MAX, "read_ms", "ms (p50)", 1.0, better="lower", name="read"),
            Goal(ADDED_MS_MAX, "command_ms", "ms (p50)", 1.0, better="lower", name="command"),
        ),
    ),
)
