"""The benchmark of jobs runs: on each engine, with few jobs."""

import re

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
