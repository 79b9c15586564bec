"""Where artifacts lie in S3, as settings name it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, unquote

from infra.addresses import is_private, url_in
from infra.settings_error import SettingsError

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True)
class S3Place:
    """Where in S3 the artifacts lie, and the key that opens it."""

    endpoint: str
    bucket: str
    prefix: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)


def s3_place(given: Callable[[str], str | None]) -> S3Place | None:
    """From AUREUS_BLOBS and the key's two settings; raises SettingsError."""
    text = given("AUREUS_BLOBS")
    access_key = given("AUREUS_S3_ACCESS_KEY") or given("AWS_ACCESS_KEY_ID")
    secret_key = given("AUREUS_S3_SECRET_KEY") or given("AWS_SECRET_ACCESS_KEY")
    if text is None:
        return None
    if "@" in unquote(text):  # refused before any of it is repeated in a message
        raise SettingsError("AUREUS_BLOBS", "it holds a key.", "Set AUREUS_S3_ACCESS_KEY and AUREUS_S3_SECRET_KEY instead.")
    url, example = url_in("AUREUS_BLOBS", text), "Write s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-central-1."
    asked = parse_qs(url.query, keep_blank_values=True)
    bucket, prefix = url.netloc, url.path.strip("/")
    region = asked.pop("region", ["us-east-1"])[-1]
    endpoint = asked.pop("endpoint", [f"https://s3.{region}.amazonaws.com"])[-1]
    for wrong, rule in (
        (url.scheme != "s3", "it does not begin with s3://."),
        (bool(asked), f"it knows endpoint and region, and not {', '.join(sorted(asked))}."),
        (not _BUCKET.fullmatch(bucket), f"{bucket!r} cannot be a bucket: 3 to 63 lower-case letters, digits, dots and dashes."),
        (not _PREFIX.fullmatch(prefix), f"{prefix!r} cannot be a prefix: letters, digits, dots, dashes, underscores, between slashes."),
        (not _REGION.fullmatch(region), f"{region!r} cannot be a region."),
        (not is_private(url_in("AUREUS_BLOBS", endpoint)), f"the endpoint {endpoint!r} is not https://host[:port]."),
    ):
        if wrong:
            raise SettingsError("AUREUS_BLOBS", rule, example)
    if access_key is None or secret_key is None:
        missing = "AUREUS_S3_ACCESS_KEY" if access_key is None else "AUREUS_S3_SECRET_KEY"
        raise SettingsError(missing, "AUREUS_BLOBS names a bucket, and nothing opens it.", "Set the key that may read and write there.")
    return S3Place(endpoint.rstrip("/"), bucket, prefix, region, access_key, secret_key)
