"""The numbers that Prometheus reads: what this process counted, and how far the read models are, which the database knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal

import psycopg
from psycopg.rows import TupleRow

from infra.measures import PROJECTED, Distribution, Reading, Source
from infra.version import aureus_version
from projections.engine import OPEN

if TYPE_CHECKING:
    from prometheus_client import Metric

BELIEVED_SECONDS: Final = 1.0
"""What the database said is told again for so long, to however many scrapers."""
DATABASE_SECONDS: Final = 2.0
"""How long a scrape waits for the database before it says that it is away."""
_log = logging.getLogger("aureus.metrics")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a metric is, which labels it bears, and what it says."""

    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


METRICS: Final[Mapping[str, Kind]] = {
    "aureus_build_info": Kind("gauge", ("version",), "Which Aureus this is; always 1."),
    "aureus_database_up": Kind("gauge", (), "Whether the database answered this scrape; what it knows is left out when it did not."),
    "aureus_ledger_events": Kind("gauge", (), "Events in the ledger."),
    "aureus_ledger_refusing": Kind("gauge", (), "1 when this process refuses to write, for good: the log says why."),
    "aureus_append_queue": Kind("gauge", (), "Appends of this process that wait for a batch."),
    "aureus_append_events_total": Kind("counter", (), "Events that this process made durable."),
    "aureus_append_failures_total": Kind("counter", (), "Appends of this process that could not be made durable."),
    "aureus_append_batch_events": Kind("histogram", (), "Events per commit."),
    "aureus_append_seconds": Kind("histogram", (), "From taking a place in the order of commits to being durable."),
    "aureus_append_commit_seconds": Kind("histogram", (), "How long the database took for a commit."),
    "aureus_commands_total": Kind("counter", ("command", "outcome"), "Commands: allowed, blocked, requires_approval, failed."),
    "aureus_policy_seconds": Kind("histogram", ("engine",), "From a question to the policies to their verdict."),
    "aureus_policy_unanswered_total": Kind("counter", ("engine",), "Questions that no policy answered, and that were blocked for it."),
    "aureus_http_requests_total": Kind("counter", ("method", "route", "status"), "Requests by route as it is declared."),
    "aureus_http_request_seconds": Kind("histogram", ("method", "route"), "From a request to the beginning of its answer."),
    "aureus_limit_refusals_total": Kind(
        "counter", ("limit",), "Requests refused as too many: queries, actor, key, tenant, address, attempts."
    ),
    "aureus_circuit_open": Kind("gauge", ("service",), "1 while a service that keeps failing is left alone: redis, opa, s3, oidc."),
    "aureus_resource_used_ratio": Kind("gauge", ("resource",), "Part in use, 0 to 1: cpu, memory, disk, connections, pools."),
    "aureus_resource_short": Kind("gauge", ("resource",), "1 when that is above the threshold, and administrators were told."),
    "aureus_projection_position": Kind("gauge", ("projection",), "The last event that a read model has taken in."),
    "aureus_projection_lag_events": Kind("gauge", ("projection",), "Events that a read model lacks."),
    "aureus_projection_lag_seconds": Kind("gauge", ("projection",), "Age of the oldest event it lacks; 0 when it lacks none."),
    "aureus_projection_stopped": Kind("gauge", ("projection",), "1 when a read model stopped before an event it could not take in."),
    "aureus_projection_batch_events": Kind("histogram", (), "Events per batch that this process folded into read models."),
    "aureus_relay_position": Kind("gauge", ("relay",), "The last event that the broker has acknowledged."),
    "aureus_relay_lag_events": Kind("gauge", ("relay",), "Events that the broker has not acknowledged."),
    "aureus_relay_lag_seconds": Kind("gauge", ("relay",), "Age of the oldest of them; 0 when there is none."),
    "aureus_relay_leading": Kind("gauge", ("relay",), "1 in the one process that relays, 0 in those that stand by."),
    "aureus_relay_waiting": Kind("gauge", ("relay",), "1 while a leading relay waits for the broker."),
    "aureus_relay_sent_events_total": Kind("counter", ("relay",), "Events that this process sent; after a crash some are sent again."),
    "aureus_relay_sent_records_total": Kind("counter", ("relay",), "Records that this process sent; one may hold many events, or none."),
    "aureus_relay_sent_bytes_total": Kind("counter", ("relay",), "Bytes of those records before compression."),
    "aureus_workers": Kind("gauge", (), "Workers that have spoken of themselves within ten seconds."),
    "aureus_worker_position": Kind("gauge", (), "The last event that this worker has brought into its read models."),
    "aureus_worker_waiting_records": Kind("gauge", (), "Records that Kafka brought and this worker has not looked at."),
    "aureus_worker_batches_total": Kind("counter", (), "Batches that this worker moved its read models by."),
    "aureus_worker_events_total": Kind("counter", (), "Events that Kafka brought; some of them twice."),
    "aureus_worker_refilled_events_total": Kind("counter", (), "Events that Kafka did not bring, and the ledger did."),
    "aureus_worker_duplicate_records_total": Kind("counter", (), "Records that brought nothing new."),
    "aureus_worker_bad_records_total": Kind("counter", (), "Records that are not the ledger's, or that this version cannot read."),
    "aureus_consumer_lag_records": Kind("gauge", ("partition",), "Records of a partition that this worker has not yet handled."),
    "aureus_dead_letters": Kind("gauge", ("reaction", "status"), "What reactions could not do: waiting, replaying, replayed, discarded."),
    "aureus_sagas": Kind("gauge", ("saga", "status"), "Sagas: running, waiting, compensating, completed, compensated."),
    "aureus_feeds": Kind("gauge", ("kind",), "Live feeds that are open in this process: events, changes."),
    "aureus_witness_lag_events": Kind("gauge", ("witness",), "Events that a witness has not cosigned."),
    "aureus_witness_lag_seconds": Kind("gauge", ("witness",), "Seconds since it cosigned; 0 when it lacks nothing, +Inf if it never did."),
    "aureus_witness_contradicts": Kind("gauge", ("witness",), "1 when a witness knows another history than this ledger has."),
}
"""Every metric there is; the table in docs/operators.md and the dashboards are held to it."""

