"""The stock `eventsourcing` ProjectionRunner: one read model, one transaction per event.

Best safe setting: a view in the same PostgreSQL that writes its one row and the tracking record in one transaction, as
the library's documentation shows, on connections held open, with prepared statements. Its events carry as many bytes
as ours and their data is taken as it comes; it keeps one row per stream, without history, where we keep every version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, cast
from uuid import uuid4

from eventsourcing.application import Application
from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL, Identifier

from bench import workload
from bench.lab import CannotMeasure, Lab, keyword_dsn
from bench.measure import Sample

EVENTS: Final = 2_000
"""A small count: at its rate a million would take half an hour."""
STREAMS: Final = 64
_TIMEOUT_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Promised(DomainEvent):
    """The workload's event in the library's own form."""

    payload: str
    amount_minor: int


class Ledger(Application[Any]):
    """The application whose events are projected."""


class BudgetsView(PostgresTrackingRecorder):
    """One row per budget: what is reserved on it."""

    def __init__(self, datastore: PostgresDatastore, *, tracking_table_name: str = "budgets_tracking", **kwargs: Any) -> None:
        super().__init__(datastore, tracking_table_name=tracking_table_name, **kwargs)
        table = Identifier(datastore.schema, "budgets_view")
        self.sql_create_statements.append(SQL("CREATE TABLE IF NOT EXISTS {} (id uuid PRIMARY KEY, reserved_minor bigint)").format(table))
        self._reserve = SQL(
            "INSERT INTO {} AS v VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET reserved_minor = v.reserved_minor + EXCLUDED.reserved_minor"
        ).format(table)

    def reserve(self, event: Promised, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(self._reserve, (event.originator_id, event.amount_minor), prepare=True)


class Budgets(Projection[BudgetsView]):
    """Folds promises into the view; tells when it has reached `until` (the runner's own `wait` looks only now and then)."""

    topics = ()

    def __init__(self, view: BudgetsView) -> None:
        super().__init__(view)
        self.until: int | None = None
        self.reached = Event()

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.reserve(domain_event, tracking)
        if tracking.notification_id == self.until:
            self.reached.set()


def _environment(dsn: str) -> dict[str, str]:
    where = keyword_dsn(dsn)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": where["dbname"],
        "POSTGRES_HOST": where.get("host", ""),
        "POSTGRES_PORT": where.get("port", "5432"),
        "POSTGRES_USER": where.get("user", ""),
        "POSTGRES_PASSWORD": where.get("password", ""),
        "POSTGRES_POOL_SIZE": "4",
    }


def _record(environment: dict[str, str], events: int) -> int:
    """Writes the events to be projected; the position of the last one."""
    application = Ledger(environment)
    ids = [uuid4() for _ in range(min(STREAMS, events))]
    payload = workload.payload().hex()[: len(workload.payload())]
    last = 0
    try:
        for number in range(events):
            event = Promised(
                originator_id=ids[number % len(ids)],
                originator_version=number // len(ids) + 1,
                timestamp=Promised.create_timestamp(),
                payload=payload,
                amount_minor=1,
            )
            last = application.recorder.insert_events([application.mapper.to_stored_event(event)])[-1]  # type: ignore[index]
    finally:
        application.close()
    return last


@contextmanager
def projects(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Events per second of a runner that starts from nothing; each round has a database of its own."""
    events = max(200, lab.scaled(EVENTS))

    def one_round() -> Sample:
        with lab.database("projecting") as dsn:
            environment = _environment(dsn)
            last = _record(environment, events)
            started = time.perf_counter()
            with ProjectionRunner(application_class=Ledger, projection_class=Budgets, view_class=BudgetsView, env=environment) as runner:
                budgets = cast(Budgets, runner.projection)
                budgets.until = last
                if not budgets.reached.wait(_TIMEOUT_SECONDS):
                    raise CannotMeasure(f"the ProjectionRunner took longer than {_TIMEOUT_SECONDS:.0f} s")
                seconds = time.perf_counter() - started
            return {"rate": events / seconds}

    yield one_round
