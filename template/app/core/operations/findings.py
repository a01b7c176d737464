"""Findings of `python -m app check`, and their report, also of a module that fails to import."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]


class Finding(NamedTuple):
    """`id` is stable; `severity` is error, warning or note, and an error fails the check."""

    id: str
    severity: str
    sentence: str
    remedy: str

    def __str__(self) -> str:
        return " ".join(f"{self.severity}: {self.sentence} {self.remedy} [{self.id}]".split())


def report(find: Callable[[], list[Finding]], *, as_json: bool) -> None:
    """Print the findings, errors on standard error; exit with 1 if there are errors."""
    try:
        found = find()
    except SystemExit as refusal:
        found = [Finding("start.refused", "error", str(refusal.code), "")]
    except Exception as error:
        found = [Finding("start.code", "error", _located(error), "")]
    errors = [finding for finding in found if finding.severity == "error"]
    if as_json:
        print(json.dumps([finding._asdict() for finding in found], indent=2))
    else:
        for finding in found:
            print(finding, file=sys.stderr if finding in errors else sys.stdout)
        print(f"Findings: {len(found)}, errors among them: {len(errors)}.")
    if errors:
        sys.exit(1)


def _located(error: Exception) -> str:
    """Return an error after the last file and line of this service that led to it."""
    if isinstance(error, SyntaxError):
        path, line = error.filename, error.lineno
    else:
        path, line = next(
            (frame.filename, frame.lineno)
            for frame in reversed(traceback.extract_tb(error.__traceback__))
            if Path(frame.filename).is_relative_to(ROOT / "app")
        )
    text = error.msg if isinstance(error, ImportError | SyntaxError) else str(error)
    return f"{os.path.relpath(path or '', ROOT)}:{line}: {type(error).__name__}: {text}"
