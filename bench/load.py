"""Puts load on an HTTP server from a process of its own: so many keep-alive connections, one request in flight on each.

The requests are rendered beforehand and the answers are only counted, so the load costs the machine as little as a
Python program can, and the same whoever is measured: `python -m bench.load 8420 --connections 32 requests.bin`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast

import uvloop

from bench.lab import CannotMeasure
from bench.measure import Sample

ANSWER_SECONDS_MAX: Final = 30.0
_LENGTH: Final = struct.Struct(">I")
_HEAD_END: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = b"content-length:"


def render(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + _HEAD_END + body


def put_load(port: int, requests: Sequence[bytes], folder: Path, *, connections: int, seconds: float) -> Sample:
    """Runs this module in a process of its own, and tells what it measured. Every answer must be a 2xx."""
    file = folder / "requests.bin"
    file.write_bytes(b"".join(_LENGTH.pack(len(request)) + request for request in requests))
    command = [sys.executable, "-m", "bench.load", str(port), str(file), "--connections", str(connections), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMeasure(f"the load generator failed: {done.stderr.strip()}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


class _Connection(asyncio.Protocol):
    """One keep-alive connection that sends its next request as soon as the answer to the last one is whole."""

    def __init__(self, load: _Load, requests: Iterator[bytes]) -> None:
        self._load, self._requests = load, requests
        self._buffer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is not one of asyncio's
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        answer = self._buffer + data if self._buffer else data
        head_end = answer.find(_HEAD_END)
        if head_end < 0 or len(answer) < head_end + 4 + _body_length(answer[:head_end]):
            self._buffer = answer
            return
        self._buffer = b""
        if self._load.answered(time.perf_counter(), self._sent_at, answer):
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.left(exc)


def _body_length(head: bytes) -> int:
    head = head.lower()
    at = head.find(_CONTENT_LENGTH)
    if at < 0:
        raise ValueError("an answer without Content-Length cannot be measured")
    end = head.find(b"\r\n", at)
    return int(head[at + len(_CONTENT_LENGTH) : end if end > 0 else len(head)])


class _Load:
    """Counts answers from `starts_at` on, until `ends_at`; stops everything at the first answer that is no success."""

    def __init__(self, connections: int, starts_at: float, ends_at: float) -> None:
        self.starts_at, self.ends_at = starts_at, ends_at
        self.times: list[float] = []
        self.error: str | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = connections

    def answered(self, now: float, sent_at: float, answer: bytes) -> bool:
        if answer[9:10] != b"2":
            self.error = answer[:600].decode("utf-8", "replace")
            return False
        if now >= self.ends_at or self.error:
            return False
        if sent_at >= self.starts_at:
            self.times.append(now - sent_at)
        return True

    def left(self, exc: Exception | None) -> None:
        if time.perf_counter() < self.ends_at and not self.error:
            self.error = f"the server closed a connection: {exc}"
        self._open -= 1
        if self._open == 0 and not self.done.done():
            self.done.set_result(None)


async def _main(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> dict[str, float]:
    starts_at = time.perf_counter() + min(0.5, seconds / 4)  # the first answers pay for opening connections
    load = _Load(connections, starts_at, starts_at + seconds)
    loop = asyncio.get_running_loop()
    for number in range(connections):
        mine = itertools.cycle(requests[number::connections] or requests)
        await loop.create_connection(lambda mine=mine: _Connection(load, mine), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.wait_for(load.done, seconds + ANSWER_SECONDS_MAX)
    if load.error:
        raise SystemExit(load.error)
    times = sorted(load.times)
    return {
        "rate": len(times) / seconds,
        "mean_ms": sum(times) / len(times) * 1_000,
        "p50_ms": times[len(times) // 2] * 1_000,
        "p95_ms": times[len(times) * 95 // 100] * 1_000,
        "p99_ms": times[len(times) * 99 // 100] * 1_000,
        "answers": len(times),
    }


def _read(file: Path) -> list[bytes]:
    data, requests, at = file.read_bytes(), [], 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        requests.append(data[at - length : at])
    return requests


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("requests", type=Path, help="length-prefixed requests, as put_load writes them")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    print(json.dumps(uvloop.run(_main(given.port, _read(given.requests), given.connections, given.seconds))))
