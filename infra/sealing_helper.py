"""The sealing helper: a process of its own that signs half of a large batch on another core.

Signing is most of what an append costs, and Python signs on one core only. The helper is asked, the caller seals its
own half meanwhile, and then takes the answer. If none comes in time the caller seals everything itself: the helper
can be slow or dead, never wrong about what is written, for it holds the same service key and the same code.
"""

from __future__ import annotations

import contextlib
import marshal
import select
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from infra.envelope import Facts
from infra.keystore import FileSigner
from infra.sealing import Chain, Item, SealedEvent, Sealing

ANSWER_SECONDS: Final = 0.25
_BUFFER_BYTES: Final = 4 * 1024 * 1024
_LENGTH: Final = struct.Struct("!I")
_READY: Final = b"r"


class ProcessHelper:
    """Implements `infra.sealing.SealingHelper` with a child process, which ends when its parent does."""

    def __init__(self, service: FileSigner) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        ours.settimeout(ANSWER_SECONDS)
        self._socket: socket.socket | None = ours
        self._ready = False
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very module
                [sys.executable, "-m", "infra.sealing_helper", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
            )
        _send(ours, service.seed)

    @property
    def up(self) -> bool:
        """Whether it takes work: it takes a moment to start, and nobody waits for that."""
        if self._socket is None:
            return False
        if not self._ready and select.select([self._socket], [], [], 0)[0]:
            self._ready = self._socket.recv(len(_READY)) == _READY
        return self._ready

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, sealing: Sealing, chains: list[Chain]) -> bool:
        try:
            if self._socket is None or not self.up:
                return False
            _send(self._socket, marshal.dumps((sealing.ledger, sealing.at, [_plain(chain) for chain in chains])))
        except OSError:
            self.close()
            return False
        return True

    def answer(self) -> list[list[SealedEvent]] | None:
        if self._socket is None:
            return None
        try:
            sealed: list[list[SealedEvent]] = marshal.loads(_receive(self._socket))  # noqa: S302 - written by our own child
        except (OSError, EOFError):
            # Late is as good as never: what is still in the pipe would be taken for the next answer.
            self.close()
            return None
        return sealed

    def close(self) -> None:
        """Ends the helper; everything is sealed here from now on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()


def _plain(chain: Chain) -> tuple[Any, ...]:
    items = [
        (
            item.actor,
            item.correlation,
            item.causation,
            (item.facts.event_name, item.facts.schema, item.facts.data, item.facts.digests),
        )
        for item in chain.items
    ]
    return chain.tenant, chain.stream, chain.version, chain.prev, items


def _send(end: socket.socket, message: bytes) -> None:
    end.sendall(_LENGTH.pack(len(message)) + message)


def _receive(end: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(end, _LENGTH.size))
    return _exactly(end, length)


def _exactly(end: socket.socket, length: int) -> bytes:
    message = bytearray(length)
    view = memoryview(message)
    while view:
        received = end.recv_into(view)
        if received == 0:
            raise EOFError
        view = view[received:]
    return bytes(message)


def _serve(end: socket.socket) -> None:
    """Seals what comes until the other end is gone."""
    signer = FileSigner.from_seed("service", _receive(end), "")
    end.sendall(_READY)
    while True:
        ledger, at, chains = marshal.loads(_receive(end))  # noqa: S302 - written by our own parent
        sealing = Sealing(ledger, at)
        _send(end, marshal.dumps([sealing.chain(_chain(plain, signer)) for plain in chains]))


def _chain(plain: tuple[Any, ...], signer: FileSigner) -> Chain:
    tenant, stream, version, prev, items = plain
    return Chain(tenant, stream, version, prev, [Item(*said, Facts(*facts), signer) for *said, facts in items])  # type: ignore[call-arg]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _end, contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        _serve(_end)
