"""The page of overload, from the data of a run that never was."""

from pathlib import Path

from benchmarks.overload import Document, Row, line, page, publish

ROW: Row = {
    "times": 100,
    "waits": False,
    "limiter": "with",
    "answers_per_s": 1234.4,
    "of_peak": 0.914,
    "accepted_ms": [51.2, 490.4],
    "refused_ms": [36.9, 188.0],
    "recovery_s": 0.25,
    "probes": 240,
    "probes_failed": 1,
    "slowest_probe_ms": 985.2,
    "worker_mib": 57.4,
    "statuses": {"200": 4970, "503": 745},
    "lost": 2,
}
DOCUMENT: Document = {
    "started_at": "2026-01-31T12:00:00+00:00",
    "machine": {"cores": 2, "cpu": "Fake CPU"},
    "load_average": [0.1, 4.2],
    "alone_ms": {"without": [1.5, 9.5], "with": [1.25, 8.0]},
    "rows": [ROW, {**ROW, "waits": True, "refused_ms": [0.0, 0.0], "lost": 0}],
}


def test_a_row_has_every_figure() -> None:
    assert line(ROW) == (
        "| 100x, at once | with | 1,234 (91%) | 51 / 490 | 37 / 188 | 0.25 | 1 of 240, 985 | 57 "
        "| 4,970 200, 745 503, 2 lost |"
    )
    assert " | - | " in line(DOCUMENT["rows"][1])


def test_the_page_is_written_with_its_data(tmp_path: Path) -> None:
    publish(DOCUMENT, tmp_path)
    text = (tmp_path / "overload.md").read_text(encoding="utf-8")
    assert text == page(DOCUMENT)
    assert "without it" not in text
    assert "without 1.5 / 9.5 ms, with 1.2 / 8.0 ms" in text
    assert text.count("\n| 100x") == 2
