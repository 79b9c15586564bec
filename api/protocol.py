"""HTTP/1.1 as it goes over the wire: an answer leaves in one piece, and who sends too much or too slowly is shown out."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from api.errors import ApiError, body_response
from domain.values import uuid7_text

ABORT: Final = "aureus.abort"
"""An extension of the ASGI scope: its `connection` can be aborted, where the other side takes nothing, not even an ending."""
HEAD_BYTES_MAX: Final = 32_768
"""Of the request line and the headers together."""
HEADERS_MAX: Final = 100
TARGET_BYTES_MAX: Final = 16_384
"""Of the path and the query."""
HEAD_SECONDS: Final = 10.0
"""For the head of a request, from the first byte, or from the connection on which none comes."""
BODY_SECONDS: Final = 20.0
BODY_BYTES_PER_SECOND: Final = 4_096
"""A body has so many seconds, and one more for each of these that came: slow lines are served, those that drip are not."""
LOOK_SECONDS: Final = 1.0
LINGER_SECONDS: Final = 2.0
"""After an answer to a request that is not whole: a connection closed on what still comes is reset, and the answer lost with it."""
_RETRY: Final = "Send it again, in one go."
_log = logging.getLogger("aureus.protocol")


class _ShownOut(Exception):
    """A request that is answered before it is whole."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.code)
        self.error = error


class WholeAnswers(HttpToolsProtocol):
    """uvicorn's protocol. It writes an answer's head and body one after the other, and uvloop hands each to the system
    at once; here they go together: one system call and one packet less per answer.

    It has no limits on the size of a head nor on the time a request takes to come; these are here.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Pairing(transport, self.loop)))
        self._began: float | None = time.monotonic()
        self._head_bytes, self._body_bytes = 0, 0
        self._in_head, self._leaves = True, False

    def data_received(self, data: bytes) -> None:
        if self._leaves:
            return
        if self._began is None:
            self._began = time.monotonic()
        if self._in_head:
            self._head_bytes += len(data)
        self._out: _ShownOut | None = None
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and not self._leaves:
            self._show_out(_large_head())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._told_bytes, self._body_bytes = 0, 0
        self.scope["extensions"] = {ABORT: {"connection": self.transport}}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > TARGET_BYTES_MAX:
            remedy = "Ask for less at once, or send it as a body where that is offered."
            self._refuse(ApiError(414, "target_too_long", f"A path and its query take up to {TARGET_BYTES_MAX} bytes.", remedy=remedy))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._told_bytes += len(name) + len(value)
        if self._told_bytes > HEAD_BYTES_MAX:
            self._refuse(_large_head())
        if len(self.headers) > HEADERS_MAX:
            self._refuse(ApiError(431, "too_many_headers", f"A request has up to {HEADERS_MAX} headers.", remedy="Send fewer."))

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head, self._head_bytes = False, 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0
        self._began = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._began is not None and not self._in_head:
            self._linger()  # answered before it was whole: what still comes of it has no reader, and may come for ever

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn says the same of everything
        """One answer to all that the parser stopped at, in the one error body."""
        if self._out is None:
            message = "This is not HTTP/1.1 that can be understood."
            self._out = _ShownOut(
                ApiError(400, "bad_request", message, remedy="Use an HTTP client, and check what stands between it and here.")
            )
        self._show_out(self._out.error)

    def look(self, now: float) -> None:
        """Shows out who takes too long with a request. Time in which the other side was asked to wait does not count."""
        began = self._began
        if began is None or self._leaves or self.transport.is_closing():
            return
        if self._in_head:
            if now - began > HEAD_SECONDS:
                self._show_out(ApiError(408, "too_slow", f"The head of a request has {HEAD_SECONDS:g} seconds.", remedy=_RETRY))
        elif self.flow.read_paused:
            self._began = began + LOOK_SECONDS
        elif now - began > BODY_SECONDS + self._body_bytes / BODY_BYTES_PER_SECOND:
            rule = f"A body has {BODY_SECONDS:g} seconds, and one more for every {BODY_BYTES_PER_SECOND} bytes."
            self._show_out(ApiError(408, "too_slow", rule, remedy=_RETRY))

    def _refuse(self, error: ApiError) -> None:
        """From within the parser, which stops at an exception."""
        self._out = _ShownOut(error)
        raise self._out

    def _show_out(self, error: ApiError) -> None:
        """Answers in place of the application, unless that has begun to, and closes the connection."""
        _log.info("a request is shown out: %s", error.code)
        cycle = self.cycle
        working = bool(cycle) and not cycle.response_complete  # there is none before the first request
        if not (working and cycle.response_started):
            self.transport.write(_wire(error))
        if working:
            cycle.disconnected = True  # nothing more is written by it, and it learns that its body ends here
            cycle.message_event.set()
        self._linger()

    def _linger(self) -> None:
        """Says that nothing more is said, and closes as soon as it was heard."""
        self._leaves = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _large_head() -> ApiError:
    message = f"The head of a request takes up to {HEAD_BYTES_MAX} bytes."
    return ApiError(431, "head_too_large", message, remedy="Send fewer and shorter headers; what is long belongs into the body.")


def _wire(error: ApiError) -> bytes:
    response = body_response(error, uuid7_text())
    response.headers["connection"] = "close"
    head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
    return STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body)


async def watch(state: ServerState) -> None:
    """Looks at every connection of a server now and then; until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = time.monotonic()
        for connection in list(state.connections):
            if isinstance(connection, WholeAnswers):
                connection.look(now)


class _Pairing:
    """A transport that holds back a write until the next one, or until the event loop's turn ends."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
