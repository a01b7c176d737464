"""The trial of an update: a service of the last version, with a year of work of a team in it, and its checks."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import copier
import yaml

from releases.changelog import Trial
from releases.facts import ANSWERS_FILE, Answers
from releases.migrations import Migration, migrated, moved
from tests.environments import run_uv
from tests.rendering import commit, git, render

MARK = "# A line of the team's own, in "
# The work that tests/edits.py of the last version writes, in the names of that version.
GROW = "import pathlib, sys; from tests.edits import grow; grow(pathlib.Path(sys.argv[1]))"
LOCK = "lock --quiet"
CHECKS = ("run --quiet mypy", "run --quiet python -m dev run python -m app check")
TIMEOUT_S = 600


def trial(
    older: Path, variant: str, answers: Answers, refs: tuple[str, str], crossed: Sequence[Migration], home: Path
) -> Trial:
    """Update a service of a variant between two versions, and look for the team's lines, answers and errors.

    `older` is a checkout of the older version; a line of the team's own is in every file of the service.
    """
    service = render(older, Path(tempfile.mkdtemp(dir=home)), answers, refs[0])
    if (older / "tests/edits.py").exists():
        subprocess.run([sys.executable, "-c", GROW, service], cwd=older, check=True)
    before = texts(service)
    wanted = migrated(yaml.safe_load(before[ANSWERS_FILE]), crossed)
    names = [name for name in before if name != ANSWERS_FILE]
    for name in names:
        with (service / name).open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"{MARK}{name}\n")
    commit(service)
    try:
        copier.run_update(service, vcs_ref=refs[1], defaults=True, overwrite=True, quiet=True, unsafe=bool(crossed))
    except Exception as error:
        return Trial(variant, len(names), error=f"{error}".strip().partition("\n")[0].rstrip("."))
    after = texts(service)
    lines = {line for text in after.values() for line in text.splitlines()}
    recorded = yaml.safe_load(after[ANSWERS_FILE])
    conflicts = git(service, "diff", "--name-only", "--diff-filter=U").splitlines()
    unchecked, broken = checked(service, conflicts)
    return Trial(
        variant,
        len(names),
        tuple(conflicts),
        tuple(name for name in names if name not in after and not moved(name, crossed)),
        tuple(name for name in names if f"{MARK}{name}" not in lines),
        # Copier takes the default in place of an answer that is refused, and says nothing.
        tuple(name for name in recorded if name[0] != "_" and recorded[name] != wanted.get(name, recorded[name])),
        unchecked,
        broken,
    )


def checked(service: Path, conflicts: Sequence[str]) -> tuple[str, str]:
    """Return why the updated service cannot be checked, and the first check that the update broke.

    A file in conflict has the template's side. Files that the update deleted stay deleted.
    """
    if not (service / "pyproject.toml").exists():
        return "", ""
    if conflicts:
        git(service, "checkout", "--quiet", "--theirs", "--", *conflicts)
    if failed := failure(service, LOCK):
        return failed, ""
    for check in CHECKS:
        if failed := failure(service, check):
            commit(service, "Updated")
            git(service, "checkout", "--quiet", "HEAD~1")
            earlier = failure(service, check)
            return (f"before the update, {earlier}", "") if earlier else ("", failed)
    return "", ""


def failure(service: Path, arguments: str) -> str:
    """Return the end of the output if this command of uv fails; empty if it passes."""
    process = run_uv(service, *arguments.split(), timeout_s=TIMEOUT_S)
    end = " | ".join(line.strip() for line in (process.stdout + process.stderr).strip().splitlines()[-5:])
    return f"`uv {arguments}` fails: {end.rstrip('.')}" if process.returncode else ""


def texts(service: Path) -> dict[str, str]:
    """Return the text of every file of a service, without git's own; images are compared as well, if not shown."""
    paths = {path.relative_to(service).as_posix(): path for path in service.rglob("*") if path.is_file()}
    return {
        name: path.read_text(encoding="utf-8", errors="replace")
        for name, path in paths.items()
        if not name.startswith(".git/")
    }
