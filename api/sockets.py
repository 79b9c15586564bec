"""WebSockets as uvicorn speaks them. Loaded when the first is opened: whoever wants none need not wait for it."""

from __future__ import annotations

import logging
from typing import Any, Final

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from api.protocol import ABORT

_log: Final = logging.getLogger("aureus.sockets")
_log.setLevel(logging.WARNING)  # who opens one is no news


class Sockets(WebSocketsSansIOProtocol):
    """uvicorn's protocol, with a way to abort, and without false alarms."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.logger = _log

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # otherwise it was no good handshake, and is answered already
            self.scope["extensions"][ABORT] = {"connection": self.transport}

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # otherwise uvicorn complains of a request that it was not answered
