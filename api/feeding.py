"""Live feeds over HTTP: the same messages as Server-Sent Events and over a WebSocket, for as long as their reader may have them.

A message has a name and JSON. Server-Sent Events: `event: <name>`, `id: <position>`, `data: <JSON>`. WebSocket: `{"<name>": <JSON>}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Final, Protocol

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.authentication import Headers
from api.errors import ApiError, error_response, known_error
from api.protocol import ABORT
from api.services import Services
from domain.kernel import Asker
from domain.ledger import LedgerUnavailable
from infra.tasks import ended
from streams.feeds import Feed, FeedEnded, Limits, TooManyFeeds

SUBPROTOCOL: Final = "aureus.feed.v1"
BEARER: Final = "bearer."
"""Before a token among the subprotocols that a browser offers: it can send no header with a WebSocket."""
LAST_WORD_SECONDS: Final = 1.0
_CLOSE_CODES: Final = {"going_away": 1001, "message_unexpected": 1003, "unauthenticated": 1008, "access_changed": 1008, "too_slow": 1013}
_FAILED: Final = 1011
Opened = AbstractAsyncContextManager[Feed]
Opening = Callable[[Services, Scope, Asker], Awaitable[Opened]]
"""Makes of a request the feed it asks for, or refuses it."""


class Channel(Protocol):
    """How messages reach a client."""

    async def tell(self, name: str, messages: list[tuple[int, str]]) -> None:
        """(position to go on after, JSON)"""

    async def end(self, why: FeedEnded, position: int) -> None: ...

    async def gone(self) -> None:
        """Returns when the client has left."""

    def abort(self) -> None:
        """Lets go of a client that takes nothing, not even an ending."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A feed that is open, and whoever may have it."""

    services: Services
    headers: Headers
    asker: Asker
    feed: Feed

    async def over(self, channel: Channel) -> None:
        """Tells the feed until the client leaves, or one of them must end it; then the client is told why, and where to go on."""
        place = _Place(self.feed.position)
        limits = self.services.feeds.limits
        work = [self._tell(channel, place, limits), self._beat(channel, place, limits), channel.gone()]
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(*tasks)
        errors = [task.exception() for task in done]
        if any(error is None or isinstance(error, OSError) for error in errors):
            return  # the client has left
        why = _why(next(error for error in errors if error is not None))
        try:
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await channel.end(why, place.position)
        except (OSError, TimeoutError):
            channel.abort()
            with suppress(FeedEnded, TimeoutError):
                async with asyncio.timeout(LAST_WORD_SECONDS):
                    await channel.gone()

    async def _tell(self, channel: Channel, place: _Place, limits: Limits) -> None:
        await _taken(channel.tell("begin", [(place.position, f'{{"position":{place.position}}}')]), limits)
        while True:
            step = await self.feed.next()
            if step.messages:
                await _taken(channel.tell(self.feed.name, step.messages), limits)
            place.position = step.reached

    async def _beat(self, channel: Channel, place: _Place, limits: Limits) -> None:
        closing = self.services.feeds.closing
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.beat_seconds):
                    await closing.wait()
                raise FeedEnded("going_away", "The server is shutting down.", "Connect again in a moment; go on after this position.")
            await self._require_same_access()
            await _taken(channel.tell("beat", [(place.position, f'{{"position":{place.position}}}')]), limits)

    async def _require_same_access(self) -> None:
        """Raises Unauthenticated, or FeedEnded when the client may read other things now than when the feed was opened."""
        with suppress(LedgerUnavailable):  # nobody's access changes while the database is away
            if await self.services.authenticator.authenticate(self.headers) != self.asker:
                message = "Your roles have changed since this feed was opened."
                raise FeedEnded("access_changed", message, "Connect again; go on after this position.")


@dataclass(slots=True)
class _Place:
    """Up to where everything was told."""

    position: int


async def _taken(message: Awaitable[None], limits: Limits) -> None:
    try:
        async with asyncio.timeout(limits.stalled_seconds):
            await message
    except TimeoutError:
        message_text = f"No message was taken for {limits.stalled_seconds:g} seconds."
        raise FeedEnded("too_slow", message_text, "Read faster, or ask for less; then go on after this position.") from None


