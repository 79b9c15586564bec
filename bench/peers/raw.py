"""What a verifier cannot do without, and nothing else: libsodium's Ed25519 by pynacl's own binding, and SHA-256 of the entries."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Final, Self

from nacl.bindings import crypto_sign_open

PIECE_EVENTS: Final = 4_096
Work = Callable[[Path, int, int], int]
"""work(folder, first piece, step) -> how many events it did: every step-th piece from the first on."""


def public_key(added: bytes) -> bytes:
    """The key that an event of the key stream brings in, from its body."""
    return base64.b64decode(json.loads(added)["data"]["public"])


class Material:
    """Writes what the peers read: entries, and signed messages as libsodium takes them, some thousand to a file."""

    def __init__(self, folder: Path, public: bytes) -> None:
        self._folder = folder
        self._waiting: dict[str, list[bytes]] = {"entries": [], "messages": []}
        self._pieces = 0
        folder.mkdir(parents=True)
        (folder / "public").write_bytes(public)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._flush()

    def add(self, entries: Sequence[bytes], messages: Sequence[bytes]) -> None:
        self._waiting["entries"] += entries
        self._waiting["messages"] += messages
        if len(self._waiting["entries"]) >= PIECE_EVENTS:
            self._flush()

    def _flush(self) -> None:
        for kind, values in self._waiting.items():
            with (self._folder / f"{kind}-{self._pieces:06d}").open("wb") as file:
                _write(file, values)
            values.clear()
        self._pieces += 1


def _write(file: IO[bytes], values: Sequence[bytes]) -> None:
    file.writelines(struct.pack(">I", len(value)) + value for value in values)


def _read(path: Path) -> Iterator[bytes]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4])
        yield data[at + 4 : end]
        at = end


def verify(folder: Path, first: int, step: int) -> int:
    """Every signature, by the cheapest call there is: the founding events' aside, all are by one key."""
    public, done = (folder / "public").read_bytes(), 0
    for number, path in list(enumerate(sorted(folder.glob("messages-*"))))[first::step]:
        for message in list(_read(path))[0 if number else 3 :]:
            crypto_sign_open(message, public)
            done += 1
    return done


def hash_entries(folder: Path, first: int, step: int) -> int:
    """One SHA-256 over each entry."""
    done = 0
    for path in sorted(folder.glob("entries-*"))[first::step]:
        for entry in _read(path):
            sha256(entry).digest()
            done += 1
    return done


def rate(folder: Path, work: Work, processes: int) -> float:
    """Events a second, in so many processes."""
    started = time.perf_counter()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        done = sum(pool.map(work, [folder] * processes, range(processes), [processes] * processes))
    return done / (time.perf_counter() - started)
