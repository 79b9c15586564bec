"""Spans by OpenTelemetry: loaded only when a collector is named (`infra.tracing`)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
    use_span,
)

from domain.kernel import Recorded
from domain.ledger import Append, Receipt
from infra.envelope import recorded
from infra.ledger import Ledger
from infra.logs import Errand
from infra.observing_settings import Exporter
from infra.store import StoredEvent
from infra.tracing import Headers, parse_traceparent, span_of
from infra.version import aureus_version

if TYPE_CHECKING:
    from infra.tracing import Events

TRACES_OF_A_BATCH_MAX: Final = 16
"""In how many traces a batch appears; the others it only counts."""
TOLD_FOR: Final = timedelta(minutes=10)
"""What is done with older events is catching up: it belongs to nobody's trace any more."""
_SAMPLERS: Final = frozenset({"traceidratio", "parentbased_traceidratio"})
_STEPS: Final = {"INTENT_VALIDATION": "validate", "POLICY_CHECK": "policy", "EXECUTION": "decide", "EVIDENCE_GEN": "evidence"}
_NOWHERE: Final = Context()


class _Ids(RandomIdGenerator):
    """Ids at random, unless the next span is to have certain ones."""

    trace: int | None = None
    span: int | None = None

    def generate_trace_id(self) -> int:
        return self.trace or super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self.span or super().generate_span_id()


class Share(TraceIdRatioBased):
    """A share of all traces, told by their last 56 bits: of the 64 that OpenTelemetry looks at, a UUID's first two are always the same."""

    TRACE_ID_LIMIT = (1 << 56) - 1


class Spans:
    """Makes spans and sends them to a collector."""

    def __init__(self, service: str, exporter: Exporter) -> None:
        share = os.environ.get("OTEL_TRACES_SAMPLER", "").strip() in _SAMPLERS
        self._root: Sampler = Share(float(os.environ.get("OTEL_TRACES_SAMPLER_ARG") or 1)) if share else ALWAYS_ON
        self._ids = _Ids()
        told = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, "service.version": aureus_version()}
        resource = Resource.create({**told, "service.instance.id": f"{socket.gethostname()}:{os.getpid()}"})
        self._provider = TracerProvider(ParentBased(self._root), resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(exporter)))
        self._tracer = self._provider.get_tracer("aureus")

    def close(self) -> None:
        self._provider.shutdown()

    def traced(self, ledger: Ledger) -> TracedLedger:
        return TracedLedger(ledger, self)

    def _start(self, name: str, parent: SpanContext | int, *, span: int | None = None, **more: Any) -> Span:
        """A span under a parent, or the first of a trace (int); `span` is the id it is to have."""
        self._ids.span = span
        self._ids.trace, context = (parent, _NOWHERE) if isinstance(parent, int) else (None, _under(parent))
        try:
            return self._tracer.start_span(name, context, **more)
        finally:
            self._ids.trace = self._ids.span = None

    @contextmanager
    def request(self, headers: Headers, errand: Errand) -> Iterator[None]:
        caller = _caller(headers)
        errand.correlation = _correlation(headers) or (UUID(int=caller.trace_id) if caller.is_valid else UUID(errand.request_id))
        trace = errand.correlation.int
        links = [Link(caller)] if caller.is_valid and caller.trace_id != trace else []
        parent = caller if caller.is_valid and not links else trace
        span = self._start("request", parent, kind=SpanKind.SERVER, links=links)
        span.set_attribute("aureus.request_id", errand.request_id or "")
        with use_span(span, end_on_exit=True):
            yield

    def answered(self, method: str, route: str, status: int) -> None:
        span = get_current_span()
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))

    @contextmanager
    def reaction(self, name: str, event: Recorded[Any]) -> Iterator[None]:
        span = self._start(f"reaction {name}", self._cause(event), attributes={"aureus.position": event.position})
        with use_span(span, end_on_exit=True):
            yield

    @contextmanager
    def batch(self, name: str, events: Events) -> Iterator[None]:
        causes = self._causes(events)
        if not causes:
            yield
            return
        attributes = {"aureus.events": len(events), "aureus.position": events[-1].position}
        span = self._tracer.start_span(name, _NOWHERE, attributes=attributes, links=[Link(cause) for cause in causes])
        began = time_ns()
        with use_span(span, end_on_exit=True):
            yield
        ended, own = time_ns(), [Link(span.get_span_context())]
        for cause in causes:
            self._start(name, cause, start_time=began, attributes=attributes, links=own).end(ended)

    def action(self, append: Append, asked: SpanContext, appended_from: int, ended: asyncio.Future[Receipt]) -> None:
        """The spans of an action, told when it has ended: the event of its ending knows how long it was in each state of the Guard."""
        action: Any = append.writes[-1].events[-1]
        guard: Sequence[tuple[str, int]] = getattr(action, "guard", ())
        if not guard or append.causation is None:
            return
        began, now, trace = appended_from - guard[-1][1] * 1_000, time_ns(), append.correlation.int
        parent = asked if asked.trace_id == trace else trace
        attributes = {
            "aureus.command": action.intent.command,
            "aureus.outcome": action.event_name,
            "aureus.action_id": str(append.causation),
        }
        command = self._start(f"command {action.intent.command}", parent, start_time=began, attributes=attributes)
        own = command.get_span_context()
        ends = [*(step[1] for step in guard[1:]), guard[-1][1]]
        for (state, since_us), until_us in zip(guard, ends, strict=True):
            if state in _STEPS:
                self._start(_STEPS[state], own, start_time=began + since_us * 1_000).end(began + until_us * 1_000)
        failure = None if ended.cancelled() else ended.exception()
        failed = ended.cancelled() or failure is not None
        append_span = self._start("append", own, span=None if failed else span_of(append.causation), start_time=appended_from)
        if failed:
            status = Status(StatusCode.ERROR, type(failure).__name__)
            command.set_status(status)
            append_span.set_status(status)
        else:
            append_span.set_attribute("aureus.position", ended.result().last_position)
        append_span.end(now)
        command.end(now)

    def _causes(self, events: Events) -> list[SpanContext]:
        """Under which spans these events were appended, each once, up to a bound."""
        since = datetime.now(UTC) - TOLD_FOR
        causes: dict[int, SpanContext] = {}
        for event in events:
            known = recorded(event.position, event.body, event.leaf) if isinstance(event, StoredEvent) else event
            if known.at >= since and known.correlation.int not in causes:
                causes[known.correlation.int] = self._cause(known)
                if len(causes) == TRACES_OF_A_BATCH_MAX:
                    break
        return list(causes.values())

    def _cause(self, event: Recorded[Any]) -> SpanContext:
        """The span under which an event was appended, in whatever process that was: sampled if its trace is."""
        trace = event.correlation.int
        sampled = self._root.should_sample(None, trace, "").decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(trace, span_of(event.causation or event.id), is_remote=True, trace_flags=flags)


