"""Artifacts in a bucket of any server that speaks S3, each under its SHA-256.

It signs its own requests over httpx, in the few lines at the end: SigV4 covers a body by its SHA-256, which here is the
blob's name and known before the first byte is sent, whereas an SDK would bring tens of megabytes to compute it again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

import httpx

from infra.blobs import (
    MAX_BLOB_BYTES,
    SHA256,
    Blob,
    BlobMissing,
    BlobStore,
    BlobsUnavailable,
    BlobTampered,
    BlobTooLarge,
    LocalBlobs,
    given_out,
    on_disk,
    pieces,
    spool,
)
from infra.circuit import Circuit, CircuitOpen
from infra.settings import S3Place, SettingsError

_NOTHING: Final = hashlib.sha256().hexdigest()
_TIMEOUT: Final = httpx.Timeout(30, connect=5)
_MAX_ERROR_BYTES: Final = 65_536
_CODE: Final = re.compile(rb"<Code>(\w+)</Code>")
_UNTOLD: Final = MappingProxyType({301: "PermanentRedirect", 403: "AccessDenied", 404: "NoSuchKey"})
"""What the status of an answer to HEAD means, which has no body to say it."""
_SETUP: Final = MappingProxyType(
    {
        "NoSuchBucket": ("AUREUS_BLOBS", "Make the bucket, or name another."),
        "InvalidAccessKeyId": ("AUREUS_S3_ACCESS_KEY", "Give a key that the S3 server knows."),
        "SignatureDoesNotMatch": ("AUREUS_S3_SECRET_KEY", "Give the secret that belongs to AUREUS_S3_ACCESS_KEY."),
        "AccessDenied": (
            "AUREUS_S3_ACCESS_KEY",
            "Give a key that may get, put and delete objects there, and list the bucket; check its secret.",
        ),
        "AuthorizationHeaderMalformed": ("AUREUS_BLOBS", "Name the bucket's own region: ?region=..."),
        "PermanentRedirect": ("AUREUS_BLOBS", "Name the bucket's own region: ?region=..."),
        "RequestTimeTooSkewed": ("AUREUS_BLOBS", "Set the clock of this machine: the S3 server's is more than 15 minutes off."),
    }
)
"""Answers that stay the same until somebody changes the setup: the setting at fault, and the remedy."""


class S3Refused(BlobsUnavailable):
    """The S3 server answered, and its answer will stay the same until a setting is changed."""

    def __init__(self, code: str) -> None:
        self.setting, self.advice = _SETUP[code]
        self.rule = f"the S3 server answers {code}."
        super().__init__(f"The artifact store is not set up: {self.rule}", f"{self.setting}: {self.advice}")


class S3Blobs:
    """Blobs as objects `<prefix>/sha256/<first two digits>/<next two>/<sha256>` of a bucket.

    A blob is first spooled to an unnamed file on this machine, so memory stays small, its hash is known before it is
    sent, and what is read is whole and verified before a byte of it is given out. The server is told that hash twice:
    as part of the signature, by which it refuses other bytes, and as a checksum that it keeps. So the bytes under a name
    are written once, and again only to mend them.
    """

    def __init__(self, place: S3Place, aside: Path, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self._place = place
        self._aside = aside
        self._max_bytes = max_bytes
        aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A proxy that the environment names is for the world; what listens on this machine is reached directly.
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=place.endpoint.startswith("https:"))
        self.circuit = Circuit("s3", "Artifacts can neither be stored nor read; what needs none goes on.")

    async def check(self) -> None:
        """Raises SettingsError when the server refuses what the settings say; that it does not answer will pass."""
        try:
            async with aclosing(await self._answer("GET", _NOTHING)) as response:
                await _refuse_errors(response, _NOTHING)
        except S3Refused as refusal:
            raise SettingsError(refusal.setting, refusal.rule, refusal.advice) from None
        except (BlobMissing, BlobsUnavailable):
            return

    async def put(self, chunks: AsyncIterable[bytes]) -> Blob:
        with await on_disk(self._file) as file:
            blob = await spool(chunks, file, self._max_bytes)
            if not await self.has(blob.sha256):
                await self._store(blob, file)
        return blob

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        file = await on_disk(self._file)
        try:
            found = await self._fetch(sha256, file)
            if found != sha256:
                raise BlobTampered(sha256, found)
        except BaseException:
            file.close()
            raise
        return given_out(file)

    async def as_kept(self, sha256: str) -> AsyncIterator[bytes]:
        file = await on_disk(self._file)
        try:
            await self._fetch(sha256, file)
        except BaseException:
            file.close()
            raise
        return given_out(file)

    async def has(self, sha256: str) -> bool:
        """By the checksum that the server keeps; a server that keeps none is believed nothing."""
        try:
            async with aclosing(await self._answer("HEAD", sha256, {"x-amz-checksum-mode": "ENABLED"})) as response:
                await _refuse_errors(response, sha256)
                kept: str | None = response.headers.get("x-amz-checksum-sha256")
                return kept == _checksum(sha256)
        except BlobMissing:
            return False

    async def delete(self, sha256: str) -> None:
        """A bucket that keeps versions keeps this one: erasure needs one that does not."""
        with suppress(BlobMissing):
            async with aclosing(await self._answer("DELETE", sha256)) as response:
                await _refuse_errors(response, sha256)

    async def close(self) -> None:
        await self._http.aclose()

    def _file(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._aside, buffering=0)

    async def _store(self, blob: Blob, file: IO[bytes]) -> None:
        headers = {"content-length": str(blob.size_bytes), "x-amz-checksum-sha256": _checksum(blob.sha256)}
        async with aclosing(await self._answer("PUT", blob.sha256, headers, file)) as response:
            await _refuse_errors(response, blob.sha256)

    async def _fetch(self, sha256: str, file: IO[bytes]) -> str:
        """Copies the object to a file; returns the hash of what came."""
        async with aclosing(await self._answer("GET", sha256)) as response:
            await _refuse_errors(response, sha256)
            try:
                return (await spool(response.aiter_raw(), file, self._max_bytes)).sha256
            except BlobTooLarge:
                raise BlobTampered(sha256, f"more than {self._max_bytes} bytes") from None
            except httpx.TransportError as error:
                raise _silent(error) from error

    async def _answer(self, method: str, sha256: str, headers: Mapping[str, str] = {}, file: IO[bytes] | None = None) -> httpx.Response:
        """The server's answer, its body not read yet. Every request may be repeated, so one that went wrong is, once."""
        if not SHA256.fullmatch(sha256):
            raise BlobMissing(sha256)
        place = self._place
        url = httpx.URL(f"{place.endpoint}/{place.bucket}/{object_name(place.prefix, sha256)}")
        payload = _NOTHING if file is None else sha256

        async def ask() -> httpx.Response:
            signed = signed_headers(method, url, {**headers, "accept-encoding": "identity"}, payload, place, datetime.now(UTC))
            content = None if file is None else pieces(file)
            return await self._http.send(self._http.build_request(method, url, headers=signed, content=content), stream=True)

        try:
            with self.circuit.trying(httpx.TimeoutException):  # one that refuses at once costs nobody any time
                try:
                    response = await ask()
                except httpx.TransportError:
                    return await ask()
                if response.status_code < 500:
                    return response
                await response.aclose()
                return await ask()
        except (httpx.TransportError, CircuitOpen) as error:
            raise _silent(error) from error


