"""Traces: what an action went through from the request to the read models, in however many processes.

The trace of an action is its correlation, which every event bears: so whoever comes upon an event, in whatever process and
however much later, knows which trace it belongs to, and under which span of it (the append, whose id is the action's). Unless
a collector is named nothing of OpenTelemetry is loaded, and each of these functions costs one look at a variable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

if TYPE_CHECKING:
    from domain.kernel import Recorded
    from infra.ledger import Ledger
    from infra.logs import Errand
    from infra.observing_settings import Exporter
    from infra.otel import Spans, TracedLedger
    from infra.store import StoredEvent

    Events = Sequence[Recorded[Any]] | Sequence[StoredEvent]

Headers = Sequence[tuple[bytes, bytes]]
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class NoSpan:
    """What a span is as long as nobody looks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


NO_SPAN: Final = NoSpan()
_spans: Spans | None = None


def start(service: str, exporter: Exporter | None) -> None:
    """Has spans made from here on, in the name of this service; with no exporter, none."""
    global _spans  # noqa: PLW0603 - there is one of it in a process, as of the log
    if exporter is None:
        return
    from infra.otel import Spans  # noqa: PLC0415 - half a second, for those who want it

    _spans = Spans(service, exporter)


def stop() -> None:
    """Sends what is left; waits for the collector a few seconds at most."""
    global _spans  # noqa: PLW0603
    if _spans is not None:
        _spans.close()
        _spans = None


def request(headers: Headers, errand: Errand) -> AbstractContextManager[object] | None:
    """The span of a request, which gives its errand a correlation: the one it brings, that of its caller's trace, or its own id.

    None when nobody looks: it stands before every command.
    """
    return None if _spans is None else _spans.request(headers, errand)


def answered(method: str, route: str, status: int) -> None:
    """How the request ended that the current span is of."""
    if _spans is not None:
        _spans.answered(method, route, status)


def reaction(name: str, recorded: Recorded[Any]) -> AbstractContextManager[object]:
    """The span of what is done because of an event."""
    return NO_SPAN if _spans is None else _spans.reaction(name, recorded)


def batch(name: str, events: Events) -> AbstractContextManager[object]:
    """The span of what is done with many events at once: one of its own, and one in the trace of each, up to a bound."""
    return NO_SPAN if _spans is None else _spans.batch(name, events)


def traced(ledger: Ledger) -> Ledger | TracedLedger:
    """The ledger as commands are to have it: one that has their spans made, if anybody looks."""
    return ledger if _spans is None else _spans.traced(ledger)


def parse_traceparent(text: str) -> tuple[int, int, int] | None:
    """(trace, span, flags) of a W3C `traceparent`; None when it is none, for then a new trace begins, and nobody is refused."""
    found = _TRACEPARENT.fullmatch(text.strip())
    if found is None or (text.startswith("00") and found[4]):
        return None
    return int(found[1], 16), int(found[2], 16), int(found[3], 16)


def correlation_of(traceparent: str | None) -> UUID | None:
    """The correlation that a caller's trace comes to."""
    parsed = parse_traceparent(traceparent) if traceparent else None
    return UUID(int=parsed[0]) if parsed else None


def span_of(cause: UUID) -> int:
    """The id of the span under which an action's events were appended."""
    return cause.int & ((1 << 64) - 1)
