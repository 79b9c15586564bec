"""A process as its operator sees it: its log and its spans, from before anything is opened until everything is closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from infra import tracing
from infra.logs import log_to_stderr
from infra.settings import Settings


@contextmanager
def observed(settings: Settings, service: str) -> Iterator[None]:
    """Sets up the log, and the spans in the name of this service if a collector is named."""
    chosen = settings.observing
    log_to_stderr(settings.log_level, chosen.log_format, access=chosen.access_log, traced=chosen.traces is not None)
    tracing.start(service, chosen.traces)
    try:
        yield
    finally:
        tracing.stop()