@asynccontextmanager
async def opened_blobs(place: S3Place | None, folder: Path) -> AsyncIterator[BlobStore]:
    """The blob store of a process that needs it for one job: in S3, or in this folder."""
    if place is None:
        yield LocalBlobs(folder)
        return
    blobs = S3Blobs(place, folder)
    try:
        yield blobs
    finally:
        await blobs.close()


def object_name(prefix: str, sha256: str) -> str:
    """The name of a blob's object within its bucket."""
    return f"{prefix}/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}".lstrip("/")


def _checksum(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _silent(error: Exception) -> BlobsUnavailable:
    return BlobsUnavailable(f"The artifact store does not answer: {type(error).__name__}.", "Try again in a moment.")


async def _refuse_errors(response: httpx.Response, sha256: str) -> None:
    """Raises what an answer other than yes means: BlobMissing, S3Refused or BlobsUnavailable."""
    if response.is_success:
        return
    code = await _code(response)
    if code == "NoSuchKey":
        raise BlobMissing(sha256)
    if code in _SETUP:
        raise S3Refused(code)
    raise BlobsUnavailable(f"The artifact store answers {response.status_code} {code}.", "Try again in a moment.")


async def _code(response: httpx.Response) -> str:
    if response.request.method == "HEAD":
        return _UNTOLD.get(response.status_code, "Unknown")
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MAX_ERROR_BYTES:
                break
    except httpx.TransportError as error:
        raise _silent(error) from error
    found = _CODE.search(body)
    return found[1].decode() if found else "Unknown"


def signed_headers(
    method: str, url: httpx.URL, headers: Mapping[str, str], payload_sha256: str, place: S3Place, at: datetime
) -> dict[str, str]:
    """The headers of a request without a query, all of them signed: AWS Signature Version 4."""
    moment = at.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{place.region}/s3/aws4_request"
    sent = {**headers, "host": url.netloc.decode(), "x-amz-content-sha256": payload_sha256, "x-amz-date": moment}
    names = ";".join(sorted(sent))
    lines = [f"{name}:{sent[name]}" for name in sorted(sent)]
    request = "\n".join((method, url.raw_path.decode(), "", *lines, "", names, payload_sha256))
    key = f"AWS4{place.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    to_sign = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"AWS4-HMAC-SHA256 Credential={place.access_key}/{scope}"
    return {**sent, "authorization": f"{credential},SignedHeaders={names},Signature={signature}"}
