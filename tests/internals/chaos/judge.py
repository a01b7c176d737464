"""The verdict on the answers that clients recorded: pure functions of the records.

A version of an item is known from the moment when a client was told that it is stored, or was
shown it. An answer that shows an earlier version, to a request that began later than the bound
after that moment, is stale. A version that nobody had sent is wrong.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

USERS = 12
# Each user writes two of them.
ITEMS = 2 * USERS
SUCCESSES = ("200", "202", "204")
# Errors later than this after the end of a fault are late.
LATE_S = 2.0


class Event(NamedTuple):
    """A request and its answer; `sent` and `shown` are versions, or 0."""

    user: int
    # read, cached, write, entry.
    kind: str
    # The number of an item, or the token of an entry.
    key: str
    sent: int
    began: float
    ended: float
    # The status, or the name of an error.
    outcome: str
    shown: int

    @property
    def is_error(self) -> bool:
        return self.outcome not in SUCCESSES


class Stored(NamedTuple):
    """The contents of the database; `versions` are those of the items."""

    versions: Mapping[str, int]
    entries: Collection[str] = frozenset()
    # The entries whose job has run, with the times.
    effects: Mapping[str, float] = {}


class Window(NamedTuple):
    """The moments when a fault began and ended."""

    began: float
    ended: float


@dataclass
class Verdict:
    """The row of one fault."""

    requests: int = 0
    # By outcome, of requests that ended in the fault or up to `LATE_S` later.
    errors: Counter[str] = field(default_factory=Counter)
    late_errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    lost_writes: int = 0
    lost_jobs: int = 0
    stale: int = 0
    # Of them, those after the last write of all, when every client had to see it.
    stale_at_end: int = 0
    # The longest time for which an answer did not show a version that was known.
    oldest_s: float = 0.0
    # From the end of the fault to the last error.
    recovered_s: float = 0.0
    # From the end of the fault until all jobs that were accepted before have run.
    jobs_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    slowest_ms: float = 0.0


def text_of(item: int, version: int) -> str:
    """Return the text of a version of an item."""
    return f"{version} of {item}"


def judge(
    events: Sequence[Event],
    before: Stored,
    after: Stored,
    window: Window,
    *,
    read_s: float,
    cached_s: float,
) -> Verdict:
    """Judge the answers; `read_s` and `cached_s` are the bounds of staleness.

    A user sees its own writes at once in answers that are not cached.
    """
    verdict = Verdict(requests=len(events))
    for event in events:
        if event.is_error:
            is_late = event.ended > window.ended + LATE_S
            (verdict.late_errors if is_late else verdict.errors)[event.outcome] += 1
            verdict.recovered_s = max(verdict.recovered_s, event.ended - window.ended)
    shown = _shown(events, before, read_s=read_s, cached_s=cached_s)
    verdict.wrong, verdict.stale, verdict.oldest_s = shown
    written = max((event.ended for event in events if event.kind == "write"), default=0.0)
    at_end = [event for event in events if event.began > written + max(read_s, cached_s)]
    last = before._replace(versions=after.versions)
    verdict.stale_at_end = _shown(at_end, last, read_s=0.0, cached_s=0.0)[1]
    sent = _sent(events)
    verdict.wrong += sum(
        version not in sent[key] and version != before.versions[key]
        for key, version in after.versions.items()
    )
    acknowledged = [event for event in events if not event.is_error]
    verdict.lost_writes = sum(
        event.sent > after.versions[event.key] for event in acknowledged if event.kind == "write"
    )
    entries = {event.key: event.ended for event in acknowledged if event.kind == "entry"}
    verdict.lost_writes += len(entries.keys() - after.entries)
    verdict.lost_jobs = len(entries.keys() - after.effects.keys())
    verdict.jobs_s = max(
        (
            after.effects[token] - window.ended
            for token, ended in entries.items()
            if ended <= window.ended and token in after.effects
        ),
        default=0.0,
    )
    verdict.jobs_s = max(verdict.jobs_s, 0.0)
    during = sorted(
        event.ended - event.began
        for event in events
        if event.ended > window.began and event.began < window.ended
    )
    if during:
        verdict.p50_ms, verdict.p99_ms = (1000 * _quantile(during, q) for q in (0.5, 0.99))
        verdict.slowest_ms = 1000 * during[-1]
    return verdict


def _quantile(ordered: Sequence[float], quantile: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)) - 1)]


def _sent(events: Sequence[Event]) -> dict[str, dict[int, float]]:
    """Return the versions of each item that were sent, with the moments."""
    sent: dict[str, dict[int, float]] = defaultdict(dict)
    for event in events:
        if event.kind == "write":
            sent[event.key][event.sent] = event.began
    return sent


def _shown(
    events: Sequence[Event], before: Stored, *, read_s: float, cached_s: float
) -> tuple[int, int, float]:
    """Return how many answers were wrong, how many stale, and the age of the oldest."""
    sent = _sent(events)
    times, highest = _known(events, before)
    wrong, stale, oldest_s = 0, 0, 0.0
    for event in events:
        if event.outcome.endswith("wrong body"):
            wrong += 1
        if event.kind not in ("read", "cached") or event.is_error:
            continue
        began = sent[event.key].get(event.shown, math.inf)
        if event.shown > before.versions[event.key] and began > event.ended:
            wrong += 1
            continue
        later = bisect_right(highest[event.key], event.shown)
        if later == len(highest[event.key]):
            continue
        age_s = event.began - times[event.key][later]
        is_own = int(event.key) % USERS == event.user
        stale += age_s > (cached_s if event.kind == "cached" else 0.0 if is_own else read_s)
        oldest_s = max(oldest_s, age_s)
    return wrong, stale, oldest_s


def _known(
    events: Sequence[Event], before: Stored
) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Return the moments when a version of each item became known, and the highest version then."""
    times = {key: [-math.inf] for key in before.versions}
    highest = {key: [version] for key, version in before.versions.items()}
    for event in sorted(events, key=lambda event: event.ended):
        version = event.sent or event.shown
        if version and not event.is_error and version > highest[event.key][-1]:
            times[event.key].append(event.ended)
            highest[event.key].append(version)
    return times, highest
