"""`erase`: a subject of whom ten thousand values are kept, from the approved order to the certificate in the ledger."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from api.services import Services, open_services
from bench import workload
from bench.lab import CannotMeasure, Lab
from bench.measure import Figure, Goal, Sample
from commands.approvals import ApproveRequest
from commands.path import Ask
from commands.subjects import DescribeSubject, EraseSubject
from domain.catalog import DatasetRegistered, Jurisdiction, OwnerContactRecorded, PiiLevel, Profile
from domain.kernel import Asker, Command, Event
from domain.subjects import SubjectErased
from domain.values import Role, uuid7
from infra.ledger import Append, StreamWrite
from infra.settings import Settings

FIELDS: Final = 10_000
SECONDS_MAX: Final = 10.0
AT_ONCE: Final = 250
OFFICER: Final = Asker("usr-dpo", workload.TENANT, frozenset({Role.ADMIN}))
APPROVER: Final = Asker("usr-app", workload.TENANT, frozenset({Role.APPROVER}))


@contextmanager
def erasing(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Each round records a subject anew, under the policies that ship: so somebody else approves the order before the clock starts."""
    with lab.database("erase") as dsn:
        opening = open_services(Settings(lab.subfolder("home"), database_url=dsn, tenant=workload.TENANT, demo=False))
        services = lab.run(opening.__aenter__())
        numbers = itertools.count()
        try:
            yield lambda: lab.run(_one_round(services, f"cus-{next(numbers)}", lab.scaled(FIELDS)))
        finally:
            lab.run(opening.__aexit__(None, None, None))


async def _one_round(services: Services, subject: str, fields: int) -> Sample:
    await _ask(services, DescribeSubject(subject_id=subject, kind="customer", jurisdiction=Jurisdiction.EU), OFFICER)
    await _record(services, subject, fields)
    erase = EraseSubject(subject_id=subject, ground="objection")
    parked = await services.path.handle(Ask(erase, OFFICER, uuid7(), datetime.now(UTC)))
    if parked.approval is None:
        raise CannotMeasure(f"the order was {parked.outcome}, and not parked")
    approval_id = parked.approval["approval_id"]
    await services.wait_for(await _ask(services, ApproveRequest(approval_id=approval_id), APPROVER))
    began = time.perf_counter()
    await _ask(services, erase, OFFICER, approval_id)
    certificate = await _certificate(services, subject)
    seconds = time.perf_counter() - began
    if certificate.fields != fields:
        raise CannotMeasure(f"{certificate.fields} of {fields} values were erased")
    return {"seconds": seconds}


async def _ask(services: Services, command: Command, by: Asker, approval_id: str | None = None) -> int:
    """The position of what came of it."""
    outcome = await services.path.handle(Ask(command, by, uuid7(), datetime.now(UTC), approval_id=approval_id))
    if outcome.outcome != "allowed":
        raise CannotMeasure(f"{command.command_name} was {outcome.outcome} ({outcome.code})")
    return outcome.position


async def _record(services: Services, subject: str, fields: int) -> None:
    """So many values, two in each event, and the read models that have seen them."""
    profile = Profile(name="Orders", domain="sales", pii_level=PiiLevel.LOW, jurisdiction=Jurisdiction.EU)
    dataset_id, version = f"orders-of-{subject}", 0
    facts: list[Event] = [DatasetRegistered(dataset_id=dataset_id, profile=profile)]
    for number in range(fields // 2):
        contact = {"contact_name": f"Name {number}", "contact_email": f"{number}@example.org"}
        facts.append(OwnerContactRecorded(dataset_id=dataset_id, owner_id=subject, **contact))
    for start in range(0, len(facts), AT_ONCE):
        some = tuple(facts[start : start + AT_ONCE])
        write = StreamWrite(f"dataset:{dataset_id}", version, some, fresh=version == 0)
        await services.ledger.append(Append(workload.TENANT, workload.ACTOR, (write,), uuid7()))
        version += len(some)
    await services.wait_for(services.ledger.head.size)


async def _certificate(services: Services, subject: str) -> SubjectErased:
    while True:
        (*_, last) = await services.ledger.read_stream(workload.TENANT, f"subject:{subject}")
        if isinstance(last.event, SubjectErased):
            return last.event
        await asyncio.sleep(0.01)


FIGURES: Final = (Figure("erase", ours=erasing, goals=(Goal(peer=SECONDS_MAX, metric="seconds", unit="s", ratio=1.0, better="lower"),)),)
