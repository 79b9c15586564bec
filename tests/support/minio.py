"""A real S3 server of the tests' own, over TLS and with a key: MinIO, in a temporary folder, on a free port."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

import httpx
import pytest

from infra.s3_blobs import signed_headers
from infra.settings import S3Place

BINARY: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aureus" / "bin" / "minio"
ACCESS_KEY: Final = "aureus-tests"
SECRET_KEY: Final = "wJalrXUtnFEMI-not-to-be-seen"
_NUMBERS: Final = count(1)


class Minio:
    """One server, that can be stopped and started again where it was."""

    def __init__(self, folder: Path) -> None:
        self._data, self._certificates = folder / "data", folder / "certificates"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.endpoint = f"https://127.0.0.1:{free.getsockname()[1]}"

    @property
    def certificate(self) -> Path:
        """What a client has to trust."""
        return self._certificates / "public.crt"

    def start(self) -> None:
        if not BINARY.is_file():
            pytest.fail(f"{BINARY} is missing; build it: scripts/minio.sh", pytrace=False)
        if not self.certificate.exists():
            self._certify()
        address = self.endpoint.removeprefix("https://")
        environment = {
            "HOME": str(self._data.parent),
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
        options = ["--address", address, "--certs-dir", str(self._certificates), "--quiet", "--anonymous"]
        with (self._data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen([BINARY, "server", self._data, *options], env=environment, stdout=log, stderr=log)
        self._wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def bucket(self) -> S3Place:
        """A new bucket, and the key that opens it."""
        place = self.place(f"bucket-{next(_NUMBERS)}")
        self.ask("PUT", f"/{place.bucket}").raise_for_status()
        return place

    def place(self, bucket: str, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> S3Place:
        return S3Place(self.endpoint, bucket, "evidence/2026", "us-east-1", access_key, secret_key)

    def ask(self, method: str, path: str, content: bytes = b"", *, sha256: str | None = None) -> httpx.Response:
        """A request of the server's owner; with `sha256`, one that lies about its content."""
        url = httpx.URL(f"{self.endpoint}{path}")
        said = sha256 or hashlib.sha256(content).hexdigest()
        headers = signed_headers(method, url, {}, said, self.place("any"), datetime.now(UTC))
        return httpx.request(method, url, headers=headers, content=content, verify=self._trust())

    def objects(self, bucket: str) -> list[str]:
        """The names of what is kept, as they lie on the server's disk."""
        return sorted(str(found.parent.relative_to(self._data / bucket)) for found in (self._data / bucket).rglob("xl.meta"))

    def _certify(self) -> None:
        self._certificates.mkdir()
        made = ["-keyout", str(self._certificates / "private.key"), "-out", str(self.certificate)]
        named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run(["openssl", "req", "-x509", *kind, *made, *named], check=True, capture_output=True)

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.endpoint}/minio/health/ready", verify=self._trust()).is_success:
                    return
            if self._process is None or self._process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.fail(f"MinIO does not start:\n{(self._data.parent / 'log').read_text()[-2_000:]}", pytrace=False)
