"""S3: where the settings say, signed as Amazon says, checked at the start, and never believed when the server fails or lies."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import pytest

from infra.blobs import BlobMissing, BlobsUnavailable
from infra.s3_blobs import S3Blobs, object_name, signed_headers
from infra.settings import S3Place, Settings, SettingsError
from tests.support.kernel import ADM
from tests.support.minio import ACCESS_KEY, SECRET_KEY, Minio
from tests.support.running import Aureus, running
from tests.test_blobs import HELLO, HELLO_SHA256, pieces, whole

pytestmark = pytest.mark.anyio
KEYS: Final = {"AUREUS_S3_ACCESS_KEY": "AKIA", "AUREUS_S3_SECRET_KEY": "s3cr3t"}


@pytest.fixture
def trusting(minio: Minio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(minio.certificate))


@asynccontextmanager
async def opened(place: S3Place, aside: Path) -> AsyncIterator[S3Blobs]:
    blobs = S3Blobs(place, aside)
    try:
        yield blobs
    finally:
        await blobs.close()


# -- where


def place(home: Path, text: str, **keys: str) -> S3Place | None:
    return Settings.from_environment({"AUREUS_HOME": str(home), "AUREUS_BLOBS": text, **(keys or KEYS)}).s3


def test_a_bucket_is_named_by_its_url(tmp_path: Path) -> None:
    found = place(tmp_path, "s3://evidence/bank/eu?endpoint=https://s3.bank.example:9000/&region=eu-central-1")
    assert found == S3Place("https://s3.bank.example:9000", "evidence", "bank/eu", "eu-central-1", "AKIA", "s3cr3t")


def test_without_an_endpoint_it_is_amazon_s_own_of_that_region(tmp_path: Path) -> None:
    found = place(tmp_path, "s3://evidence?region=eu-west-3")
    assert found is not None
    assert (found.endpoint, found.prefix) == ("https://s3.eu-west-3.amazonaws.com", "")
    assert object_name(found.prefix, HELLO_SHA256) == f"sha256/2c/f2/{HELLO_SHA256}"


def test_the_usual_names_of_a_key_will_do(tmp_path: Path) -> None:
    found = place(tmp_path, "s3://evidence", AWS_ACCESS_KEY_ID="AKIB", AWS_SECRET_ACCESS_KEY="other")
    assert found is not None
    assert (found.access_key, found.secret_key) == ("AKIB", "other")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "https://s3.bank.example"])
def test_what_goes_over_a_network_goes_encrypted(tmp_path: Path, endpoint: str) -> None:
    assert place(tmp_path, f"s3://evidence?endpoint={endpoint}") is not None
    if "127.0.0.1" in endpoint:
        with pytest.raises(SettingsError, match="is not https://"):
            place(tmp_path, "s3://evidence?endpoint=http://10.0.0.7:9000")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("/srv/blobs", "does not begin with s3://"),
        ("https://evidence", "does not begin with s3://"),
        ("s3://", "cannot be a bucket"),
        ("s3://Evidence", "cannot be a bucket"),
        ("s3://evidence:9000", "cannot be a bucket"),
        ("s3://evidence/a b", "cannot be a prefix"),
        ("s3://evidence/../other", "cannot be a prefix"),
        ("s3://evidence/a//b", "cannot be a prefix"),
        ("s3://evidence?bucket=x", "not bucket"),
        ("s3://evidence?region=", "cannot be a region"),
        ("s3://evidence?endpoint=", "the endpoint"),
        ("s3://evidence?endpoint=https://s3.bank.example/path", "the endpoint"),
        ("s3://evidence?endpoint=https://", "the endpoint"),
        ("s3://evidence?endpoint=https://s3.bank.example:99999", "is not a URL"),
        ("s3://[evidence", "is not a URL"),
    ],
)
def test_what_cannot_be_a_bucket_is_refused_by_rule_and_remedy(tmp_path: Path, text: str, rule: str) -> None:
    with pytest.raises(SettingsError) as refused:
        place(tmp_path, text)
    assert refused.value.field == "AUREUS_BLOBS"
    assert rule in refused.value.rule
    assert refused.value.remedy


@pytest.mark.parametrize("missing", KEYS)
def test_a_bucket_without_a_key_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(SettingsError) as refused:
        place(tmp_path, "s3://evidence", **{name: value for name, value in KEYS.items() if name != missing})
    assert refused.value.field == missing


@pytest.mark.parametrize("text", ["s3://AKIA:s3cr3t@evidence", "s3://evidence?endpoint=https://AKIA:s3cr3t%40s3.bank.example"])
def test_a_secret_is_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        place(tmp_path, text)
    assert "s3cr3t" not in str(refused.value)
    assert "s3cr3t" not in repr(place(tmp_path, "s3://evidence"))


# -- signed


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "signature"),
    [
        ("GET", "/test.txt", {"range": "bytes=0-9"}, b"", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        (
            "PUT",
            "/test%24file.text",
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
    ],
)
def test_signatures_are_those_of_amazon_s_own_examples(
    method: str, path: str, headers: dict[str, str], content: bytes, signature: str
) -> None:
    bucket = "https://examplebucket.s3.amazonaws.com"
    example = S3Place(bucket, "", "", "us-east-1", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    at = datetime(2013, 5, 24, tzinfo=UTC)
    signed = signed_headers(method, httpx.URL(bucket + path), headers, hashlib.sha256(content).hexdigest(), example, at)
    assert signed["authorization"].endswith(f",Signature={signature}")


async def test_the_server_itself_refuses_bytes_that_are_not_those_of_the_name(minio: Minio) -> None:
    bucket = minio.bucket()
    name = f"/{bucket.bucket}/{object_name(bucket.prefix, HELLO_SHA256)}"
    answer = minio.ask("PUT", name, b"jello", sha256=HELLO_SHA256)
    assert (answer.status_code, "XAmzContentSHA256Mismatch" in answer.text) == (400, True)
    assert minio.objects(bucket.bucket) == []


# -- checked at the start


@pytest.mark.parametrize(
    ("access_key", "secret_key", "bucket", "setting", "code"),
    [
        ("nobody", SECRET_KEY, None, "AUREUS_S3_ACCESS_KEY", "InvalidAccessKeyId"),
        (ACCESS_KEY, "wJalrXUtnFEMI-another", None, "AUREUS_S3_SECRET_KEY", "SignatureDoesNotMatch"),
        (ACCESS_KEY, SECRET_KEY, "no-such-bucket", "AUREUS_BLOBS", "NoSuchBucket"),
    ],
)
async def test_a_setup_that_cannot_work_is_refused_by_its_setting(
    minio: Minio, trusting: None, tmp_path: Path, access_key: str, secret_key: str, bucket: str | None, setting: str, code: str
) -> None:
    wrong = minio.place(bucket or minio.bucket().bucket, access_key, secret_key)
    async with opened(wrong, tmp_path) as blobs:
        with pytest.raises(SettingsError, match=code) as refused:
            await blobs.check()
        with pytest.raises(BlobsUnavailable) as unavailable:
            await blobs.put(pieces(HELLO))
        with pytest.raises(BlobsUnavailable, match=code):
            await blobs.read(HELLO_SHA256)
    assert refused.value.field == setting
    assert refused.value.remedy
    assert "AUREUS_" in unavailable.value.remedy


async def test_a_setup_that_works_passes(minio: Minio, trusting: None, tmp_path: Path) -> None:
    async with opened(minio.bucket(), tmp_path) as blobs:
        await blobs.check()
        await blobs.put(pieces(b""))
        await blobs.check()


async def test_a_certificate_that_nobody_vouches_for_is_not_talked_to(minio: Minio, tmp_path: Path) -> None:
    async with opened(minio.bucket(), tmp_path) as blobs:
        with pytest.raises(BlobsUnavailable, match="does not answer"):
            await blobs.put(pieces(HELLO))


async def test_no_secret_is_logged(minio: Minio, trusting: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened(minio.bucket(), tmp_path) as blobs:
        await blobs.put(pieces(HELLO))
        await whole(blobs, HELLO_SHA256)
    assert "httpx" in caplog.text
    assert SECRET_KEY not in caplog.text


# -- never believed


def _answer(status: str, body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body) if length is None else length, body)


SLOW_DOWN: Final = _answer("503 Slow Down", b"<Error><Code>SlowDown</Code></Error>")


@asynccontextmanager
async def a_server_that_says(*answers: bytes) -> AsyncIterator[tuple[S3Place, list[bytes]]]:
    """A server that gives one answer after the other, the last one for ever; and the requests it got."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
        writer.write(answers[min(len(requests), len(answers)) - 1])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield S3Place(f"http://127.0.0.1:{port}", "evidence", "", "us-east-1", ACCESS_KEY, SECRET_KEY), requests


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "does not answer: RemoteProtocolError"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer: RemoteProtocolError"),
        (_answer("200 OK", b"hel", 5), "does not answer: RemoteProtocolError"),
        (_answer("404 Not Found", b"<Co", 500), "does not answer: RemoteProtocolError"),
        (SLOW_DOWN, "answers 503 SlowDown"),
        (_answer("500 Internal Server Error", b""), "answers 500 Unknown"),
        (_answer("418 Teapot", b"<html>" * 20_000), "answers 418 Unknown"),
        (_answer("404 Not Found", b"<html>Not S3</html>"), "answers 404 Unknown"),
        (_answer("301 Moved Permanently", b"<Error><Code>PermanentRedirect</Code></Error>"), "PermanentRedirect"),
    ],
    ids=["closes", "no HTTP", "breaks off", "breaks off an error", "slow down", "fails", "babbles", "not S3", "elsewhere"],
)
async def test_what_a_broken_server_says_is_no_blob_and_no_absence_of_one(tmp_path: Path, said: bytes, message: str) -> None:
    async with a_server_that_says(said) as (broken, _), opened(broken, tmp_path) as blobs:
        with pytest.raises(BlobsUnavailable, match=message):
            await blobs.read(HELLO_SHA256)
    assert not any(os.scandir(tmp_path))


