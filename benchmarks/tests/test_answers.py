"""The check that all services answer alike: what it lets pass, and each kind of difference that it finds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from benchmarks.harness.answers import Answer, AnswersDiffer, check_equal, check_written, comparable, difference
from benchmarks.harness.scenarios import Request
from benchmarks.tests.handlers import served_by

USER = {"id": "1", "name": "Ada", "created_at": "2026-01-01T00:00:00.000001Z"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (USER, USER | {"created_at": "2026-01-01T00:00:00.000001+00:00"}),
        (USER, dict(reversed(USER.items()))),
        ({"items": [], "next": "a"}, {"items": [], "next": None}),
        ({"items": []}, {"items": [], "next": None, "prev": None}),
    ],
)
def test_equal_but_for_notation(one: Any, other: Any) -> None:
    assert difference(comparable(Answer(200, one, 0)), comparable(Answer(200, other, 1))) is None


def test_errors_are_equal_whatever_they_say() -> None:
    assert comparable(Answer(404, {"detail": "Not Found"}, 0)) == comparable(Answer(404, {"title": "There is none"}, 0))


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        ({"a": 1}, {"a": 2}, "at /a: 1 and 2"),
        ({"a": 1}, {"a": True}, "at /a: 1 and true"),
        ({"a": 1}, {"a": 1.0}, "at /a: 1 and 1.0"),
        ({"a": 1}, {"b": 1}, 'at /: {"a": 1} and {"b": 1}'),
        ([1, 2], [1], "at /: [1, 2] and [1]"),
        ({"items": [{"author": {"name": "A"}}]}, {"items": [{"author": {"name": "B"}}]}, "at /items/0/author/name:"),
        ("x" * 200, "y" * 200, "at /: " + '"' + "x" * 78 + "…"),
        (None, 0, "at /: null and 0"),
    ],
)
def test_differences_are_located(one: Any, other: Any, where: str) -> None:
    found = difference(one, other)

    assert found is not None
    assert found.startswith(where)


def test_an_instant_that_differs_by_a_microsecond_differs() -> None:
    later = USER | {"created_at": "2026-01-01T00:00:00.000002Z"}

    assert difference(comparable(Answer(200, USER, 0)), comparable(Answer(200, later, 0)))


@contextmanager
def server(status: int, body: Any, *, remembers: bool = True) -> Iterator[int]:
    """Answers GET with `body`, into which PATCH merges its own, if the server remembers."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer()

        def do_PATCH(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if remembers:
                body.update(sent)
            self.answer()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with served_by(Handler) as port:
        yield port


def test_services_that_agree_pass_with_the_size_of_what_they_sent() -> None:
    with server(200, USER) as one, server(200, USER) as other:
        request = Request("GET", "/users/1")
        found = check_equal({"raw": request, "plain": request}, {"raw": one, "plain": other})

    assert found["raw"].body == USER
    assert found["raw"].size > len(json.dumps(USER))


@pytest.mark.parametrize(("status", "body"), [(200, USER | {"name": "Eve"}), (404, USER), (200, USER | {"extra": 1})])
def test_a_planted_difference_is_found_and_named(status: int, body: Any) -> None:
    with server(200, USER) as one, server(status, body) as other:
        request = Request("GET", "/users/1")
        with pytest.raises(AnswersDiffer, match="raw and plain answer GET /users/1 differently at /"):
            check_equal({"raw": request, "plain": request}, {"raw": one, "plain": other})


def test_a_cache_that_misses_a_write_is_found() -> None:
    written = Request("PATCH", "/users/1", b'{"name": "Grace"}')
    with server(200, dict(USER)) as port:
        check_written("usual", port, written)
    with (
        server(200, dict(USER), remembers=False) as port,
        pytest.raises(AnswersDiffer, match="usual: after the name became 'Grace', GET /users/1 answers"),
    ):
        check_written("usual", port, written)
