"""Requests that actors sign themselves: how a signature is made, and the header it comes in."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from domain.actions import RequestSignature
from domain.kernel import timestamp
from domain.keys import request_message
from infra.keystore import Signer

HEADER: Final = "Aureus-Signature"
PREPARE: Final = "Aureus-Prepare"
_MEMBER: Final = re.compile(r"(keyid|nonce|at|sig)=([^,\s]+)")
_FIELDS: Final = {"keyid": "key_id", "nonce": "nonce", "at": "at", "sig": "sig"}


def sign(
    ledger: str, tenant: str, actor: str, command_name: str, digest: str, signer: Signer, at: datetime, nonce: str
) -> RequestSignature:
    """The actor's signature over one command: `digest` is `Command.digest()`, `nonce` a UUID that it never used before."""
    moment = timestamp(at)
    message = request_message(ledger, tenant, actor, command_name, digest, nonce, moment)
    return RequestSignature(key_id=signer.key_id, nonce=nonce, at=moment, sig=base64.b64encode(signer.sign(message)).decode())


def header_of(signature: RequestSignature) -> str:
    """`keyid=<hex>, nonce=<uuid>, at=<RFC 3339>, sig=<base64>`"""
    return ", ".join(f"{member}={getattr(signature, field)}" for member, field in _FIELDS.items())


def parse(header: str) -> RequestSignature:
    """The signature in a header; ValueError, with the rule, when it is not one."""
    members = [_MEMBER.fullmatch(part.strip()) for part in header.split(",")]
    found = {match[1]: match[2] for match in members if match is not None}
    if len(found) != len(_FIELDS) or len(members) != len(_FIELDS):
        raise ValueError("it has the members keyid, nonce, at and sig, each once")
    try:
        return RequestSignature(**{field: found[member] for member, field in _FIELDS.items()})
    except ValidationError as error:
        wrong = str(error.errors()[0]["loc"][0])
        raise ValueError(_RULES[wrong]) from None


_RULES: Final = {
    "key_id": "keyid is the key's full id: 64 hex digits",
    "nonce": "nonce is a UUID in lower case",
    "at": "at is RFC 3339 in UTC with six digits, such as 2026-03-03T14:00:00.000000Z",
    "sig": "sig is base64 of 64 bytes",
}
