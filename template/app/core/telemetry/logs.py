"""Logging: each record is one line on standard output, in JSON or as text for people.

A line names the request that it belongs to, without its query string, headers and body.
"""

import fcntl
import logging
import os
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from json import dumps
from stat import S_ISFIFO
from typing import Any

import orjson

from app.core.settings.telemetry import LogFormat
from app.core.telemetry.activity import log_fields

# Collectors split or drop long lines: a longer text loses its middle.
MAX_TEXT_CHARS = 8 * 1024
MAX_LINE_BYTES = 64 * 1024
# When a line is longer, or a value of `extra` has no JSON form.
MAX_VALUE_CHARS = 256

# The largest size of a pipe that Linux allows everybody; 64 KiB is its default.
PIPE_BYTES = 1024**2
_DROPPED = "%d lines were dropped, because nothing read the log"

# Attributes of every record, and uvicorn's; all others are fields of `extra`.
_STANDARD = {*vars(logging.makeLogRecord({})), "asctime", "color_message", "message", "taskName"}


def configure_logging(level: str, form: LogFormat) -> None:
    """Log `app` and the server from `level` up, other libraries and warnings from WARNING up.

    Uncaught errors are logged too. A root logger that has handlers keeps them, and gets no other.
    """
    root = logging.getLogger()
    if not root.handlers:
        handler = _handler()
        handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
        root.addHandler(handler)
    for name in ("app", "uvicorn"):
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        # uvicorn's access log has query strings; telemetry writes another one.
        logger.propagate = name != "uvicorn.access"
        logger.filters = [_is_no_socket]
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(*args[:3])


def _handler() -> logging.Handler:
    # A test may have replaced it by an object without a descriptor; only Linux opens pipes again.
    with suppress(OSError, AttributeError):
        if S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
            return PipeHandler(sys.stdout.fileno())
    return logging.StreamHandler(sys.stdout)


class PipeHandler(logging.Handler):
    """Writes to a pipe, and drops the records for which it has no room: a write would block.

    A collector that hangs would otherwise stop the event loops of all workers.
    """

    def __init__(self, pipe: int) -> None:
        """Raise OSError if the pipe cannot be opened again."""
        super().__init__()
        # Opened again, because other users of the descriptor expect writes that block.
        self._pipe = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
        with suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._dropped = 0
        # A line of which the pipe had room for the beginning only.
        self._is_cut = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if self._dropped:
                lost = {"name": __name__, "levelname": "WARNING", "msg": _DROPPED % self._dropped}
                text = f"{self.format(logging.makeLogRecord(lost))}\n{text}"
            data = f"{text}\n".encode(errors="backslashreplace")
            if self._is_cut:
                data = b"\n" + data
            try:
                self._is_cut = os.write(self._pipe, data) < len(data)
                self._dropped = int(self._is_cut)
            except BlockingIOError:
                self._dropped += 1
        except Exception:
            self.handleError(record)


def _is_no_socket(record: logging.LogRecord) -> bool:
    """Leave out uvicorn's lines about each WebSocket, which have its query string."""
    return record.levelno > logging.INFO or "websockets" not in record.pathname


def _log_uncaught(*exc_info: Any) -> None:
    logging.getLogger("app").critical("Uncaught error", exc_info=exc_info)


class JsonFormatter(logging.Formatter):
    """One JSON object; the fields of `extra` follow those of the record and of its request."""

    def format(self, record: logging.LogRecord) -> str:
        fields, extra = self.fields(record)
        try:
            line = _json(fields | extra | fields)
        except TypeError:
            line = b""
        if not 0 < len(line) <= MAX_LINE_BYTES:
            shown = {_text(name): _text(value, MAX_VALUE_CHARS) for name, value in extra.items()}
            line = _json(fields | shown | fields)
        return _printable(line.decode())

    def fields(self, record: logging.LogRecord) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of the record and of its request, and those of `extra`."""
        try:
            message = record.getMessage().strip()
            if record.name == "uvicorn.error" and record.exc_info:
                # uvicorn has one message for all errors of the application.
                message = f"{message}: {record.exc_info[1]!r}"
        except Exception as error:
            # A record whose arguments do not fit must not be lost.
            message = f"{_text(record.msg)} % {_text(record.args)}: {error!r}"
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": _text(message),
            **log_fields(),
        }
        stack = self.formatException(record.exc_info) if record.exc_info else record.stack_info
        if stack:
            fields["exception"] = _text(stack)
        return fields, {key: value for key, value in vars(record).items() if key not in _STANDARD}


class TextFormatter(JsonFormatter):
    """A line for people; a traceback follows it, indented, so that no line of it looks like one."""

    def format(self, record: logging.LogRecord) -> str:
        fields, extra = self.fields(record)
        time = f"{fields.pop('timestamp').astimezone():%H:%M:%S.%f}"[:-3]
        head = f"{time} {fields.pop('level')} {fields.pop('logger')}: {fields.pop('message')}"
        traceback = fields.pop("exception", "").splitlines()
        more = [f"{key}={_text(value, MAX_VALUE_CHARS)}" for key, value in (extra | fields).items()]
        return "\n    ".join(map(_printable, [" ".join([head, *more]), *traceback]))


def _json(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields, default=_text, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


def _text(value: object, limit: int = MAX_TEXT_CHARS) -> str:
    """Return the value as valid Unicode of at most about `limit` characters."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} without repr: {type(error).__name__}>"
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {len(text)} characters ... {text[-limit // 2 :]}"
    # Bytes that are not UTF-8 reach Python as surrogates, which no encoder accepts.
    return text.encode(errors="backslashreplace").decode()


def _printable(text: str) -> str:
    """Escape what could begin a new line or control a terminal, as in JSON."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else dumps(char)[1:-1] for char in text)
