"""Whether a report comes from who knows a hook's secret, was made just now, and which report it is."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from infra.sealed_secrets import PREFIX

TOLERANCE_SECONDS: Final = 300
"""How far a report's time may be from ours: later it could be one that somebody recorded."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+=~-]{0,199}")
_NOBODY: Final = base64.b64encode(bytes(32)).decode()
Headers = Mapping[str, str]
"""By lower-case name."""


class NotSigned(Exception):
    """The report is nobody's who knows a secret, or is not of now; the reason is for the log alone."""


def verified(scheme: str, secrets: Sequence[str], headers: Headers, body: bytes, now: float) -> str:
    """The id of a report that one of these secrets signed, the same whenever it is sent again. Raises NotSigned.

    GitHub signs neither a time nor its delivery id: there the body itself is the id, so a recorded one becomes nothing new.
    """
    if scheme == "github":
        _require_signed(secrets, headers.get("x-hub-signature-256", ""), body, _github)
        return hashlib.sha256(body).hexdigest()
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signed = f"{message_id}.{timestamp}.".encode() + body
    _require_signed(secrets, headers.get("webhook-signature", ""), signed, _standard)
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 13) or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise NotSigned("its time is not now")
    return message_id if _ID.fullmatch(message_id) else hashlib.sha256(message_id.encode()).hexdigest()


def _require_signed(secrets: Sequence[str], shown: str, signed: bytes, sign: Callable[[str, bytes], bytes]) -> None:
    """Every secret is tried on every signature, and one more when there is none: whatever is shown takes as long."""
    given = shown.encode("latin-1", "replace").split()
    matches = [hmac.compare_digest(sign(secret, signed), one) for secret in secrets or (_NOBODY,) for one in given or (b"",)]
    if not (secrets and any(matches)):
        raise NotSigned("no secret of the hook made this signature")


def _standard(secret: str, signed: bytes) -> bytes:
    return b"v1," + base64.b64encode(hmac.digest(standard_key(secret), signed, hashlib.sha256))


def _github(secret: str, signed: bytes) -> bytes:
    return b"sha256=" + hmac.digest(secret.encode(), signed, hashlib.sha256).hex().encode()


def standard_key(secret: str) -> bytes:
    """The bytes that a secret of the Standard Webhooks stands for. Raises ValueError."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is not base64: {error}") from error