_STANDING: Final = """
    WITH standing AS (
        SELECT p.name, p.position, p.stopped, h.size, e.at
        FROM projections.positions p CROSS JOIN ledger.head h LEFT JOIN ledger.events e ON e.position = p.position + 1
        WHERE p.name = ANY(%(projections)s)
    ), relayed AS (
        SELECT p.name, p.position, h.size, e.at
        FROM streams.positions p CROSS JOIN ledger.head h LEFT JOIN ledger.events e ON e.position = p.position + 1
        WHERE p.name = ANY(%(relays)s)
    )
    SELECT 'aureus_ledger_events', ARRAY[]::text[], size::float8 FROM ledger.head
    UNION ALL SELECT 'aureus_projection_position', ARRAY[name], position FROM standing
    UNION ALL SELECT 'aureus_projection_lag_events', ARRAY[name], greatest(size - position, 0) FROM standing
    UNION ALL SELECT 'aureus_projection_lag_seconds', ARRAY[name],
        coalesce(greatest(extract(epoch FROM clock_timestamp() - at), 0), 0) FROM standing
    UNION ALL SELECT 'aureus_projection_stopped', ARRAY[name], (stopped IS NOT NULL)::int FROM standing
    UNION ALL SELECT 'aureus_relay_position', ARRAY[name], position FROM relayed
    UNION ALL SELECT 'aureus_relay_lag_events', ARRAY[name], greatest(size - position, 0) FROM relayed
    UNION ALL SELECT 'aureus_relay_lag_seconds', ARRAY[name],
        coalesce(greatest(extract(epoch FROM clock_timestamp() - at), 0), 0) FROM relayed
    UNION ALL SELECT 'aureus_workers', ARRAY[]::text[], count(*) FROM streams.workers WHERE seen_at > now() - interval '10 s'
    UNION ALL SELECT 'aureus_dead_letters', ARRAY[doc->>'reaction', doc->>'status'], count(*)
        FROM read_reactions.dead_letters WHERE to_position = %(open)s GROUP BY 2
    UNION ALL SELECT 'aureus_sagas', ARRAY[doc->>'saga', doc->>'status'], count(*)
        FROM read_reactions.sagas WHERE to_position = %(open)s GROUP BY 2
"""
"""Every row a reading: its name, its labels, its value."""


