"""Writes what was measured: results.json for programs, results.md and the plots for people."""

import json
import os
from pathlib import Path

from benchmarks.harness import plots, report
from benchmarks.harness.results import Results
from benchmarks.harness.summary import document


def prepare(directory: Path) -> None:
    """Make the directory, before there is something to lose.

    Raises:
        OSError: when the results could not be written there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in (directory, *directory.iterdir()):
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written")


def write(results: Results, directory: Path) -> list[Path]:
    """Write all files, those of an earlier run of the same name replaced; returns their paths."""
    for old in directory.glob("*.svg"):
        old.unlink()
    data, text = directory / "results.json", directory / "results.md"
    data.write_text(json.dumps(document(results), indent=1) + "\n", encoding="utf-8")
    text.write_text(report.markdown(results), encoding="utf-8")
    return [data, text, *plots.write(results, directory)]
