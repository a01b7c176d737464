"""Merge a team's edits into files that the template moved: `merge_moved.py OLD NEW [OLD NEW ...]`, stage after.

Copier deletes a moved file with the team's edits, and writes a new one. This hook merges three versions: base is OLD as
the previous version of the template rendered it, ours is OLD in the last commit, theirs is NEW after the update. It
computes all merges before it writes. OLD and NEW are both files, or both directories.
"""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from project import Committed, committed, fail, git, inside, read_answers, records, restore, run, say

# The clone that Copier made of the new version; it has the old one in its history.
TEMPLATE = Path(__file__).resolve().parents[1]
LINK = "120000"
# As Copier's own, so that conflicts of both look alike.
LABELS = ["-L", "before updating", "-L", "last update", "-L", "after updating"]

MERGED = "Moved, with your changes:"
CONFLICT = "CONFLICT in a moved file: edit the lines between <<<<<<< and >>>>>>>, then `git add` the file:"
UNMERGEABLE = (
    "CONFLICT in a moved file, which has your version: `git checkout --theirs FILE` takes the other; then `git add` it:"
)
DELETED = "Moved, although you had deleted the file; delete it again if you do not need it:"
TAKEN = "Moved, but you have a file there. The old file stays with your changes: merge these by hand, and delete it:"
UNUSED = "Moved, but not rendered with your answers. The old file stays with your changes, and is yours from now on:"
STRAYS = "Your own files, in a directory that moved; move those that belong to it:"
HEADINGS = (MERGED, CONFLICT, UNMERGEABLE, DELETED, TAKEN, UNUSED)
# OLD comes back from the last commit.
KEPT = (TAKEN, UNUSED)


class File(NamedTuple):
    mode: str
    data: bytes


class Outcome(NamedTuple):
    """The result for one file: its message, the content of NEW if it changes, and its entries in git's index."""

    heading: str = ""
    file: File | None = None
    stages: Sequence[str] = ()


def read(path: Path) -> File | None:
    if path.is_symlink():
        return File(LINK, os.fsencode(os.readlink(path)))
    if path.is_file():
        return File("100755" if path.stat().st_mode & 0o100 else "100644", path.read_bytes())
    return None


def write(path: Path, file: File) -> None:
    # Never through a link.
    path.unlink(missing_ok=True)
    if file.mode == LINK:
        path.symlink_to(os.fsdecode(file.data))
        return
    path.write_bytes(file.data)
    if file.mode == "100755":
        mode = path.stat().st_mode
        path.chmod(mode | (mode & 0o444) >> 2)


def blob(file: File, name: str, *options: str) -> str:
    """Return git's name for the content at this path; -w stores it."""
    path = ["--no-filters"] if file.mode == LINK else [f"--path={name}"]
    return git("hash-object", "--stdin", *path, *options, data=file.data).decode().strip()


def with_line_ends_of(file: File, model: File) -> File:
    """The same lines, ended like those of `model`; as it is if that mixes both kinds of ends."""
    crlf = model.data.count(b"\r\n")
    if crlf not in {0, model.data.count(b"\n")}:
        return file
    lines = file.data.replace(b"\r\n", b"\n")
    return File(file.mode, lines.replace(b"\n", b"\r\n") if crlf else lines)


def merge(base: File, ours: File, theirs: File) -> tuple[File, str]:
    """Return the result of a three-way merge, and its message."""
    # A link leads elsewhere from another directory.
    if LINK in {base.mode, ours.mode, theirs.mode}:
        return ours, UNMERGEABLE
    if not any(b"\0" in file.data for file in (base, ours, theirs)):
        base, theirs = with_line_ends_of(base, ours), with_line_ends_of(theirs, ours)
    mode = theirs.mode if ours.mode == base.mode else ours.mode
    if ours.data == theirs.data or base.data == theirs.data:
        return File(mode, ours.data), MERGED
    if ours.data == base.data:
        return File(mode, theirs.data), MERGED
    if any(b"\0" in file.data for file in (base, ours, theirs)):
        return ours, UNMERGEABLE
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory, side) for side in ("ours", "base", "theirs")]
        for path, file in zip(paths, (ours, base, theirs), strict=True):
            path.write_bytes(file.data)
        command = ["git", "merge-file", "-p", *LABELS, *map(str, paths)]
        process = subprocess.run(command, capture_output=True, check=False)
    # The number of conflicts, at most 127.
    if process.returncode > 127:
        fail(f"git merge-file: {process.stderr.decode(errors='replace')}")
    return File(mode, process.stdout), CONFLICT if process.returncode else MERGED


