"""One witness as the ledger's server sees it: what is asked of it (c2sp.org/tlog-witness), and what of its answers is believed."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx

from infra.settings import WitnessPlace
from infra.verifier.notes import BadNote, cosigned_at, decode_decimal, parse_checkpoint, parse_note, signature_line
from infra.witness import origin_hash

ANSWER_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024
CLOCK_AHEAD: Final = timedelta(hours=1)
"""A witness whose clock is further ahead is not believed: its cosignature would vouch for a time that has not come."""
_SHOWN: Final = 200


class NotCosigned(Exception):
    """The witness did not cosign, for a reason that says nothing about the ledger; trying again may help."""


class OtherSize(Exception):
    """The witness cosigned last at `size`, and not at the size it was told."""

    def __init__(self, size: int) -> None:
        super().__init__(f"it knows {size} events")
        self.size = size


class DoesNotFollow(Exception):
    """The witness says that the checkpoint does not follow from the one it cosigned last."""


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature: its line for the note, and when the witness made it."""

    line: bytes
    at: datetime


class WitnessClient:
    """Speaks with one witness over a connection that is kept."""

    def __init__(self, place: WitnessPlace) -> None:
        self.key = place.key
        self._url = place.url
        tls = ssl.create_default_context() if place.url.startswith("https:") else False  # http leads to this machine alone
        # No proxy and no redirection: the answer has to be that of the witness which was named.
        self._http = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False, verify=tls)

    async def close(self) -> None:
        await self._http.aclose()

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: bytes, now: datetime) -> Cosignature:
        """Its cosignature on a signed checkpoint. Raises NotCosigned, OtherSize, DoesNotFollow."""
        lines = [f"old {old_size}", *(base64.b64encode(value).decode() for value in proof)]
        status, body = await self._call("POST", "add-checkpoint", "\n".join(lines).encode() + b"\n\n" + note)
        match status:
            case 200:
                return self._verified(note, body, now)
            case 409:
                try:
                    raise OtherSize(decode_decimal(body.decode("ascii").removesuffix("\n"), "its size"))
                except ValueError as error:
                    raise NotCosigned(f"it answers 409 without saying which size it knows: {error}") from error
            case 422:
                raise DoesNotFollow(_shown(body))
            case 403:
                raise NotCosigned(f"it does not know the key that signed: {_shown(body)} Tell it the log's verifier key (--log).")
            case 404:
                raise NotCosigned(f"it does not watch this ledger: {_shown(body)} Tell it the log's verifier key (--log).")
            case _:
                raise NotCosigned(f"it answers {status}: {_shown(body)}")

    async def root_at(self, origin: str, size: int) -> bytes | None:
        """The root that it cosigned for a log of this size, if that is the latest it has, and if it shows it."""
        try:
            status, body = await self._call("GET", f"{origin_hash(origin)}/checkpoint", b"")
            note = parse_note(body)
            checkpoint = parse_checkpoint(note.text)
            signed = cosigned_at(note, self.key) is not None
        except (NotCosigned, BadNote):
            return None
        return checkpoint.root if status == 200 and signed and (checkpoint.origin, checkpoint.size) == (origin, size) else None

    def _verified(self, note: bytes, lines: bytes, now: datetime) -> Cosignature:
        try:
            whole = parse_note(note + lines)
            at = cosigned_at(whole, self.key)
        except BadNote as error:
            raise NotCosigned(f"its answer is no cosignature: {error}") from error
        if at is None:
            raise NotCosigned(f"it answers with signatures of others, and none of {self.key.name}")
        if at > (now + CLOCK_AHEAD).timestamp():
            raise NotCosigned(f"its clock is ahead: it cosigned {at - now.timestamp():.0f} seconds from now")
        own = next(one for one in whole.signatures if (one.name, one.key_id) == (self.key.name, self.key.key_id))
        return Cosignature(signature_line(own), datetime.fromtimestamp(at, UTC))

    async def _call(self, method: str, path: str, content: bytes) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._http.stream(method, f"{self._url}/{path}", content=content) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise NotCosigned(f"it answers more than {MAX_ANSWER_BYTES} bytes")
                return response.status_code, bytes(body)
        except (TimeoutError, httpx.TimeoutException):
            raise NotCosigned(f"no answer within {ANSWER_SECONDS:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NotCosigned(f"it cannot be reached: {str(error) or type(error).__name__}") from error


def _shown(body: bytes) -> str:
    return body[:_SHOWN].decode(errors="replace").strip()
