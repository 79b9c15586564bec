"""Personal fields beside the events: opened by what hashes to a signed digest, or named as withheld, or as erased."""

from __future__ import annotations

import binascii
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from infra.verifier.canonical import NotCanonical, canonical_object
from infra.verifier.events import Body
from infra.verifier.result import Problem

ERASED: Final = "subjects.subject_erased"
ERASER: Final = "svc-reactions"
"""Who certifies an erasure: the ledger takes the word of nobody else."""
_DECOY: Final = re.compile(r"_decoy[0-9]+")
_STATES: Final = {"open": {"disclosure", "name"}, "withheld": {"name"}, "erased": {"certificate"}}
_ALWAYS: Final = {"digest", "position", "state"}


@dataclass(frozen=True, slots=True)
class Fields:
    """What the events of a pack say of personal fields, by position."""

    tenant: str
    digests: Mapping[int, list[str]]
    named: Mapping[int, list[str]]
    """The texts in an event's data: the subject of each of its fields is among them."""
    certificates: Mapping[int, Body]
    """The events that `certificates.tsv` holds, every one of them in the tree."""
    accounted_after: int | None
    """Behind this position decoys are kept like values, so what is told of nowhere is missing; None where that was not so yet."""

    def counted(self, position: int) -> bool:
        return self.accounted_after is not None and position > self.accounted_after


def check_fields(pieces: Iterable[bytes], name: str, fields: Fields, counts: dict[str, int]) -> Iterator[Problem]:
    """Checks the lines of `disclosures.jsonl` against the digests in the events; `counts` is kept by state."""
    seen: set[tuple[int, str]] = set()
    for at, line in _lines(pieces):
        try:
            said = canonical_object(line)
            place = (said.get("position"), said.get("digest"))
            state = _require(said, place, fields, seen)
            counts[state] += 1
            seen.add((said["position"], said["digest"]))
        except (NotCanonical, ValueError, TypeError) as error:
            yield Problem(None, "disclosure", str(error), f"{name} byte {at}")
    for position, digests in fields.digests.items():
        for digest in digests:
            if (position, digest) in seen:
                continue
            counts["missing" if fields.counted(position) else "untold"] += 1
            if fields.counted(position):
                found = f"the value of the digest {digest} is gone, and no certificate says that it was erased"
                yield Problem(position, "field", found, name)


def _lines(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(byte, line) of each line; what comes after the last line feed counts as a line."""
    at, rest = 0, b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield at, line
            at += len(line) + 1
    if rest:
        yield at, rest


def _require(said: Mapping[str, Any], place: tuple[Any, Any], fields: Fields, seen: set[tuple[int, str]]) -> str:
    """The state of a field; raises ValueError."""
    state = said.get("state")
    if not isinstance(state, str) or state not in _STATES or set(said) != _ALWAYS | _STATES[state]:
        raise ValueError("not a field that is open, withheld or erased")
    if type(place[0]) is not int or place[1] not in fields.digests.get(place[0], ()):
        raise ValueError(f"no event of this pack at position {place[0]} holds the digest {place[1]}")
    if place in seen:
        raise ValueError(f"the digest {place[1]} of position {place[0]} stands twice")
    if state == "erased":
        _require_certified(place[0], said["certificate"], fields)
    if state == "open":
        value = _require_opens(said)
        return "decoy" if value is None and _DECOY.fullmatch(said["name"]) else state
    return state


def _require_certified(position: int, certificate: Any, fields: Fields) -> None:
    """That an event of the ledger certifies it: of this very subject, up to this position or further."""
    body = fields.certificates.get(certificate) if type(certificate) is int else None
    if body is None or certificate <= position or (body["type"], body["tenant"], body["actor"]) != (ERASED, fields.tenant, ERASER):
        raise ValueError(f"the field of position {position} is said to be erased without a certificate in this pack")
    subject, until = body["data"].get("subject_id"), body["data"].get("until")
    if subject not in fields.named.get(position, ()):
        raise ValueError(f"the certificate at position {certificate} is of {subject!r}, of whom position {position} does not speak")
    if type(until) is not int or position > until:
        raise ValueError(f"the certificate at position {certificate} covers events up to {until}, and not position {position}")


def _require_opens(said: Mapping[str, Any]) -> Any:
    """The value that is shown; raises ValueError when it is not the one that was signed."""
    encoded = str(said["disclosure"])
    digest = urlsafe_b64encode(sha256(encoded.encode()).digest()).rstrip(b"=").decode()
    if digest != said["digest"]:
        raise ValueError(f"what is disclosed at position {said['position']} is not what was signed: it has the digest {digest}")
    try:
        salt, name, value = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise ValueError(f"the disclosure at position {said['position']} cannot be read") from None
    if not isinstance(salt, str) or name != said["name"]:
        raise ValueError(f"the disclosure at position {said['position']} is of the field {name!r}, not of {said['name']!r}")
    return value