@pytest.mark.parametrize("stumble", [b"", SLOW_DOWN], ids=["closes", "slow down"])
async def test_a_request_that_went_wrong_is_made_once_more_and_whole(tmp_path: Path, stumble: bytes) -> None:
    missing, done = _answer("404 Not Found", b""), _answer("200 OK", b"")
    async with a_server_that_says(missing, stumble, done) as (stumbling, requests), opened(stumbling, tmp_path) as blobs:
        await blobs.put(pieces(HELLO))
    assert [(request.partition(b" ")[0], request.rpartition(b"\n")[2]) for request in requests] == [
        (b"HEAD", b""),
        (b"PUT", HELLO),
        (b"PUT", HELLO),
    ]


async def test_a_server_that_is_down_is_unavailable_and_comes_back(minio: Minio, trusting: None, tmp_path: Path) -> None:
    async with opened(minio.bucket(), tmp_path) as blobs:
        minio.stop()
        try:
            await blobs.check()
            for question in (blobs.put(pieces(HELLO)), blobs.read(HELLO_SHA256), blobs.has(HELLO_SHA256)):
                with pytest.raises(BlobsUnavailable, match="does not answer: ConnectError"):
                    await question
        finally:
            minio.start()
        with pytest.raises(BlobMissing):
            await blobs.read(HELLO_SHA256)
        await blobs.put(pieces(HELLO))
        assert await blobs.has(HELLO_SHA256)


