"""Jobs: worked through once, in the name and the roles of whoever asked, however often the worker is killed - and ended when told to."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from commands.access import SuspendActor
from commands.jobs import DECIDER, CancelJob, FinishJob, ReportProgress, StartJob
from domain.budgets import BudgetFunded, BudgetOpened
from domain.jobs import JobCancelled, JobFinished, JobProgressed, JobStarted
from domain.kernel import Asker
from domain.values import Role
from infra.blobs import BlobMissing
from streams import jobs as working
from streams.reactions import asker
from tests.given import ADMIN, ANALYST, given
from tests.support.kernel import ADM, ANA, ask, everything
from tests.support.running import Aureus, running

ROOT: Final = Path(__file__).parent.parent
SHA: Final = "a" * 64
ITSELF: Final = asker("acme")
STARTED: Final = JobStarted(job_id="j", asked_by="usr-ana", items=3, on_failure="continue", input_sha256=SHA)
CANCELLED: Final = JobCancelled(job_id="j")
ENDED: Final = JobFinished(job_id="j", ending="completed")
TOM: Final = Asker("usr-tom", "acme", frozenset({Role.ADMIN}))
TIM: Final = Asker("usr-tim", "acme", frozenset({Role.ADMIN}))
AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))


def progress(after: int, done: int, allowed: int) -> ReportProgress:
    return ReportProgress(job_id="j", after=after, done=done, allowed=allowed, parked=0, refused=done - allowed, results_sha256=SHA)


def test_a_job_is_started_once_and_by_whoever_asks() -> None:
    command = StartJob(job_id="j", items=3, input_sha256=SHA)
    given(DECIDER).when(command).then(STARTED)
    given(DECIDER, STARTED).when(command).refused("job_exists", field="job_id")


def test_aureus_itself_says_how_far_a_job_is_and_in_order() -> None:
    two = JobProgressed(job_id="j", done=2, allowed=1, parked=0, refused=1, results_sha256=SHA)
    given(DECIDER, STARTED).by(ITSELF).when(progress(0, 2, 1)).then(two)
    given(DECIDER, STARTED, two).by(ITSELF).when(progress(0, 2, 1)).refused("progress_out_of_order", field="after", done=2)
    given(DECIDER, STARTED).by(ITSELF).when(progress(0, 4, 4)).refused("progress_out_of_order", field="after")
    given(DECIDER, STARTED).by(ADMIN).when(progress(0, 2, 1)).refused("only_aureus_itself")
    given(DECIDER, STARTED).by(ADMIN).when(FinishJob(job_id="j", ending="completed")).refused("only_aureus_itself")
    given(DECIDER).by(ITSELF).when(progress(0, 2, 1)).refused("job_not_found")
    given(DECIDER, STARTED, ENDED).by(ITSELF).when(progress(0, 2, 1)).refused("job_ended", status="completed")
    given(DECIDER, STARTED, ENDED).by(ITSELF).when(FinishJob(job_id="j", ending="completed")).refused("job_ended")


def test_a_job_is_cancelled_by_whoever_asked_for_it_or_an_administrator() -> None:
    for one in (ANALYST, ADMIN):
        given(DECIDER, STARTED).by(one).when(CancelJob(job_id="j")).then(CANCELLED)
    given(DECIDER, STARTED, CANCELLED).when(CancelJob(job_id="j")).then()
    given(DECIDER, STARTED).by(AUD).when(CancelJob(job_id="j")).refused("not_your_job", field="job_id")
    given(DECIDER, STARTED, ENDED).when(CancelJob(job_id="j")).refused("job_ended")
    given(DECIDER).when(CancelJob(job_id="j")).refused("job_not_found")


# -- at work

PATIENCE_SECONDS: Final = 30.0


def funding(budget_id: str, count: int) -> list[dict[str, Any]]:
    fields = {"budget_id": budget_id, "amount_minor": 1}
    return [{"command": "budgets.fund_budget", "fields": fields} for _ in range(count)]


def opening(budget_id: str) -> dict[str, Any]:
    return {"command": "budgets.open_budget", "fields": {"budget_id": budget_id, "label": "L", "currency": "EUR", "limit_minor": 0}}


async def started(aureus: Aureus, commands: list[dict[str, Any]], by: Asker = TOM, on_failure: str = "continue", **headers: str) -> Any:
    body = {"commands": commands, "on_failure": on_failure}
    answer = await aureus.post("/v1/bulk", body, by, Prefer="respond-async", **headers)
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert answer.headers["location"] == told["resource"] == f"/v1/jobs/{told['job_id']}"
    assert answer.headers["retry-after"] == "1"
    return told


async def ended(aureus: Aureus, job: Any, by: Asker = TOM) -> Any:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            row = (await aureus.get(job["resource"], by, at_least=job["position"])).json()
            if row["ended_at"] is not None:
                return row
            await asyncio.sleep(0.05)


async def results(aureus: Aureus, job: Any, by: Asker = TOM, limit: int = 1_000) -> list[Any]:
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await aureus.get(job["results"], by, limit=limit, **cursor)).json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home")) as opened:
        await opened.know(ADM, ANA, TOM, TIM, AUD)
        yield opened


@pytest.mark.anyio
async def test_a_job_works_its_commands_through_and_tells_of_each(aureus: Aureus) -> None:
    job = await started(aureus, [opening("one"), *funding("one", 70), opening("one"), {"command": "x.y"}], Idempotency_Key="job-one")
    row = await ended(aureus, job)
    assert [row[name] for name in ("kind", "status", "items", "done", "allowed", "parked", "refused")] == [
        "bulk",
        "completed",
        73,
        73,
        71,
        0,
        2,
    ]
    found = await results(aureus, job, limit=20)
    assert [one["index"] for one in found] == list(range(73))
    assert [one["status"] for one in found] == [201, *[200] * 70, 409, 404]
    assert found[70]["answer"]["version"] == 71, "what touches one entity keeps its order"
    again = await started(aureus, [opening("one"), *funding("one", 70), opening("one"), {"command": "x.y"}], Idempotency_Key="job-one")
    assert (again["job_id"], again["status"]) == (job["job_id"], "completed")
    kept = (await working.job_of(aureus.services.ledger, "acme", job["job_id"])).started
    assert kept is not None
    with pytest.raises(BlobMissing):  # what was asked is destroyed when it is done
        await aureus.services.blobs.read(kept.input_sha256)
    assert {one.actor for one in await aureus.services.ledger.read_stream("acme", "budget:one")} == {TOM.actor}


@pytest.mark.anyio
async def test_a_job_stops_at_the_first_failure_if_it_is_told_to(aureus: Aureus) -> None:
    job = await started(aureus, [opening("two"), opening("two"), *funding("two", 40)], on_failure="stop")
    row = await ended(aureus, job)
    assert (row["status"], row["done"], row["refused"]) == ("stopped", 2, 1)
    assert [one["status"] for one in await results(aureus, job)] == [201, 409]


@pytest.mark.anyio
async def test_a_cancelled_job_does_no_more_and_tells_what_it_did(aureus: Aureus) -> None:
    job = await started(aureus, [opening("three"), *funding("three", 2_000)])
    answer = await aureus.post(job["cancel"], {"comment": "The wrong lake"}, TOM)
    assert answer.status_code == 200, answer.text
    row = await ended(aureus, job)
    assert (row["status"], row["done"] < 2_001) == ("cancelled", True)
    there = await aureus.services.ledger.read_stream("acme", "budget:three")
    assert row["done"] == len(there) == len(await results(aureus, job))
    assert (await aureus.post(job["cancel"], {}, TOM)).json()["error"]["code"] == "job_ended"


@pytest.mark.anyio
async def test_a_job_is_its_askers_own_and_overseers_see_it(aureus: Aureus) -> None:
    job = await started(aureus, [opening("four")])
    await ended(aureus, job)
    for path in (job["resource"], job["results"]):
        assert (await aureus.get(path, ANA)).status_code == 404
        assert (await aureus.get(path, AUD)).status_code == 200
    assert (await aureus.post(job["cancel"], {}, ANA)).json()["error"]["code"] == "not_your_job"
    assert (await aureus.get("/v1/jobs", ANA)).json()["items"] == []
    assert job["job_id"] in [row["job_id"] for row in (await aureus.get("/v1/jobs", AUD, asked_by=TOM.actor)).json()["items"]]
    assert (await aureus.get("/v1/jobs/none/results", TOM)).json()["error"]["code"] == "job_not_found"


@pytest.mark.anyio
async def test_what_takes_long_elsewhere_stands_in_the_same_list(aureus: Aureus) -> None:
    requested = await aureus.post("/v1/exports", {"export_id": "x1", "recipient": "BaFin", "everything": True}, AUD)
    assert requested.status_code in {201, 202}, requested.text
    row = await ended(aureus, {"resource": "/v1/jobs/export.x1", "position": requested.json()["position"]}, AUD)
    assert (row["kind"], row["status"], row["resource"]) == ("export", "completed", "/v1/exports/x1")


# -- through kills and leavers


@pytest.mark.anyio
async def test_the_job_of_somebody_who_does_not_act_any_more_does_nothing_more(aureus: Aureus) -> None:
    job = await started(aureus, [opening("five"), *funding("five", 2_000)], TIM)
    outcome = await aureus.services.path.handle(ask(SuspendActor(actor_id=TIM.actor), ADM))
    row = await ended(aureus, job, ADM)
    assert (row["status"], row["code"], row["done"] < 2_001) == ("failed", "asker_gone", True)
    there = await aureus.services.ledger.read_stream("acme", "budget:five")
    assert (len(there), max([one.position for one in there], default=0) < outcome.position) == (row["allowed"], True)


async def carried_out(aureus: Aureus) -> list[Any]:
    """What the ledger holds of the job's commands."""
    return [one for one in await everything(aureus.services.ledger) if isinstance(one.event, BudgetOpened | BudgetFunded)]


