"""What travels through Kafka: which stretch of the ledger a record speaks for, and the signed events of its partition in it.

A record of partition `p` says: these are all events of `p` at positions in `(after, until]`. So each partition is a chain
of stretches: one that begins beyond where a reader has come to leaves a gap, and one that ends before it is a duplicate.
An event on its own travels as its signed body; many, or none, as frames: 8 bytes of position, 4 of length, 32 of leaf, body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from domain.kernel import Event, Recorded
from infra.envelope import recorded
from infra.partitions import partition_key
from infra.store import StoredEvent

_FRAME: Final = Struct(">QI32s")
_CORRELATION: Final = b'"correlation":"'
_CAUSATION: Final = b'"causation":'
_ID: Final = b',"id":"'
_SCHEMA: Final = b',"schema":'
_UUID: Final = 36
Headers = list[tuple[str, bytes]]
Frame = tuple[int, bytes, bytes]
"""(position, leaf, body)"""


class BadRecord(Exception):
    """A record that nobody of ours wrote: names what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """All events of one partition (of so many) at positions in `(after, until]`, in order."""

    partition: int
    of: int
    after: int
    until: int
    events: tuple[Recorded[Event], ...]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record as a producer takes it."""

    key: bytes | None
    value: bytes
    headers: Headers


def single(stored: StoredEvent, after: int, of: int, ledger: str, until: int | None = None) -> Outgoing:
    """One event on its own, told apart by headers that a reader understands without parsing it."""
    body = stored.body
    # Found, not parsed, for it is done for each event: the members are sorted, and within a string a quote is escaped.
    correlation = body.index(_CORRELATION) + len(_CORRELATION)
    event_id = body.rindex(_ID) + len(_ID)
    # The span of the append is named after the action: of its own event, and of the facts that it caused.
    causation = body.index(_CAUSATION) + len(_CAUSATION)
    action = event_id if body[causation : causation + 1] != b'"' else causation + 1
    schema = body.index(_SCHEMA, event_id) + len(_SCHEMA)
    headers: Headers = [
        ("position", b"%d" % stored.position),
        ("event", stored.type.encode()),
        ("schema", body[schema : body.index(b",", schema)]),
        ("leaf", stored.leaf),
        ("traceparent", _traceparent(body[correlation : correlation + _UUID], body[action : action + _UUID])),
        *_stretch_headers(after, until or stored.position, of, ledger),
    ]
    return Outgoing(partition_key(stored.tenant, stored.stream), body, headers)


def packed(stored: Sequence[StoredEvent], after: int, until: int, of: int, ledger: str) -> Outgoing:
    """Many events of one partition, or none: then it only says that the partition has nothing up to `until`."""
    value = b"".join(part for event in stored for part in (_FRAME.pack(event.position, len(event.body), event.leaf), event.body))
    return Outgoing(None, value, [("events", b"%d" % len(stored)), *_stretch_headers(after, until, of, ledger)])


def _stretch_headers(after: int, until: int, of: int, ledger: str) -> Headers:
    return [("after", b"%d" % after), ("until", b"%d" % until), ("of", b"%d" % of), ("ledger", ledger.encode())]


def traceparent(correlation: str, event_id: str) -> bytes:
    """W3C trace context of an event: its trace is the correlation, so whoever follows one follows the other."""
    return _traceparent(correlation.encode(), event_id.encode())


def _traceparent(correlation: bytes, event_id: bytes) -> bytes:
    return b"00-%b-%b-01" % (correlation.replace(b"-", b""), event_id.replace(b"-", b"")[16:])


def stretch_of(partition: int, value: bytes | None, headers: Sequence[tuple[str, bytes]], ledger: str) -> Stretch:
    """The stretch of this ledger that a record speaks for. Raises BadRecord; UnknownEvent when this code has no class for an event."""
    said = dict(headers)
    try:
        _require_of(partition, said, ledger)
        after, until, of = int(said["after"]), int(said["until"]), int(said["of"])
        events = tuple(recorded(position, body, leaf) for position, leaf, body in _frames(partition, value or b"", said))
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(partition, error) from error
    return Stretch(partition, of, after, until, events)


def frames_of(partition: int, value: bytes | None, headers: Sequence[tuple[str, bytes]], ledger: str) -> list[Frame]:
    """The events of this ledger that a record holds, as they are signed. Raises BadRecord."""
    said = dict(headers)
    try:
        _require_of(partition, said, ledger)
        return _frames(partition, value or b"", said)
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(partition, error) from error


def _require_of(partition: int, said: dict[str, bytes], ledger: str) -> None:
    """Positions of two ledgers mean different events: who reads one must not take in the other that uses, or used, the same topic."""
    if said["ledger"] != ledger.encode():
        raise BadRecord(f"a record in partition {partition} is of ledger {said['ledger'].decode(errors='replace')}, and this is {ledger}")


def _foreign(partition: int, error: Exception) -> BadRecord:
    return BadRecord(f"a record in partition {partition} is not one of the ledger's: {error!r}")


def _frames(partition: int, value: bytes, said: dict[str, bytes]) -> list[Frame]:
    if "events" not in said:
        return [(int(said["position"]), said["leaf"], value)]
    frames: list[Frame] = []
    at = 0
    while at < len(value):
        if at + _FRAME.size > len(value):
            raise ValueError("it is cut short")
        position, length, leaf = _FRAME.unpack_from(value, at)
        at += _FRAME.size
        body = value[at : at + length]
        if len(body) != length:
            raise ValueError("it is cut short")
        frames.append((position, leaf, body))
        at += length
    if len(frames) != int(said["events"]):
        raise BadRecord(f"a record in partition {partition} holds {len(frames)} events and says {said['events'].decode()}")
    return frames
