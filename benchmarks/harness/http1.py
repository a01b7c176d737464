"""Finds where HTTP/1.1 responses end, and their status: all that the load generator wants to know of them."""

from typing import NamedTuple

MAX_HEAD_BYTES = 65_536


class ProtocolError(Exception):
    """The server sent something that is not one HTTP/1.1 response with a length."""


class Head(NamedTuple):
    status: int
    body_starts: int
    body_bytes: int | None  # None: chunked
    keep_alive: bool


def parse_head(data: bytes, *, to_head: bool = False) -> Head | None:
    """The head of the response that begins with `data`, None while it is incomplete (RFC 9112, 4 to 6)."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MAX_HEAD_BYTES:
            raise ProtocolError("the head does not end")
        return None
    # Searching is several times cheaper than splitting the head into headers.
    head = data[: end + 2].lower()
    if not head.startswith(b"http/1.1 ") or not head[9:12].isdigit():
        raise ProtocolError("not an HTTP/1.1 status line")
    status = int(head[9:12])
    body_bytes: int | None
    if status < 200 or status in (204, 304) or to_head:
        body_bytes = 0
    elif (at := head.find(b"\r\ncontent-length:")) >= 0:
        value = head[at + 17 : head.find(b"\r\n", at + 17)].strip()
        if not value.isdigit():
            raise ProtocolError("Content-Length is not a number")
        body_bytes = int(value)
    elif (at := head.find(b"\r\ntransfer-encoding:")) >= 0 and b"chunked" in head[at : head.find(b"\r\n", at + 2)]:
        body_bytes = None
    else:
        raise ProtocolError("neither Content-Length nor chunked")
    at = head.find(b"\r\nconnection:")
    return Head(status, end + 4, body_bytes, at < 0 or b"close" not in head[at : head.find(b"\r\n", at + 2)])


def chunks_end(data: bytes, at: int) -> int | None:
    """Where the chunked body that starts at `at` ends, None while it is incomplete (RFC 9112, 7.1)."""
    while (line_end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:line_end].partition(b";")[0], 16)
        except ValueError:
            raise ProtocolError("a chunk without a size") from None
        if size == 0:
            # The line's end and the empty line stand together when no trailers are between.
            end = data.find(b"\r\n\r\n", line_end)
            return end + 4 if end >= 0 else None
        at = line_end + 2 + size + 2
        if at > len(data):
            return None
        if data[at - 2 : at] != b"\r\n":
            raise ProtocolError("a chunk longer than its size")
    return None


class Response:
    """Puts one response together from what arrives; bodies are counted, not kept."""

    __slots__ = ("_buffered", "_missing_bytes", "keep_alive", "status", "to_head")

    def __init__(self, *, to_head: bool = False) -> None:
        self.status = 0
        self.keep_alive = True
        self.to_head = to_head
        self._buffered = b""
        self._missing_bytes = 0

    def feed(self, data: bytes) -> bool:
        """Whether the response is complete; the next call then begins another one."""
        if self._missing_bytes:
            self._missing_bytes -= len(data)
        else:
            if self._buffered:
                data = self._buffered + data
            head = parse_head(data, to_head=self.to_head)
            if head is None:
                self._buffered = data
                return False
            self.status, starts, length, self.keep_alive = head
            if self.status < 200:
                self._buffered = b""
                return self.feed(data[starts:]) if len(data) > starts else False
            if length is None:
                end = chunks_end(data, starts)
                if end is None:
                    # Read again from its start with the next part: simple, and such bodies are rare here.
                    self._buffered = data
                    return False
            else:
                end = starts + length
            self._buffered = b""
            self._missing_bytes = end - len(data)
        if self._missing_bytes < 0:
            raise ProtocolError("more than one response to one request")
        return not self._missing_bytes
