"""WebSockets; a client that reads nothing is disconnected, as it is over HTTP."""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.core.server.protocol import unread


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection that has become a WebSocket. uvicorn closes those that answer no ping."""

    _unread: tuple[int, bytes] | None = None
    _since_s = 0.0

    async def send(self, message: Any) -> None:
        await super().send(message)
        # Otherwise, uvicorn logs an error after a refusal by a response.
        self.handshake_complete = self.handshake_complete or self.close_sent

    def abort_if_unread(self, now_s: float, timeout_s: float) -> None:
        """End the connection when its client has read nothing for so long: a close would wait."""
        waiting = unread(self.transport)
        if waiting != self._unread or waiting is None:
            self._unread, self._since_s = waiting, now_s
        elif now_s - self._since_s > timeout_s:
            self.transport.abort()
