"""How a stream of events is dealt out: every stream belongs to one partition, so each of its events stays behind the one before it."""

from __future__ import annotations

from zlib import crc32


def partition_key(tenant: str, stream: str) -> bytes:
    """What a record is keyed with; neither part holds a space (`infra.envelope.require_plain` lets one pass, no context makes one)."""
    return f"{tenant} {stream}".encode()


def partition_of(tenant: str, stream: str, of: int) -> int:
    """The partition of a stream among `of`: the same on every machine and for ever, for progress is kept by it."""
    return crc32(partition_key(tenant, stream)) % of
