"""A pack's manifest: an in-toto statement, signed by the ledger's service key, of what the pack holds and what it claims to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from infra.verifier.canonical import NotCanonical, canonical_object
from infra.verifier.events import MOMENT, Bad, holds, open_signed, signed_text
from infra.verifier.keys import KeyRing

MANIFEST: Final = "manifest.json"
PACK_FORMAT: Final = "aureus-pack/v1"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://aureus.example/export/v1"

_STANDING: Final = {"topic": str, "count": int, "chain": str, "index": int, "path": [str]}
_ABSENT: Final = {"topic": str, "absent": bool, "before": (_STANDING, None), "after": (_STANDING, None)}
_SHAPE: Final = {
    "format": str,
    "ledger": str,
    "tenant": str,
    "export_id": str,
    "recipient": str,
    "created_at": str,
    "software": str,
    "scope": str,
    "selection": {
        "datasets": [str],
        "agents": [str],
        "actors": [str],
        "policies": [str],
        "jurisdictions": [str],
        "from": (str, None),
        "to": (str, None),
    },
    "range": {"after": int, "until": int},
    "profile": {"name": str, "disclose": [str], "withhold_types": [str]},
    "checkpoint": {"size": int, "root": str},
    "counts": {"entries": int, "keys": int, "withheld_entries": int, "other_jurisdiction": int, "outside_period": int},
    "accounted_after": (int, None),
    "withheld": [int],
    "fences": {"before": (int, None), "after": (int, None)},
    "index": (None, {"position": int, "size": int, "topics_count": int, "topics": [(_STANDING, _ABSENT)]}),
    "views": [str],
}
"""What a predicate is made of: types, lists of one shape, alternatives."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says; whether that is so is another question."""

    subjects: Mapping[str, str]
    """SHA-256 (hex) of each member, in order."""
    predicate: Mapping[str, Any]
    key_id: str
    payload: bytes
    signature: bytes

    @property
    def everything(self) -> bool:
        return bool(self.predicate["scope"] == "everything")

    @property
    def after(self) -> int:
        return int(self.predicate["range"]["after"])

    @property
    def until(self) -> int:
        return int(self.predicate["range"]["until"])

    @property
    def fences(self) -> set[int]:
        """Positions of the events next to the period, on either side."""
        return {position for position in self.predicate["fences"].values() if position is not None}


def read_manifest(document: bytes) -> Manifest:
    """The manifest in its envelope; raises Bad."""
    try:
        envelope = canonical_object(document)
        if set(envelope) != {"payload", "payloadType", "signatures"} or envelope["payloadType"] != _PAYLOAD_TYPE:
            raise Bad("manifest", "it is not a DSSE envelope of an in-toto statement")
        payload, signatures = open_signed(envelope)
        statement = canonical_object(payload)
    except NotCanonical as error:
        raise Bad("manifest", str(error)) from None
    except Bad as bad:
        raise Bad("manifest", bad.found) from None
    if set(statement) != {"_type", "subject", "predicateType", "predicate"} or len(signatures) != 1:
        raise Bad("manifest", "it is not a statement with one signature")
    if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
        raise Bad("manifest", f"it is a statement of another type: {statement['predicateType']!r}")
    if type(statement["predicate"]) is dict:
        statement["predicate"].setdefault("accounted_after", None)  # packs of before decoys were kept say nothing of it
    if not _fits(statement["subject"], [{"digest": {"sha256": str}, "name": str}]) or not _fits(statement["predicate"], _SHAPE):
        raise Bad("manifest", f"its members are not those of {PACK_FORMAT}")
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    (key_id, signature), predicate = signatures[0], statement["predicate"]
    if len(subjects) != len(statement["subject"]):
        raise Bad("manifest", "it names a member twice")
    _require_sense(predicate)
    return Manifest(subjects, predicate, key_id, payload, signature)


def require_signed(manifest: Manifest, ring: KeyRing) -> None:
    """By a service key that was in force when the checkpoint was signed; raises Bad."""
    size, key = manifest.predicate["checkpoint"]["size"], ring.keys.get(manifest.key_id)
    # A key that came in with the checkpoint's last event is the one in force from there on.
    if key is None or key.role != "service" or not (key.signs_at(size) or key.signs_at(size + 1)):
        raise Bad("manifest", f"{manifest.key_id[:16]} signed it, which is not a service key in force at {size}")
    if not holds(key.public, signed_text(_PAYLOAD_TYPE.encode(), manifest.payload), manifest.signature):
        raise Bad("manifest", f"the signature of {manifest.key_id[:16]} does not hold")


def _require_sense(predicate: Mapping[str, Any]) -> None:
    """What every reader would stumble over; raises Bad."""
    size, after, until = predicate["checkpoint"]["size"], predicate["range"]["after"], predicate["range"]["until"]
    index, withheld, period = predicate["index"], predicate["withheld"], predicate["selection"]
    horizon = size if index is None else index["size"]
    if predicate["format"] != PACK_FORMAT:
        raise Bad("manifest", f"its format is {predicate['format']!r}, and this program knows {PACK_FORMAT}")
    if predicate["scope"] not in ("everything", "selection") or (predicate["scope"] == "everything") != (index is None):
        raise Bad("manifest", "a selection has an index, and everything has none")
    if not 0 <= after <= until <= horizon <= size:
        raise Bad("manifest", f"its range ({after}, {until}] does not lie within {horizon} of {size} positions")
    if withheld != sorted(set(withheld)) or any(not 1 <= position <= size for position in withheld):
        raise Bad("manifest", "the positions it withholds are not ascending positions of this log")
    if any(moment is not None and not MOMENT.fullmatch(moment) for moment in (period["from"], period["to"])):
        raise Bad("manifest", "its period is not told in UTC with six digits")


def _fits(value: Any, shape: Any) -> bool:
    """Whether a JSON value is made as a shape says."""
    if isinstance(shape, tuple):
        return any(_fits(value, one) for one in shape)
    if isinstance(shape, list):
        return type(value) is list and all(_fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        return type(value) is dict and value.keys() == shape.keys() and all(_fits(value[name], shape[name]) for name in shape)
    return value is None if shape is None else type(value) is shape
