"""The verdict on recorded answers finds each kind of breach, and none in right answers."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.internals.chaos.__main__ import SHORT, breaches
from tests.internals.chaos.client import MIX
from tests.internals.chaos.faults import FAULTS
from tests.internals.chaos.items import router
from tests.internals.chaos.judge import ITEMS, USERS, Event, Stored, Verdict, Window, judge

BEFORE = Stored({"0": 1, "1": 1})
WINDOW = Window(10.0, 20.0)
CACHED_S = 3.0


def event(kind: str, began: float, version: int = 0, **more: Any) -> Event:
    """An answer to user 0 about its own item 0, after 0.1 s."""
    is_write = kind == "write"
    outcome = {"write": "204", "entry": "202"}.get(kind, "200")
    sent, shown = (version, 0) if is_write else (0, version)
    return Event(0, kind, "0", sent, began, began + 0.1, outcome, shown)._replace(**more)


def verdict(events: Sequence[Event], after: Stored, read_s: float = 0.0) -> Verdict:
    return judge(events, BEFORE, after, WINDOW, read_s=read_s, cached_s=CACHED_S)


def after(version: int, **more: Any) -> Stored:
    return Stored({"0": version, "1": 1})._replace(**more)


def test_right_answers_break_no_promise() -> None:
    found = verdict(
        [
            event("read", 1, 1),
            event("write", 2, 5),
            event("read", 3, 5),
            # Within the bound.
            event("cached", 4, 1),
            event("cached", 6, 5),
            event("entry", 7, key="a"),
        ],
        after(5, entries={"a"}, effects={"a": 8.0}),
    )

    assert (found.wrong, found.stale, found.lost_writes, found.lost_jobs) == (0, 0, 0, 0)
    assert found.oldest_s == pytest.approx(1.9)
    assert (found.errors.total(), found.recovered_s, found.jobs_s) == (0, 0, 0)


@pytest.mark.parametrize(
    ("answer", "stale"),
    [
        (event("read", 2.05, 1), 0),
        (event("read", 2.2, 1), 1),
        (event("cached", 5.0, 1), 0),
        (event("cached", 5.2, 1), 1),
        # A replica may be late for other users, and not for the one that wrote.
        (event("read", 5.0, 1, user=1), 0),
        (event("read", 6.2, 1, user=1), 1),
    ],
)
def test_a_version_from_before_an_acknowledged_write_is_stale(answer: Event, stale: int) -> None:
    found = verdict([event("write", 2, 5), answer], after(5), read_s=4.0)

    assert found.stale == stale
    assert found.oldest_s == pytest.approx(answer.began - 2.1) or answer.began < 2.1


def test_a_write_of_unknown_outcome_is_known_when_an_answer_has_shown_it() -> None:
    unknown = event("write", 2, 5, outcome="503")
    shown = event("read", 3, 5, user=1)

    assert verdict([unknown, event("cached", 9, 1)], after(5)).stale == 0
    assert verdict([unknown, shown, event("cached", 6, 1)], after(5)).stale == 0
    assert verdict([unknown, shown, event("cached", 9, 1)], after(5)).stale == 1


def test_a_version_that_is_older_than_the_first_is_stale() -> None:
    assert verdict([event("cached", 9, 0)], after(1)).stale == 1


def test_a_version_that_nobody_had_sent_is_wrong() -> None:
    assert verdict([event("read", 1, 7)], after(1)).wrong == 1
    # Before it was sent.
    assert verdict([event("read", 1, 7), event("write", 3, 7)], after(7)).wrong == 1
    assert verdict([], after(7)).wrong == 1
    assert verdict([event("read", 1, outcome="200 with a wrong body")], after(1)).wrong == 1


def test_acknowledged_work_that_is_not_stored_is_lost() -> None:
    found = verdict(
        [
            event("write", 2, 5),
            event("write", 3, 6, outcome="503"),
            event("entry", 4, key="a"),
            event("entry", 5, key="b"),
            event("entry", 6, key="c", outcome="503"),
        ],
        after(1, entries={"b"}),
    )

    assert (found.lost_writes, found.lost_jobs) == (2, 2)


def test_errors_are_counted_until_and_after_the_recovery() -> None:
    found = verdict(
        [
            event("read", 12, outcome="503"),
            event("read", 21.0, outcome="500"),
            event("read", 23.0, outcome="ReadTimeout"),
            event("entry", 13, key="a"),
        ],
        after(1, entries={"a"}, effects={"a": 22.0}),
    )

    assert found.errors == {"503": 1, "500": 1}
    assert found.late_errors == {"ReadTimeout": 1}
    assert found.recovered_s == pytest.approx(3.1)
    assert found.jobs_s == 2


def test_each_breach_is_named() -> None:
    fault = FAULTS["Valkey killed"]
    broken = Verdict(wrong=1, lost_writes=2, lost_jobs=3, stale=4, recovered_s=60)
    broken.errors["503"] = broken.late_errors["500"] = 1

    assert breaches(fault, Verdict()) == []
    assert breaches(fault, broken) == [
        "1 wrong answers",
        "2 lost writes",
        "3 lost jobs",
        "4 stale answers",
        "an answer 500",
        "an answer 503",
        "no recovery within 30 s",
    ]


def test_the_short_run_judges_the_answers_at_the_end() -> None:
    fault = FAULTS["Valkey killed"]
    late = [event("write", 2, 5), event("cached", 5.2, 1), event("write", 6, 7)]
    seen = verdict([*late, event("cached", 9.2, 7)], after(7))
    unseen = verdict([*late, event("cached", 9.2, 5)], after(7))

    assert (seen.stale, seen.stale_at_end, unseen.stale_at_end) == (1, 0, 1)
    assert breaches(fault, seen, is_short=True) == []
    assert breaches(fault, unseen, is_short=True) == ["1 stale answers"]


def test_the_short_run_has_faults_of_the_list() -> None:
    assert set(SHORT) <= FAULTS.keys()


def test_the_clients_write_every_item_and_use_every_route() -> None:
    assert ITEMS % USERS == 0
    assert len(MIX) == len(router.routes)
