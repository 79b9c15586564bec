"""The manifest of a pack: an in-toto statement about every other member and what the pack claims to be, signed by the service key."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from domain.kernel import JsonObject
from domain.ledger import EventSigner
from infra.canonical import canonical
from infra.packing.canonical_zip import Member
from infra.packing.choosing import Choice
from infra.packing.plan import Plan
from infra.verifier.notes import parse_checkpoint, parse_note

FORMAT: Final = "aureus-pack/v1"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://aureus.example/export/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
NAME: Final = "manifest.json"


def statement(plan: Plan, members: Sequence[Member], choice: Choice, keys: int, accounted: int) -> JsonObject:
    """The statement about these members."""
    return {
        "_type": STATEMENT,
        "subject": [{"digest": {"sha256": member.sha256}, "name": member.name} for member in members],
        "predicateType": PREDICATE,
        "predicate": {
            "format": FORMAT,
            "ledger": plan.ledger,
            "tenant": plan.tenant,
            "export_id": plan.export_id,
            "recipient": plan.recipient,
            "created_at": plan.created_at,
            "software": plan.software,
            "scope": plan.scope,
            "selection": plan.selection,
            "range": {"after": plan.after, "until": plan.until},
            "profile": plan.profile,
            "checkpoint": {"size": plan.checkpoint_size, "root": base64.b64encode(root_of(plan)).decode()},
            "counts": counts(choice, keys),
            "accounted_after": accounted,
            "withheld": choice.withheld,
            "fences": {"before": choice.before, "after": choice.after},
            "index": plan.index,
            "views": list(plan.views),
        },
    }


def counts(choice: Choice, keys: int) -> dict[str, int]:
    return {
        "entries": choice.entries,
        "keys": keys,
        "withheld_entries": len(choice.withheld),
        "other_jurisdiction": choice.other_jurisdiction,
        "outside_period": choice.outside_period,
    }


def root_of(plan: Plan) -> bytes:
    """The root of the plan's checkpoint."""
    return parse_checkpoint(parse_note(plan.checkpoint.encode()).text).root


def sealed(payload: bytes, signer: EventSigner) -> bytes:
    """The DSSE envelope around a statement's canonical bytes."""
    message = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    signature = base64.b64encode(signer.sign(message)).decode()
    signatures = [{"keyid": signer.key_id, "sig": signature}]
    return canonical({"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": signatures})


README: Final = """\
Aureus pack {export_id}, made {created_at} for {recipient}.

It holds events of the ledger {ledger}, exactly as they were signed, with all that is needed to
check them: the log's checkpoint with the signatures of its witnesses (log/), every key the ledger
ever had (keys.tsv), the events (entries/), what proves that none is missing (index/), and what of
the personal data you are shown (disclosures.jsonl). views/ tells the same events again in other
forms; what counts are the entries. manifest.json lists every file with its SHA-256, and is signed.

Verify it, on any machine with Python and pynacl:

    python aureus_verify.py pack.zip --keys trust.json

trust.json says which root key and which witnesses you believe. Have it from somewhere else than
this pack: what a file says of itself proves nothing.
"""


def readme(plan: Plan) -> bytes:
    """What a person reads first; ASCII."""
    text = README.format(export_id=plan.export_id, created_at=plan.created_at, recipient=plan.recipient, ledger=plan.ledger)
    return text.encode("ascii", "replace")
