"""Whether all services give the same answers: a faster wrong one is no result.

Compared are the status and, of successes, the body as JSON; timestamps as instants, and without the cursors of a page,
which are every service's own.
"""

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from benchmarks.harness.scenarios import Request

OWN = ("next", "prev")
NOBODY = UUID(int=0)
TIMEOUT_S = 30


class Answer(NamedTuple):
    """`size` is that of the whole response, in bytes."""

    status: int
    body: Any
    size: int


class AnswersDiffer(RuntimeError):
    """Two services disagree; the message says where."""


def ask(port: int, request: Request) -> Answer:
    """Send one request, on a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        headers = {"Content-Type": "application/json"} if request.body else {}
        connection.request(request.method, request.path, request.body or None, headers)
        response = connection.getresponse()
        body = response.read()
        head = len(f"HTTP/1.1 {response.status} {response.reason}\r\n\r\n")
        head += sum(len(name) + len(value) + 4 for name, value in response.getheaders())
        try:
            content = json.loads(body)
        except ValueError:
            content = body.decode(errors="replace")
        return Answer(response.status, content, head + len(body))


def comparable(answer: Answer) -> Any:
    """What must be equal."""
    return {"status": answer.status, "body": _comparable(answer.body) if answer.status < 400 else None}


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _comparable(member) for key, member in value.items() if key not in OWN}
    if isinstance(value, list):
        return [_comparable(member) for member in value]
    if isinstance(value, str) and len(value) >= len("2026-01-01T00:00:00") and value[10:11] == "T":
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return value
    return value


def difference(one: Any, other: Any, path: str = "") -> str | None:
    """Where two values first differ, and how; None when they do not."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        members = [(one[key], other[key], f"{path}/{key}") for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        members = [(mine, its, f"{path}/{index}") for index, (mine, its) in enumerate(zip(one, other, strict=True))]
    # True == 1 in Python, and not in JSON.
    elif one == other and type(one) is type(other):
        return None
    else:
        return f"at {path or '/'}: {_short(one)} and {_short(other)}"
    return next((found for member in members if (found := difference(*member))), None)


def check_equal(request_of: Mapping[str, Request], ports: Mapping[str, int]) -> dict[str, Answer]:
    """Ask every service its form of a request and compare; returns the answers.

    Raises:
        AnswersDiffer: naming the services, the request and the first difference.
    """
    answers = {name: ask(port, request_of[name]) for name, port in ports.items()}
    first, *others = answers
    for other in others:
        found = difference(comparable(answers[first]), comparable(answers[other]))
        if found:
            method, path, _ = request_of[other]
            raise AnswersDiffer(f"{first} and {other} answer {method} {path} differently {found}")
    return answers


def check_written(name: str, port: int, written: Request) -> None:
    """After a write of a row that was read before, a read sees the name that was written.

    Raises:
        AnswersDiffer: when it does not.
    """
    read = Request("GET", written.path)
    ask(port, read)
    answer = ask(port, written)
    if answer.status != 200:
        raise AnswersDiffer(f"{name}: {written.method} {written.path} answers {answer.status}: {answer.body}")
    expected = json.loads(written.body)["name"]
    answer = ask(port, read)
    if answer.status != 200 or answer.body["name"] != expected:
        raise AnswersDiffer(f"{name}: after the name became {expected!r}, GET {read.path} answers {answer.body}")


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:79]}…"