def render_previous(answers_file: str, head: Mapping[str, Committed], directory: Path) -> Path:
    """Render the service with the previous version of the template and the answers of the last commit."""
    if answers_file not in head:
        fail(f"{answers_file} is not in the last commit: commit it, or name another file with `copier update -a FILE`")
    answers = read_answers(git("cat-file", "blob", f"HEAD:./{answers_file}"), answers_file)
    data = {key: value for key, value in answers.items() if not key.startswith("_")}
    # Templates may use the name of the directory.
    rendered = directory / Path.cwd().name
    # Not at the top: it takes half a second.
    import copier

    warnings.simplefilter("ignore")
    try:
        copier.run_copy(
            str(TEMPLATE), rendered, data, vcs_ref=answers["_commit"], defaults=True, quiet=True, skip_tasks=True
        )
    except Exception as error:
        fail(f"version {answers['_commit']} of the template, which the service has, cannot be rendered: {error!s:.200}")
    return rendered


def trace(rendered: Path, moves: Mapping[str, str]) -> dict[str, str]:
    """Return each file that the previous version rendered at or below an OLD, with its place; the longest OLD wins."""
    found = {}
    for old in sorted(moves, key=len):
        for path in [rendered / old, *(rendered / old).rglob("*")]:
            if path.is_symlink() or path.is_file():
                name = path.relative_to(rendered).as_posix()
                found[name] = moves[old] + name[len(old) :]
    return found


def read_brought() -> dict[str, File]:
    """Return the update's version of the files in conflict."""
    brought = {}
    for record in records(git("ls-files", "--unmerged", "-z")):
        entry, name = record.split("\t", 1)
        mode, content, stage = entry.split()
        if stage == "3":
            brought[name] = File(mode, git("cat-file", "blob", content))
    return brought


def judge(old: str, new: str, base: File, head: Mapping[str, Committed], brought: Mapping[str, File]) -> Outcome:
    """Return the result for a file that the previous version rendered as `base`; write nothing."""
    if Path(old).is_file() and not Path(old).is_symlink():
        return Outcome()  # Not deleted: Copier has merged it where it is, or it is the team's.
    if old not in head and new not in head:
        return Outcome(DELETED if os.path.lexists(new) else "")
    # Without OLD, NEW is the team's own move.
    name = old if old in head else new
    if name == old and head[old] == Committed(base.mode, blob(base, old)):
        return Outcome()
    theirs = brought.get(new) or read(Path(new))
    if name == old and (new in head or theirs is None):
        return Outcome(TAKEN if new in head else UNUSED)
    if theirs is None or (name == old and new in brought):
        return Outcome()  # Done before, or nothing came.
    filters = "blob" if head[name].mode == LINK else "--filters"
    ours = File(head[name].mode, git("cat-file", filters, f"HEAD:./{name}"))
    result, heading = merge(base, ours, theirs)
    if heading == MERGED:
        return Outcome(heading, result, [f"{head[new].mode} {head[new].blob} 0"] if new in head else [])
    stages = enumerate((base, ours, theirs), 1)
    return Outcome(heading, result, [f"{file.mode} {blob(file, new, '-w')} {stage}" for stage, file in stages])


def main(answers_file: str, paths: list[str]) -> None:
    if len(paths) % 2:
        fail(f"{paths[-1]} has no NEW: give pairs of OLD and NEW")
    paths = [inside(path) for path in paths]
    moves = dict(zip(paths[::2], paths[1::2], strict=True))
    head, brought = committed(), read_brought()
    with tempfile.TemporaryDirectory() as directory:
        rendered = render_previous(answers_file, head, Path(directory))
        traced = trace(rendered, moves)
        outcomes = {
            (old, inside(new)): judge(old, new, base, head, brought)
            for old, new in traced.items()
            if (base := read(rendered / old))
        }
    apply(outcomes)
    for heading in HEADINGS:
        say(heading, [f"{old} -> {new}" for (old, new), outcome in outcomes.items() if outcome.heading == heading])
    strays = [name for name in head if name not in traced and any(Path(old) in Path(name).parents for old in moves)]
    say(STRAYS, [name for name in strays if os.path.lexists(name)])


def apply(outcomes: Mapping[tuple[str, str], Outcome]) -> None:
    prefix = git("rev-parse", "--show-prefix").decode().strip()
    restore([old for (old, _), outcome in outcomes.items() if outcome.heading in KEPT])
    index = []
    for (_, new), outcome in outcomes.items():
        if outcome.file:
            write(Path(new), outcome.file)
        if outcome.stages:
            # Mode 0 removes what the index has at this path.
            index += [f"0 {'0' * 40}\t{prefix}{new}", *(f"{entry}\t{prefix}{new}" for entry in outcome.stages)]
    git("update-index", "-z", "--index-info", data=b"".join(os.fsencode(line) + b"\0" for line in index))


if __name__ == "__main__":
    run(main, "after", __doc__)
