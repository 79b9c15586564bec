"""Whose values an event may hold: by the marks of its class, for its signed bytes name the subject and never the value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module

from domain.contexts import CONTEXTS
from domain.kernel import EVENTS, JsonObject
from domain.values import Personal


@cache
def _marks(kind: str) -> Mapping[str, Personal]:
    for context in CONTEXTS:
        import_module(f"domain.{context}")  # a process that only packs has loaded none of them
    event = EVENTS.find(kind)
    return event.personal if event else {}


def subjects_of(kind: str, data: JsonObject) -> Iterator[tuple[str, str]]:
    """(subject, purpose) of every personal field that an event of this kind may have."""
    for mark in _marks(kind).values():
        yield data[mark.subject], mark.purpose
