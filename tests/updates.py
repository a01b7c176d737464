"""Run `copier update` as a team does, and count its results."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import copier
import yaml

from tests.edits import files, lost
from tests.history import PRESENT, VERSIONS, needs_trust, new_answers, read
from tests.rendering import ROOT, git
from tests.variants import Answers

ANSWERS_FILE = ".copier-answers.yml"
MARKERS = re.compile("^(<<<<<<<|>>>>>>>) (before|after) updating$", re.MULTILINE)


def update(
    service: Path,
    answers: Mapping[str, Any] | None = None,
    vcs_ref: str | copier.VcsRef | None = None,
    *,
    trust: bool = False,
) -> None:
    """Run `copier update`, by default to the newest release, without --trust and without questions."""
    copier.run_update(
        service, data=dict(answers or {}), vcs_ref=vcs_ref, defaults=True, overwrite=True, quiet=True, unsafe=trust
    )


def upgrade(service: Path, answers: Answers, version: str = PRESENT) -> None:
    """Update a service of the history to a version, with trust only if that runs a migration.

    `answers` are today's: those to questions that are new to the service are given with `-d`.
    """
    start = yaml.safe_load(read(service / ANSWERS_FILE))["_commit"]
    assert start in VERSIONS
    update(service, new_answers(start, version, answers), version, trust=needs_trust(start, version))


def changes(service: Path) -> list[str]:
    """Return the changes since the last commit, as `M path`."""
    git(service, "add", "--all")
    return (
        git(service, "diff", "--cached", "--name-status", "--no-renames", "--relative").replace("\t", " ").splitlines()
    )


def printed_commands() -> dict[str, list[str]]:
    """Return the git commands of `_message_after_update`, by their filter: `U` conflicts, `D` deletions."""
    message = yaml.safe_load(read(ROOT / "copier.yml"))["_message_after_update"]
    commands = re.findall(r"(git diff [^`#\n]*--diff-filter=([UD])[^`#\n]*)", message)
    return {letter: command.split() for command, letter in commands}


def listed(service: Path, letter: str) -> set[str]:
    """Return the output of the printed command for conflicts (U) or deletions (D) in this service."""
    _, *arguments = printed_commands()[letter]
    return set(git(service, *arguments).splitlines())


def conflicts(service: Path) -> set[str]:
    """The files with conflict markers, which are exactly those that git lists; rejected hunks count as well."""
    marked = {path for path, text in files(service).items() if MARKERS.search(text)}
    assert listed(service, "U") == marked
    assert list(service.rglob("*.rej")) == []
    return marked


def restored(service: Path, path: str) -> str:
    """A deleted file, brought back as `_message_after_update` says."""
    git(service, "checkout", "HEAD", "--", path)
    return read(service / path)


@dataclass
class Tally:
    """The results of the services of one case.

    `lost` counts edits that are neither in place, nor in a conflict, nor in a file that is listed as deleted.
    """

    services: int = 0
    conflicts: int = 0
    deletions: int = 0
    lost: int = 0

    def count(self, service: Path, edits: Iterable[str] | Mapping[str, str] = ()) -> Collection[str]:
        """Count a service that was just updated; returns the edits, by text, that are lost without a word."""
        deleted = listed(service, "D")
        missing = lost(service, edits)
        if isinstance(edits, Mapping):
            missing = {token for token in missing if edits[token] not in deleted}
        self.services += 1
        self.conflicts += len(conflicts(service))
        self.deletions += len(deleted)
        self.lost += len(missing)
        return missing

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


def table(title: str, rows: Mapping[str, Sequence[Any]], heads: Sequence[str]) -> str:
    """A table with right-aligned columns behind the names of its rows.

    >>> print(table("case", {"one": (1, "yes")}, ("count", "good")))
    case  count  good
    one       1   yes
    """
    lines = [[title, *heads], *([name, *map(str, cells)] for name, cells in rows.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads) + 1)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


HEADS = (*(field.name for field in fields(Tally)), "seconds")


def cases(tallies: Mapping[str, Tally], seconds: Mapping[str, float]) -> str:
    """The table at the end of the run, with the sums in its last line."""
    rows = {case: (*asdict(tally).values(), f"{seconds[case]:.1f}") for case, tally in tallies.items()}
    rows["all"] = (*asdict(sum(tallies.values(), Tally())).values(), f"{sum(seconds[case] for case in tallies):.1f}")
    return table("case", rows, HEADS)
