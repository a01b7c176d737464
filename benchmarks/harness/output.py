"""Writes what was measured: results.json for programs, results.md and the plots for people."""

import json
from pathlib import Path

from benchmarks.harness import plots, report
from benchmarks.harness.results import Results
from benchmarks.harness.summary import document


def write(results: Results, directory: Path) -> list[Path]:
    """Write all files, those of an earlier run of the same name replaced; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    data, text = directory / "results.json", directory / "results.md"
    data.write_text(json.dumps(document(results), indent=1) + "\n", encoding="utf-8")
    text.write_text(report.markdown(results), encoding="utf-8")
    return [data, text, *plots.write(results, directory)]
