"""Personal fields beside the events: opened by what hashes to a signed digest, or named as withheld, or as erased."""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

from infra.verifier.canonical import NotCanonical, canonical_object
from infra.verifier.result import Problem

_STATES: Final = {"open": {"disclosure"}, "withheld": set(), "erased": {"certificate"}}
_ALWAYS: Final = {"digest", "name", "position", "state"}


def check_fields(
    pieces: Iterable[bytes], name: str, digests: Mapping[int, list[str]], size: int, counts: dict[str, int]
) -> Iterator[Problem]:
    """Checks the lines of `disclosures.jsonl` against the digests in the events, by position; `counts` is kept by state."""
    seen: set[tuple[int, str]] = set()
    for at, line in _lines(pieces):
        try:
            said = canonical_object(line)
            place = (said.get("position"), said.get("digest"))
            _require(said, place, digests, seen, size)
            counts[said["state"]] += 1
            seen.add((said["position"], said["digest"]))
        except (NotCanonical, ValueError, TypeError) as error:
            yield Problem(None, "disclosure", str(error), f"{name} byte {at}")
    counts["missing"] = sum(map(len, digests.values())) - len(seen)


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


def _require(
    said: Mapping[str, Any], place: tuple[Any, Any], digests: Mapping[int, list[str]], seen: set[tuple[int, str]], size: int
) -> None:
    """Raises ValueError."""
    state = said.get("state")
    if not isinstance(state, str) or state not in _STATES or set(said) != _ALWAYS | _STATES[state]:
        raise ValueError("not a field that is open, withheld or erased")
    if type(place[0]) is not int or place[1] not in digests.get(place[0], ()):
        raise ValueError(f"no event of this pack at position {place[0]} holds the digest {place[1]}")
    if place in seen:
        raise ValueError(f"the digest {place[1]} of position {place[0]} stands twice")
    if state == "open":
        _require_opens(said)
    if state == "erased" and (type(said["certificate"]) is not int or not place[0] < said["certificate"] <= size):
        raise ValueError(f"the field of position {place[0]} is said to be erased without a certificate in this log")


def _require_opens(said: Mapping[str, Any]) -> None:
    encoded = str(said["disclosure"])
    digest = urlsafe_b64encode(sha256(encoded.encode()).digest()).rstrip(b"=").decode()
    if digest != said["digest"]:
        raise ValueError(f"what is disclosed at position {said['position']} is not what was signed: it has the digest {digest}")
    try:
        salt, name, _ = json.loads(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise ValueError(f"the disclosure at position {said['position']} cannot be read") from None
    if not isinstance(salt, str) or name != said["name"]:
        raise ValueError(f"the disclosure at position {said['position']} is of the field {name!r}, not of {said['name']!r}")
