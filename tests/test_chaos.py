"""The page of the chaos suite: a run writes the parts of its variants, and names what broke a promise."""

from pathlib import Path
from typing import Any

import pytest

from tests import chaos
from tests.rendering import ROOT
from tests.variants import VARIANTS

ROW: dict[str, Any] = {
    "requests": 100,
    "errors": {"503": 7},
    "late_errors": {},
    "wrong": 0,
    "lost_writes": 0,
    "lost_jobs": 2,
    "stale": 0,
    "oldest_s": 0.25,
    "recovered_s": 0.5,
    "jobs_s": 1.5,
    "p50_ms": 10.2,
    "p99_ms": 99.9,
    "checks": {"database": "down"},
    "breaches": ["2 lost jobs"],
}


def document(**rows: Any) -> chaos.Document:
    return {
        "versions": {"Python": "3.11.7", "cores": "2"},
        "bounds": {"cached": 3.0, "replica": None},
        "faults": rows,
    }


def test_a_run_replaces_the_parts_of_its_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "PAGE", tmp_path / "chaos.md")
    chaos.write({"everything": document(old=ROW), "defaults": document(kept=ROW)})
    chaos.write({"everything": document(new=ROW)})

    text = chaos.PAGE.read_text(encoding="utf-8")
    assert text.startswith(chaos.HEAD)
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## defaults", "## everything"]
    row = "| 100 | 7 x 503 | 0 | 0 | 2 jobs | 0 | 0.25 | 0.5 | 1.5 | 10 | 100 | database |"
    assert [line for line in text.splitlines() if line.endswith("database |")] == [f"| kept {row}", f"| new {row}"]
    assert "`background_jobs=celery`" in text


def test_the_published_page_has_the_text_of_this_version() -> None:
    text = (ROOT / "docs/chaos.md").read_text(encoding="utf-8")

    assert text.startswith(chaos.HEAD)
    assert set(chaos.VARIANTS) <= VARIANTS.keys()


def test_a_breach_is_named_with_its_variant_and_fault() -> None:
    assert chaos.breaches({"defaults": document(killed=ROW, hung=ROW | {"breaches": []})}) == [
        "defaults: killed: 2 lost jobs"
    ]
