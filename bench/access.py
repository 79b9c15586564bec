"""`limiter` and `mixed_100`: a limit that holds to the request whoever asks at once, and a hundred people who do different things."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

import httpx
from limits import RateLimitItemPerHour
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from api.services import open_services
from bench.aureus import Server, serving
from bench.lab import CannotMeasure, Lab
from bench.load import put_load, render
from bench.measure import Figure, Goal, Sample
from bench.servers import ending, free_port, wait_until
from commands.access import RegisterActor
from commands.path import Ask
from domain.kernel import Asker
from domain.values import ActorKind, Role, uuid7
from infra.demo import ensure_demo
from infra.limit_settings import Front
from infra.limiting import Limiter
from infra.settings import Settings

ALLOWED: Final = 100
CLIENTS: Final = 64
ASKED_BY_EACH: Final = 4
PEOPLE: Final = 100
HOURS: Final = 20
"""More than there are rounds."""
ACTORS_CHECKED, CHECKS_OF_EACH = 500, 20
QUERY: Final = "/v1/diff?from=0&to=1"
_REQUESTS_OF_EACH: Final = 40


@dataclass(frozen=True)
class Person:
    """Somebody who asks, and the token they ask with."""

    actor: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


async def people(home: Path, dsn: str, number: int) -> list[Person]:
    """So many analysts of a ledger that is founded here, with the demo's logins."""
    settings = Settings(home, database_url=dsn, demo=False)
    async with open_services(settings, run_projections=True) as services:
        await ensure_demo(services)
        bootstrap = Asker("svc-bootstrap", settings.tenant, frozenset({Role.ADMIN}), ActorKind.SERVICE)
        position, known = 0, []
        for each in range(number):
            asker = Asker(f"usr-bench-{each}", settings.tenant, frozenset({Role.ANALYST}))
            command = RegisterActor(actor_id=asker.actor, kind=ActorKind.PERSON, granted_roles=tuple(asker.roles))
            position = (await services.path.handle(Ask(command, bootstrap, uuid7(), datetime.now(UTC)))).position
            known.append(Person(asker.actor, services.tokens.issue(asker)))
        await services.wait_for(position)
        return known


async def granted(ports: list[int], person: Person) -> int:
    """How many of the expensive reads of one person were answered, asked over many connections at once, spread over the servers."""

    async def one(client: httpx.AsyncClient) -> int:
        answers = [await client.get(QUERY, headers=person.headers) for _ in range(ASKED_BY_EACH)]
        unexpected = [answer for answer in answers if answer.status_code not in (200, 429)]
        if unexpected:
            raise CannotMeasure(f"{QUERY} answered {unexpected[0].status_code}: {unexpected[0].text[:300]}")
        return sum(answer.status_code == 200 for answer in answers)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client(port)) for port in ports]
        return sum(await asyncio.gather(*(one(clients[number % len(clients)]) for number in range(CLIENTS))))


