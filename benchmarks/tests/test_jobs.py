"""The benchmark of jobs runs: on each engine, with few jobs."""

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import jobs


def test_every_engine_and_library_has_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "ROUNDS", 1)
    monkeypatch.setattr(jobs, "JOBS", 100)
    jobs.main()
    output = capsys.readouterr().out
    for name in (*jobs.ENGINES, *jobs.LIBRARIES):
        assert re.search(rf"^\| {name}: one worker \| jobs/s \| [1-9]", output, re.MULTILINE), output


class Fast:
    """A database whose jobs are done by 150 between two looks."""

    def __init__(self) -> None:
        self.remaining = 0
        self.filled: list[int] = []

    async def execute(self, _statement: str, count: int) -> None:
        self.remaining = count
        self.filled.append(count)

    async def fetchval(self, _statement: str) -> int:
        self.remaining = max(0, self.remaining - 150)
        return self.remaining

    async def close(self) -> None:
        pass


def test_jobs_that_are_done_between_two_looks_are_run_again_and_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Fast()

    async def connect(_url: str) -> Fast:
        return database

    monkeypatch.setattr("benchmarks.jobs.asyncpg.connect", connect)
    monkeypatch.setattr(jobs, "cpu_s", lambda _worker: 0.0)
    side: Any = SimpleNamespace(database="", fill="", remaining="", jobs=100)

    rate, _ = asyncio.run(jobs.rate(side, None))

    assert rate > 0
    assert database.filled == [1, 100, 200]