def _why(error: BaseException) -> FeedEnded:
    if isinstance(error, FeedEnded):
        return error
    known = known_error(error)
    remedy = known.details.get("remedy", "Connect again; go on after this position.")
    return FeedEnded(known.code, known.message, remedy)


async def open_talk(open_feed: Opening, services: Services, scope: Scope, headers: Headers, stack: AsyncExitStack) -> Talk:
    """What was asked for, open until `stack` is left; raises what a request is refused with."""
    asker = await services.authenticator.authenticate(headers)
    try:
        feed = await stack.enter_async_context(await open_feed(services, scope, asker))
    except TooManyFeeds as error:
        remedy = "Close one that is not needed; one feed can carry several types or tables."
        raise ApiError(429, "too_many_feeds", str(error), {"retry-after": "5"}, most=error.most, remedy=remedy) from None
    except FeedEnded as error:
        raise ApiError(503, error.code, error.message, {"retry-after": "1"}, remedy=error.remedy) from None
    return Talk(services, headers, asker, feed)


class EventStream(Response):
    """A feed as Server-Sent Events."""

    media_type = "text/event-stream"

    def __init__(self, talk: Talk, stack: AsyncExitStack, request_id: str) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", "x-request-id": request_id})
        del self.headers["content-length"]
        self._talk, self._stack = talk, stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._talk.over(_Events(scope, receive, send))


class _Wire:
    """What a client is reached through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._connection = scope.get("extensions", {}).get(ABORT, {}).get("connection")

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()


class _Events(_Wire):
    """Server-Sent Events."""

    async def tell(self, name: str, messages: list[tuple[int, str]]) -> None:
        text = "".join([f"event: {name}\nid: {position}\ndata: {data}\n\n" for position, data in messages])
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def end(self, why: FeedEnded, position: int) -> None:
        await self.tell("end", [(position, _last_word(why, position))])
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class _Socket(_Wire):
    """An accepted WebSocket."""

    async def tell(self, name: str, messages: list[tuple[int, str]]) -> None:
        for _, data in messages:
            await self._send({"type": "websocket.send", "text": f'{{"{name}":{data}}}'})

    async def end(self, why: FeedEnded, position: int) -> None:
        await self.tell("end", [(position, _last_word(why, position))])
        await self._send({"type": "websocket.close", "code": _CLOSE_CODES.get(why.code, _FAILED), "reason": why.code})

    async def gone(self) -> None:
        if (await self._receive())["type"] != "websocket.disconnect":
            message = "A feed takes no messages: what it tells is said in its address."
            raise FeedEnded("message_unexpected", message, "Open another feed to ask for something else.")


def _last_word(why: FeedEnded, position: int) -> str:
    return orjson.dumps({"code": why.code, "message": why.message, "position": position, "remedy": why.remedy}).decode()


def identity_headers(scope: Scope) -> Headers:
    """The headers of a WebSocket's request, with the token that a browser could offer as a subprotocol only."""
    tokens = [(b"authorization", b"Bearer " + one.removeprefix(BEARER).encode()) for one in scope["subprotocols"] if one.startswith(BEARER)]
    return [*scope["headers"], *tokens]


async def talk_over_socket(open_feed: Opening, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
    """The whole life of a WebSocket. What a request would be refused with is answered before it is accepted, with that status."""
    await receive()  # websocket.connect
    services: Services = scope["app"].state.services
    offered: list[str] = scope["subprotocols"]
    async with AsyncExitStack() as stack:
        try:
            talk = await open_talk(open_feed, services, scope, identity_headers(scope), stack)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets the one error body
            return await refuse_socket(error_response(error, request_id), send)
        chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-request-id", request_id.encode())]})
        await talk.over(_Socket(scope, receive, send))
    return None


async def refuse_socket(answer: Response, send: Send) -> None:
    """Answers a WebSocket's request as if it had been an ordinary one."""
    await send({"type": "websocket.http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "websocket.http.response.body", "body": answer.body, "more_body": False})
