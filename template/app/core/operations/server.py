"""How gunicorn runs the application in each worker."""

from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

from app.core.http.problems import problem_response

# Time from SIGTERM until running requests are cut off.
REQUEST_DRAIN_S = 15
# Time from SIGTERM until gunicorn kills the worker; jobs drain after the requests.
GRACEFUL_TIMEOUT_S = 30
# The most bytes of request line and headers together, and of trailers; nginx passes as many by
# default.
MAX_HEAD_BYTES = 32 * 1024


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with a limit on all parts of a request but its body, which httptools lacks."""

    # Bytes that have brought neither a part of a body nor the end of a request.
    head_bytes = 0

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_HEAD_BYTES):
            part = data[start : start + MAX_HEAD_BYTES]
            self.head_bytes += len(part)
            super().data_received(part)
            if self.head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            if self.transport.is_closing():
                return

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        # uvicorn would add the fields after the body (trailers) to the headers, past a proxy that
        # removes some of them. RFC 9110, section 6.5.1, forbids that.
        self.scope["headers"] = self.headers.copy()

    def on_body(self, body: bytes) -> None:
        self.head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP, for which uvicorn calls this."""
        self.refuse(HTTPStatus.BAD_REQUEST, msg)

    def refuse(self, status: HTTPStatus, detail: str | None = None) -> None:
        """Answer in place of the application, and close the connection."""
        response = problem_response(status, detail, headers={"Connection": "close"})
        lines = [b"HTTP/1.1 %d %b" % (status, status.phrase.encode())]
        lines += [b"%b: %b" % header for header in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()


class Worker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker has no types
    """uvicorn on uvloop and httptools, which answers more requests than h11.

    It ends a hung request before gunicorn kills the worker at `graceful_timeout`; otherwise the
    shutdown of the lifespan would not run.
    """

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - as the base class does
        "loop": "uvloop",
        "http": Protocol,
        "timeout_graceful_shutdown": REQUEST_DRAIN_S,
        # The header helps attackers only, and costs a microsecond.
        "server_header": False,
    }