WORK: Final = """
import asyncio, sys
from pathlib import Path
from tests.support.running import running

async def work():
    async with running(sys.argv[1], Path(sys.argv[2])):
        await asyncio.sleep(600)

asyncio.run(work())
"""


@pytest.mark.slow
@pytest.mark.anyio
async def test_whoever_is_killed_half_way_the_job_is_done_once(database_url: str, tmp_path: Path) -> None:
    lakes = [f"lake{number}" for number in range(8)]
    commands = [opening(lake) for lake in lakes] + [command for _ in range(40) for lake in lakes for command in funding(lake, 1)]
    count = len(commands)
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(TOM)
    async with running(database_url, tmp_path, reacting=False) as aureus:
        job = await started(aureus, commands)
        worker = await asyncio.create_subprocess_exec(sys.executable, "-c", WORK, database_url, str(tmp_path), cwd=ROOT)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    if len(await carried_out(aureus)) >= count // 3:
                        break
                    await asyncio.sleep(0.01)
        finally:
            worker.send_signal(signal.SIGKILL)
            await worker.wait()
        done = await carried_out(aureus)
        assert count // 3 <= len(done) < count, "it was killed half-way"
        assert (await working.job_of(aureus.services.ledger, "acme", job["job_id"])).done < len(done), "and some of it was not on record"
    async with running(database_url, tmp_path) as aureus:
        row = await ended(aureus, job)
        assert (row["status"], row["done"], row["allowed"]) == ("completed", count, count)
        assert [one["index"] for one in await results(aureus, job)] == list(range(count))
        assert len(await carried_out(aureus)) == count