# -- behind the API


async def attached(aureus: Aureus, content: bytes) -> httpx.Response:
    identity = aureus._identity(ADM)
    return await aureus.http.post("/v1/artifacts", params={"name": "report"}, content=content, headers=identity)


async def test_artifacts_and_sealed_packs_lie_in_the_bucket(minio: Minio, trusting: None, database_url: str, tmp_path: Path) -> None:
    place = minio.bucket()
    async with running(database_url, tmp_path, s3=place) as aureus:
        await aureus.know(ADM)
        stored = (await attached(aureus, HELLO)).json()
        content = await aureus.get(f"/v1/artifacts/{HELLO_SHA256}", ADM, at_least=stored["position"])
        assert (content.status_code, content.content) == (200, HELLO)
        sealed = (await aureus.post(f"/v1/evidence/{stored['action_id']}/seal", {}, ADM)).json()
        kept = {HELLO_SHA256, sealed["json_sha256"], sealed["markdown_sha256"]}
        assert minio.objects(place.bucket) == sorted(object_name(place.prefix, sha256) for sha256 in kept)

        name = object_name(place.prefix, sealed["markdown_sha256"])
        minio.ask("PUT", f"/{place.bucket}/{name}", b"# All was well").raise_for_status()
        where, asked = f"/v1/evidence/{stored['action_id']}", {"format": "markdown", "at_least": sealed["position"]}
        tampered = await aureus.get(where, ADM, **asked)
        assert (tampered.status_code, tampered.json()["error"]["code"]) == (500, "artifact_tampered")
        assert (await aureus.get(where, ADM, format="json")).status_code == 200


async def test_a_store_that_is_down_is_said_and_nothing_is_recorded(
    minio: Minio, trusting: None, database_url: str, tmp_path: Path
) -> None:
    async with running(database_url, tmp_path, s3=minio.bucket()) as aureus:
        await aureus.know(ADM)
        stored = (await attached(aureus, HELLO)).json()
        await aureus.services.wait_for(stored["position"])
        minio.stop()
        try:
            answers = [
                await attached(aureus, b"other"),
                await aureus.get(f"/v1/artifacts/{HELLO_SHA256}", ADM),
                await aureus.post(f"/v1/evidence/{stored['action_id']}/seal", {}, ADM),
            ]
        finally:
            minio.start()
        for answer in answers:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], answer.headers["retry-after"]) == (503, "artifact_store_unavailable", "1")
            assert error["details"]["remedy"]
        assert (await aureus.services.ledger.refresh()).size == stored["position"]
        assert (await attached(aureus, b"other")).status_code == 201
