"""The witness over HTTP: `POST /add-checkpoint` for logs, `GET /<origin hash>/checkpoint` for everybody, and nothing else.

It is a program of its own, and a small one: whoever runs a witness for somebody should be able to read all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import uvicorn

from infra.settings import SettingsError
from infra.verifier.notes import BadNote, VerifierKey
from infra.witness import Answer, Witness, WitnessHome

MAX_BODY_BYTES: Final = 256 * 1024
"""63 hashes and a checkpoint with 16 signatures, post-quantum ones included, are well below it."""
BODY_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 75
MAX_CONNECTIONS: Final = 256
_ORIGIN: Final = re.compile("/([0-9a-f]{64})/checkpoint")


class WitnessApp:
    """The ASGI application."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer = await self._answer(scope["method"], scope["path"], receive)
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            (b"x-content-type-options", b"nosniff"),
        ]
        if answer.status in (408, 413):  # the rest of that body is not waited for
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, method: str, path: str, receive: Any) -> Answer:
        log = _ORIGIN.fullmatch(path)
        if path != "/add-checkpoint" and log is None:
            return Answer(404, b"there are /add-checkpoint and /<origin hash>/checkpoint\n")
        if method != ("GET" if log else "POST"):
            return Answer(405, f"{method} is not for {path}\n".encode())
        if log:
            return self._witness.checkpoint(log[1])
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive)
        except TimeoutError:
            return Answer(408, b"the request took too long\n")
        return Answer(413, b"the request is too long\n") if body is None else self._witness.add_checkpoint(body)


async def _body(receive: Any) -> bytes | None:
    """The request's body; None when it is longer than any that makes sense."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


def run_witness(
    folder: Path,
    address: tuple[str, int],
    logs: Sequence[str],
    name: str | None = None,
    *,
    announce: Callable[[str, str], None],
    with_parent: bool = False,
) -> None:
    """Serves until SIGINT or SIGTERM, or with `with_parent` until standard input ends. Raises SettingsError.

    `announce(verifier key, URL)` is called when it takes connections; port 0 is one that is free.
    """
    home = WitnessHome(folder)
    home.lock()
    try:
        witness = Witness(home, home.key(name), [_log_key(text) for text in logs])
        with _listening(address) as listener:
            host, port = listener.getsockname()[:2]
            announce(witness.verifier.text(), f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
            with suppress(KeyboardInterrupt):
                asyncio.run(_serve(WitnessApp(witness), listener, with_parent))
    finally:
        home.close()


def _log_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.parse(text)
    except BadNote as error:
        remedy = "Give the log's verifier key: an Aureus tells its own as log_verifier_key at /v1/ledger/keys."
        raise SettingsError("--log", f"{error}.", remedy) from error


def _listening(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        rule = f"{address[0]}:{address[1]} cannot be listened on: {error.strerror}."
        raise SettingsError("--listen", rule, "Stop what is using it, or choose another.") from error
    return listener


async def _serve(app: WitnessApp, listener: socket.socket, with_parent: bool) -> None:
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=3,
        limit_concurrency=MAX_CONNECTIONS,
    )
    server = uvicorn.Server(config)
    if with_parent:

        def ended() -> None:
            server.should_exit = True

        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended)
    await server.serve(sockets=[listener])


def _main() -> int:
    """As Aureus starts one of its own: prints its verifier key and URL on one line, and ends with standard input."""
    parser = argparse.ArgumentParser(prog="python -m infra.witness_server")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--log", action="append", required=True)
    given = parser.parse_args()
    try:
        run_witness(
            given.home,
            ("127.0.0.1", 0),
            given.log,
            announce=lambda key, url: print(key, url, flush=True),  # noqa: T201 - to whoever started it
            with_parent=True,
        )
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
