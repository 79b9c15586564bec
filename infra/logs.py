"""The log: one line for whatever an operator should know, as text for people or as JSON for machines, and never a secret in it.

Each line says on whose account it was written - request, actor, correlation, trace - as far as there is one.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final
from uuid import UUID

from domain.kernel import timestamp

ACCESS: Final = logging.getLogger("aureus.access")
"""A line per request, if wanted."""
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_SECRETS: Final = (
    (re.compile(r"\baur_[^\s_\"']+_[^\s_\"']+_[0-9a-f]{64}\b"), "aur_(key)"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), "(token)"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 (credential)"),
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+@"), r"\1(password)@"),
    (re.compile(r"\b(password|passwd|secret|pin|token|api_key)(\"?'?\s*[=:]\s*\"?'?)[^\s\"',}]+", re.IGNORECASE), r"\1\2(hidden)"),
    (re.compile(r"input_value=.*?, input_type"), "input_value=(hidden), input_type"),  # pydantic repeats what it was given
    (re.compile(r"^(DETAIL|CONTEXT):.*$", re.MULTILINE), r"\1: (hidden)"),  # so does PostgreSQL
)


@dataclass(slots=True, eq=False)
class Errand:
    """On whose account a task works: a request, and the correlation that ties what it does to what led to it."""

    request_id: str | None = None
    correlation: UUID | None = None
    actor: str | None = None
    began: float = 0.0
    """When a request came, of `perf_counter`."""


_ERRAND: ContextVar[Errand | None] = ContextVar("errand", default=None)


def errand() -> Errand:
    """Whose work the task that asks is at; nobody's when it is nobody's in particular."""
    return _ERRAND.get() or Errand()


def begin_request(request_id: str) -> Errand:
    """A request's task begins: whatever it logs from here on says so."""
    begun = Errand(request_id, None, None, perf_counter())
    _ERRAND.set(begun)
    return begun


@contextmanager
def on_behalf_of(correlation: UUID) -> Iterator[None]:
    """What is logged within is on account of what bears this correlation."""
    token = _ERRAND.set(Errand(correlation=correlation))
    try:
        yield
    finally:
        _ERRAND.reset(token)


def log_to_stderr(level: str, form: str = "text", *, access: bool = False, traced: bool = False) -> None:
    """Sets the log up, for the whole process. `access` adds a line per request; at level `debug` there always is one.

    `traced` says that spans are sent: then the trace of a correlation is worth naming.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json(traced=traced) if form == "json" else _Text(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=form == "json")
    ACCESS.setLevel(logging.INFO if access or level == "debug" else logging.CRITICAL)
    if level == "info":  # what we ask of others is in their logs
        logging.getLogger("httpx").setLevel(logging.WARNING)


def without_secrets(text: str) -> str:
    """The text without what looks like a credential, and without what libraries repeat of the data they were given."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class _Text(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def _json(*, traced: bool) -> logging.Formatter:
    """A line for machines: `time`, `level`, `logger`, whose errand it was, `message`, and what else the line has to say."""
    from pythonjsonlogger.core import RESERVED_ATTRS  # noqa: PLC0415 - who logs as text need not load it
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415

    class Json(JsonFormatter):
        def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
            said: dict[str, Any] = {}
            super().add_fields(said, record, message_dict)
            for name, value in (_heading(record, traced=traced) | said).items():
                log_data[name] = without_secrets(value) if isinstance(value, str) else value

    unsaid = (*RESERVED_ATTRS, "color_message")  # uvicorn says it once more, for terminals
    return Json("%(message)s", json_ensure_ascii=False, rename_fields={"exc_info": "exception"}, reserved_attrs=unsaid)


def _heading(record: logging.LogRecord, *, traced: bool) -> dict[str, str]:
    on = errand()
    heading = {
        "time": timestamp(datetime.fromtimestamp(record.created, UTC)),
        "level": record.levelname.lower(),
        "logger": record.name,
        "request_id": on.request_id,
        "actor": on.actor,
        "correlation_id": str(on.correlation) if on.correlation else None,
        "trace_id": on.correlation.hex if on.correlation and traced else None,
    }
    return {name: value for name, value in heading.items() if value is not None}
