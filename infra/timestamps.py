"""Timestamps as a second anchor: an authority that everybody knows signs that a checkpoint was there by then (RFC 3161).

It says nothing about forks, as a witness does; it says when, and any tool can check it: `openssl ts -verify`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import httpx
from cryptography.x509 import Certificate, load_pem_x509_certificates
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, VerificationError, VerifierBuilder, decode_timestamp_response

from domain.ledger import LedgerUnavailable
from infra.anchors import Stamp
from infra.ledger import Ledger
from infra.settings import SettingsError, TimestampPlace
from infra.verifier.notes import BadNote, parse_note

ANSWER_SECONDS: Final = 15.0
RETRY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 5.0
MAX_ANSWER_BYTES: Final = 64 * 1024
_QUERY: Final = "application/timestamp-query"
_log = logging.getLogger("aureus.timestamps")


class NotStamped(Exception):
    """The authority gave no timestamp that holds; the reason is for the operator."""


class Authority:
    """One timestamp authority over HTTP."""

    def __init__(self, place: TimestampPlace) -> None:
        """Raises SettingsError when the file of roots holds no certificate."""
        self.name = urlsplit(place.url).hostname or ""
        self._url, self._roots = place.url, _roots(place)
        self._http = httpx.AsyncClient(timeout=ANSWER_SECONDS)

    async def close(self) -> None:
        await self._http.aclose()

    async def stamp(self, text: bytes) -> tuple[bytes, datetime]:
        """The authority's whole answer (DER) over a text, verified against the roots, and the time it states. Raises NotStamped."""
        request = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256).nonce(nonce=True)
        built = request.cert_request(cert_request=True).build()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._http.post(self._url, content=built.as_bytes(), headers={"content-type": _QUERY})
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NotStamped(f"it cannot be reached: {str(error) or type(error).__name__}") from error
        if answer.status_code != httpx.codes.OK or len(answer.content) > MAX_ANSWER_BYTES:
            raise NotStamped(f"it answers {answer.status_code} with {len(answer.content)} bytes")
        verifier = VerifierBuilder.from_request(built)
        for root in self._roots:
            verifier = verifier.add_root_certificate(root)
        try:
            response = decode_timestamp_response(answer.content)
            verifier.build().verify_message(response, text)
            return answer.content, response.tst_info.gen_time.astimezone(UTC)
        except (VerificationError, ValueError) as error:
            raise NotStamped(f"its answer does not hold: {error}") from error


class Timestamping:
    """Has the ledger's latest checkpoint timestamped, at most once an interval, for as long as it grows."""

    def __init__(self, ledger: Ledger, place: TimestampPlace, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._ledger, self._clock = ledger, clock
        self._interval = timedelta(seconds=place.interval_seconds)
        self.authority = Authority(place)
        self.last_error: str | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause = min(LOOK_SECONDS, self._interval.total_seconds())
            try:
                await self._stamp_if_due()
                self.last_error = None
            except (NotStamped, LedgerUnavailable, BadNote) as error:
                if str(error) != self.last_error:
                    _log.warning("%s gives no timestamp: %s", self.authority.name, error)
                self.last_error, pause = str(error), min(RETRY_SECONDS, self._interval.total_seconds())
            await asyncio.sleep(pause)

    async def _stamp_if_due(self) -> None:
        latest = await self._ledger.store.latest_stamp(self.authority.name)
        if latest is not None and self._clock() - latest.at < self._interval:
            return
        head = await self._ledger.refresh()
        if latest is None or head.size > latest.size:
            token, at = await self.authority.stamp(parse_note(head.note).text)
            await self._ledger.store.stamp(Stamp(head.size, self.authority.name, token, at))


def _roots(place: TimestampPlace) -> Sequence[Certificate]:
    try:
        return load_pem_x509_certificates(place.roots.read_bytes())
    except (OSError, ValueError) as error:
        rule = f"{place.roots} holds no certificate that can be read: {error}."
        raise SettingsError("AUREUS_TSA_CERTIFICATES", rule, "Name a PEM file with the authority's root certificate.") from error