class Metrics:
    """What one process tells a scraper. Whoever counts something is added once, by its `readings`."""

    def __init__(self, dsn: str, projections: Iterable[str]) -> None:
        self._dsn = dsn
        self._projections = list(projections)
        self.relays: list[str] = []
        """Those whose places are told of: one that is switched off would lag for ever."""
        self._sources: list[Source] = []
        self._connection: psycopg.AsyncConnection[TupleRow] | None = None
        self._asking = asyncio.Lock()
        self._standing: Sequence[Reading] = ()
        self._believed_until = 0.0

    def add(self, *sources: Source) -> None:
        self._sources.extend(sources)

    async def text(self, accept: str = "", *more: Source) -> tuple[bytes, str]:
        """All of it as a scraper that accepts this takes it, and the content type; `more` are sources for this once."""
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - nobody may ever ask

        readings: list[Reading] = [*await self._asked(), ("aureus_build_info", (aureus_version(),), 1)]
        readings.append(("aureus_projection_batch_events", (), PROJECTED))
        for source in (*self._sources, *more):
            readings.extend(source())
        encode, content_type = choose_encoder(accept)
        return encode(_registry(readings)), content_type

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _asked(self) -> Sequence[Reading]:
        """What the database knows, in one round trip; nothing but that it is away when it is."""
        async with self._asking:
            if monotonic() >= self._believed_until:
                try:
                    async with asyncio.timeout(DATABASE_SECONDS):
                        self._standing = [*await self._standings(), ("aureus_database_up", (), 1)]
                except (psycopg.Error, OSError, TimeoutError) as error:
                    _log.warning("the database does not answer a scrape: %s", error)
                    self._standing = [("aureus_database_up", (), 0)]
                    await self.close()
                    self._connection = None
                self._believed_until = monotonic() + BELIEVED_SECONDS
            return self._standing

    async def _standings(self) -> list[Reading]:
        if self._connection is not None:
            with suppress(psycopg.OperationalError):  # the database may have been started again meanwhile
                return await self._read(self._connection)
        self._connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        return await self._read(self._connection)

    async def _read(self, connection: psycopg.AsyncConnection[TupleRow]) -> list[Reading]:
        about = {"projections": self._projections, "relays": self.relays, "open": OPEN}
        rows = await (await connection.execute(_STANDING, about)).fetchall()
        return [(name, tuple(labels), value) for name, labels, value in rows]


class _Collected:
    """A collector of readings, as the client library wants one."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _registry(readings: Iterable[Reading]) -> Any:
    """A registry of these readings and of what the system knows about this process: memory, CPU, files."""
    from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415

    found: dict[str, list[Reading]] = {}
    for reading in readings:
        found.setdefault(reading[0], []).append(reading)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([_metric(name, METRICS[name], its) for name, its in sorted(found.items())]))
    ProcessCollector(registry=registry)
    return registry


def _metric(name: str, kind: Kind, readings: Iterable[Reading]) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily  # noqa: PLC0415

    if kind.type == "histogram":
        histogram = HistogramMetricFamily(name, kind.help, labels=kind.labels)
        for _, labels, spread in readings:
            assert isinstance(spread, Distribution)
            histogram.add_metric(labels, _cumulative(spread), spread.total)
        return histogram
    family: Callable[..., Any] = CounterMetricFamily if kind.type == "counter" else GaugeMetricFamily
    numbers = family(name, kind.help, labels=kind.labels)
    for _, labels, value in readings:
        numbers.add_metric(labels, value)
    metric: Metric = numbers
    return metric


def _cumulative(spread: Distribution) -> list[tuple[str, float]]:
    """Prometheus counts in each bucket what is in those below as well."""
    buckets, so_far = [], 0
    for bound, count in zip((*map(str, spread.bounds), "+Inf"), spread.counts, strict=True):
        so_far += count
        buckets.append((bound, float(so_far)))
    return buckets
