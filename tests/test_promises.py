"""Each promise of a service is proved by tests that exist, and that run in the variants which it concerns."""

import pytest

from tests.promises import PAGE, Promise, exists, page, promises, runs_in
from tests.variants import QUESTIONS

# Of the list on which this project was begun: none may be forgotten.
IDS = {
    "R": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30],
    "S": [1, 4, 10, 13, 16, 20, 22, 30, 33, 35, 36],
    "O": [1, 2, 3, 4, 5],
}


def test_every_promise_is_listed_once() -> None:
    assert [each.id for each in promises()] == [f"{kind}-{n:02}" for kind, numbers in IDS.items() for n in numbers]


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.id)
def test_it_is_proved_where_it_holds(promise: Promise) -> None:
    assert [test for test in promise.tests if not exists(test)] == []
    assert promise.tests or promise.open or promise.out
    for question, allowed in promise.answers.items():
        assert set(allowed) <= {*QUESTIONS[question]}
    assert promise.variants
    if promise.tests:
        unproved = [name for name in promise.variants if not any(runs_in(test, name) for test in promise.tests)]
        assert unproved == []
    # A test that runs in none of them proves something else.
    assert [test for test in promise.tests if not any(runs_in(test, name) for name in promise.variants)] == []


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `nox -s docs`"