class TracedLedger:
    """A ledger that tells how the actions ended that were appended to it."""

    def __init__(self, ledger: Ledger, spans: Spans) -> None:
        self._ledger, self._spans = ledger, spans

    @property
    def name(self) -> str:
        return self._ledger.name

    def enqueue(self, append: Append) -> asyncio.Future[Receipt]:
        asked, now = get_current_span().get_span_context(), time_ns()
        receipt = self._ledger.enqueue(append)
        receipt.add_done_callback(lambda ended: self._spans.action(append, asked, now, ended))
        return receipt

    async def read_stream(self, tenant: str, stream: str, after_version: int = 0) -> list[Recorded[Any]]:
        return await self._ledger.read_stream(tenant, stream, after_version)

    async def remembered(self, tenant: str, key: str) -> tuple[bytes, bytes] | None:
        return await self._ledger.remembered(tenant, key)


def _exporter(exporter: Exporter) -> SpanExporter:
    if exporter == "console":
        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


def _under(parent: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(parent), _NOWHERE)


def _caller(headers: Headers) -> SpanContext:
    """The caller's span, if it names one."""
    said = next((value for name, value in headers if name == b"traceparent"), b"")
    parsed = parse_traceparent(said.decode("latin-1"))
    if parsed is None:
        return INVALID_SPAN_CONTEXT
    trace, span, flags = parsed
    return SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags & TraceFlags.SAMPLED))


def _correlation(headers: Headers) -> UUID | None:
    """The correlation that a request names itself; what is none is refused later, by name."""
    said = next((value for name, value in headers if name == b"x-correlation-id"), b"")
    try:
        return UUID(said.decode("latin-1")) if said else None
    except ValueError:
        return None
