"""Shared functions of the hooks: the service that is updated, paths inside it, and failures in one sentence."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

import yaml

# As `_message_before_update` of copier.yml prints it.
UNDO = "git reset --quiet -- . && git restore -- . && git clean -fd -- ."
# The state after a stopped update, and the way back: Copier undoes nothing.
AFTERWARDS = {
    "before": "Nothing was updated. If `git status` shows an edited answers file, run `git restore .`.",
    "after": f"The update stopped halfway. Your last commit is complete: `{UNDO}` goes back to it.",
}


class Committed(NamedTuple):
    """A file in the last commit: its mode as git writes it, and the name of its content."""

    mode: str
    blob: str


def fail(reason: str) -> NoReturn:
    afterwards = AFTERWARDS.get(os.environ.get("STAGE", ""), "Nothing was changed.")
    raise SystemExit(f"{Path(sys.argv[0]).stem}: {' '.join(reason.split()).rstrip('.')}. {afterwards}")


def say(heading: str, lines: Sequence[str]) -> None:
    """Print to standard error, where Copier writes its messages too."""
    if lines:
        print("\n".join([f"\n{heading}", *(f"  {line}" for line in lines)]), file=sys.stderr)


def git(*arguments: str, data: bytes | None = None) -> bytes:
    """Run git in the service, without git's hooks and with literal paths; stop if it fails."""
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    environment = {**os.environ, "GIT_LITERAL_PATHSPECS": "1"}
    process = subprocess.run(command, input=data, env=environment, capture_output=True, check=False)
    if process.returncode:
        fail(f"git {arguments[0]}: {process.stderr.decode(errors='replace')}")
    return process.stdout


def records(output: bytes) -> list[str]:
    """Split the output of git with -z."""
    return [os.fsdecode(record) for record in output.split(b"\0") if record]


def run(main: Callable[[str, list[str]], None], stage: str, description: str | None) -> None:
    """Call `main` with the path of the answers file and the other arguments, if this is that stage of an update."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers-file", default=".copier-answers.yml", help="relative to the service")
    parser.add_argument("arguments", nargs="+", metavar="ARGUMENT")
    options = parser.parse_args()
    if os.environ.get("STAGE") != stage:
        when = f"{{{{ _stage == '{stage}' }}}}"
        fail(f'only Copier runs this script, as an entry of `_migrations` in copier.yml with `when: "{when}"`')
    try:
        known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", "HEAD"], capture_output=True, check=False)
        if known.returncode:
            fail(f"{Path.cwd()} is not in a git repository with a commit: run `git init`, commit, and update again")
        # Copier writes the path as the system does.
        main(inside(options.answers_file.replace(os.sep, "/")), options.arguments)
    except OSError as error:
        fail(f"{error}: remove the cause, and update again")


def inside(text: str) -> str:
    """Return the path as git writes it; refuse a path that is not inside the service."""
    path = PurePosixPath(text)
    if "\\" in text or re.match("[A-Za-z]:", text):
        fail(
            f"{text} is a Windows path: write a path relative to the service, with forward slashes, as in app/core/x.py"
        )
    if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0].lower() == ".git":
        fail(f"{text or 'an empty path'} is not inside the service: write a relative path such as app/core/x.py")
    for parent in map(Path, path.parents):
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            fail(f"{parent.as_posix()} is not a directory: move it, commit, and update again")
    return path.as_posix()


def read_answers(content: bytes, name: str) -> dict[str, Any]:
    """Return the answers in an answers file, including `_commit`."""
    try:
        answers = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeError) as error:
        fail(f"{name} is not valid YAML; restore it from an older commit: {error}")
    if not isinstance(answers, dict) or not isinstance(answers.get("_commit"), str):
        fail(f"{name} has no version of the template: restore its line `_commit: ...`")
    return answers


def committed() -> Mapping[str, Committed]:
    """Return the files of the last commit, which is the service before the update."""
    files = {}
    for record in records(git("ls-tree", "-r", "-z", "HEAD")):
        description, name = record.split("\t", 1)
        mode, kind, blob = description.split()
        if kind == "blob":
            files[name] = Committed(mode, blob)
    return files


def restore(names: Sequence[str]) -> None:
    """Restore files from the last commit."""
    for name in names:
        # git would delete what is in it.
        if Path(inside(name)).is_dir():
            fail(f"{name} was a file, and is a directory now: move the directory, commit, and update again")
    if names:
        paths = b"\0".join(map(os.fsencode, names))
        git("checkout", "HEAD", "--pathspec-from-file=-", "--pathspec-file-nul", data=paths)