def _client(port: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=CLIENTS)
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False, trust_env=False, timeout=60, limits=limits)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis of the benchmark's own, and its URL."""
    binary, port, log = shutil.which("redis-server"), free_port(), folder / "redis.log"
    if binary is None:
        raise CannotMeasure("redis-server is missing; install it: scripts/debian.sh redis-server")
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with log.open("ab") as output:
        process = subprocess.Popen([binary, *options], cwd=folder, stdout=output, stderr=output)
    with ending(process):
        wait_until(lambda: "Ready to accept" in log.read_text(), process, "redis-server", log)
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def holds(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """64 clients ask four times each as one actor, who may ask a hundred times: of one process, then of two that share a Redis.

    Each round is somebody else's hour.
    """
    alone, together = lab.subfolder("home"), lab.subfolder("home")
    with lab.database("alone") as dsn, lab.database("together") as shared_dsn, redis(lab.subfolder("redis")) as url:
        own, shared = lab.run(people(alone, dsn, HOURS)), lab.run(people(together, shared_dsn, HOURS))
        limits = {"AUREUS_LIMIT_QUERIES": str(ALLOWED)}
        through = {**limits, "AUREUS_REDIS_URL": url}
        with (
            serving(alone, dsn, settings=limits) as one,
            serving(together, shared_dsn, settings=through) as first,
            serving(together, shared_dsn, settings=through, options=("--no-projections",)) as second,
        ):
            turns = count()

            def one_round() -> Sample:
                turn = next(turns)
                in_memory = lab.run(granted([one.port], own[turn]))
                through_redis = lab.run(granted([first.port, second.port], shared[turn]))
                return {"memory": in_memory, "redis": through_redis, "check_us": lab.run(ours_per_check())}

            yield one_round


async def ours_per_check() -> float:
    """Microseconds for one count of an expensive read in this process."""
    limiter = Limiter(Front(queries=ALLOWED))
    askers = [Asker(f"usr-{number}", "bench", frozenset()) for number in range(ACTORS_CHECKED)]
    began = time.perf_counter()
    for _ in range(CHECKS_OF_EACH):
        for asker in askers:
            await limiter.take_query(asker)
    return (time.perf_counter() - began) / (ACTORS_CHECKED * CHECKS_OF_EACH) * 1_000_000


@contextmanager
def bare_limits(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """The `limits` library with its own storage in memory: the count, and how it stands after it."""

    async def per_check() -> float:
        limiter, item = MovingWindowRateLimiter(MemoryStorage()), RateLimitItemPerHour(ALLOWED)
        began = time.perf_counter()
        for _ in range(CHECKS_OF_EACH):
            for number in range(ACTORS_CHECKED):
                await limiter.hit(item, "bench", f"usr-{number}")
                await limiter.get_window_stats(item, "bench", f"usr-{number}")
        return (time.perf_counter() - began) / (ACTORS_CHECKED * CHECKS_OF_EACH) * 1_000_000

    yield lambda: {"check_us": lab.run(per_check())}


@contextmanager
def mixed(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """A hundred people at once, each of them without a pause: rows, lists, their own inbox, commands, and now and then a login."""
    home = lab.subfolder("home")
    with lab.database("ours") as dsn:
        known = lab.run(people(home, dsn, PEOPLE))
        with serving(home, dsn) as server:
            for number in range(PEOPLE):
                server.post("/v1/budgets", {"budget_id": f"mixed-{number}", "label": "Mixed", "currency": "EUR", "limit_minor": 10**12})
                server.post("/v1/terms", {"term_id": f"mixed-{number}", "name": f"Term {number}", "definition": "x" * 400})
            folder = lab.subfolder("load")
            days = [work_of(server, number, person) for number, person in enumerate(known)]
            requests = [day[turn] for turn in range(_REQUESTS_OF_EACH) for day in days]

            yield lambda: put_load(server.port, requests, folder, connections=PEOPLE, seconds=lab.round_seconds)


def work_of(server: Server, number: int, person: Person) -> list[bytes]:
    """What one person does, over and over; nobody begins where their neighbour does."""
    login = next(one for one in json.loads((server.home / "demo-logins.json").read_text()) if "analyst" in one["roles"])
    credentials = json.dumps({"login": login["login"], "password": login["password"]}).encode()
    reserve = render("POST", f"/v1/budgets/mixed-{number}/reserve", person.headers, b'{"amount_minor": 1}')
    looks = [f"/v1/terms/mixed-{number}", f"/v1/budgets/mixed-{number}", "/v1/terms?limit=20", "/v1/notifications", "/v1/auth/me"]
    day = [render("GET", path, person.headers) for path in looks]
    day = [*day, reserve, *day, reserve, *day, reserve, *day][:_REQUESTS_OF_EACH]
    day = (day * 2)[:_REQUESTS_OF_EACH]
    if number % 10 == 0:
        day[-1] = render("POST", "/v1/auth/token", {}, credentials)
    at = number % _REQUESTS_OF_EACH
    return day[at:] + day[:at]


FIGURES: Final = (
    Figure(
        "limiter",
        ours=holds,
        peers={"limits": bare_limits},
        goals=(
            Goal(float(ALLOWED), "memory", "granted of 256", 1.0, name="memory_at_least"),
            Goal(float(ALLOWED), "memory", "granted of 256", 1.0, better="lower", name="memory_at_most"),
            Goal(float(ALLOWED), "redis", "granted of 256", 1.0, name="redis_at_least"),
            Goal(float(ALLOWED), "redis", "granted of 256", 1.0, better="lower", name="redis_at_most"),
            Goal("limits", "check_us", "us per count", 1.0, better="lower", name="check"),
        ),
    ),
    Figure("mixed_100", ours=mixed, goals=(Goal(200.0, "p95_ms", "ms (p95)", 1.0, better="lower"),)),
)
