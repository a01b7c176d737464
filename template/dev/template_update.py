# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Update to the newest version of the template on a branch of its own, and describe it.

`uv run dev/template_update.py DIRECTORY` is what CI runs. It commits to the branch, and writes
`branch`, `title` and `body.md` into DIRECTORY, and after conflicts `draft`; nothing when there is
nothing to do. It pushes nothing. By hand, `uvx copier update --defaults` is enough.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ANSWERS = ".copier-answers.yml"
COPIER = ("uvx", "copier")
CHECK = ("uv", "run", "--quiet", "python", "-m", "app", "check")
NEEDS_TRUST = 4  # Copier's exit code for a template that wants to run programs
MOST_LINES = 60  # of the output of one command: a request holds 64 KiB


class NothingToDo(Exception):
    """There is no update to propose, and its text says why."""


class CannotUpdate(Exception):
    """There is one, but somebody has to do something first, which its text says."""


@dataclass(frozen=True)
class Update:
    """What an update did to the working tree, not yet committed."""

    old: str
    new: str
    base: str
    conflicts: tuple[str, ...]
    deleted: tuple[str, ...]
    answers: str = ""
    failures: tuple[tuple[str, str], ...] = ()
    older_branches: tuple[str, ...] = ()

    @property
    def branch(self) -> str:
        return branch_for(self.new)

    @property
    def title(self) -> str:
        title = f"Update the template to {self.new}"
        count = len(self.conflicts)
        return f"{title} ({count} conflict{'s' * (count > 1)})" if count else title


def branch_for(version: str) -> str:
    return f"template-update/{version}"


def body(update: Update) -> str:
    """The text of the request, in Markdown: what to look at, in the order in which to do it."""
    parts = [
        f"Updates the template from {update.old} to {update.new}, as `copier update --defaults` "
        "does it."
    ]
    if update.conflicts:
        parts += [
            f"## Conflicts: {len(update.conflicts)}",
            "The template and this repository changed the same lines. These files are committed "
            "with conflict markers; solve them on this branch before anything else:",
            "\n".join(f"- {code(path)}" for path in update.conflicts),
        ]
    if update.deleted:
        parts += [
            f"## Deleted: {len(update.deleted)}",
            "The template no longer has these files, and what this repository had changed in them "
            "goes as well. To bring one back, run its line on this branch and commit; it is yours "
            "from then on:",
            fence(
                "\n".join(
                    f"git checkout {update.base} -- {shlex.quote(path)}" for path in update.deleted
                ),
                "console",
            ),
        ]
    for command, output in update.failures:
        parts += [
            f"## Fails: `{command}`",
            "It says, and did not say before the update:",
            fence(output, "text"),
        ]
    if update.answers:
        parts += [
            "## Answers",
            f"New questions got their defaults. What changed in `{ANSWERS}`:",
            fence(update.answers, "diff"),
        ]
    parts += [
        "## Before you merge",
        f"Fetch `{update.branch}`, look for new variables in `docs/configuration.md`, and run "
        "`uv run nox`. Close this request and keep its branch to skip the version.",
    ]
    if update.older_branches:
        names = ", ".join(code(name) for name in update.older_branches)
        parts += [f"It contains what these branches propose, so they can go: {names}."]
    return "\n\n".join(parts) + "\n"


def code(text: str) -> str:
    """An inline code span; Markdown has no escapes inside of one."""
    marks = "`" * (longest_run(text) + 1)
    return f"{marks}{text}{marks}" if "`" not in text else f"{marks} {text} {marks}"


def fence(text: str, language: str) -> str:
    marks = "`" * max(3, longest_run(text) + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def longest_run(text: str) -> int:
    """The length of the longest run of backticks."""
    return max((len(run) for run in re.findall("`+", text)), default=0)


def new_lines(before: str, after: str) -> str:
    """What a command says now and did not say before, the last lines of it."""
    known = set(before.splitlines())
    lines = [line for line in after.splitlines() if line.strip() and line not in known]
    if len(lines) > MOST_LINES:
        lines = ["...", *lines[-MOST_LINES:]]
    return "\n".join(lines)


def git(*arguments: str) -> str:
    """Run git; returns what it prints."""
    command = ["git", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def paths(*arguments: str) -> tuple[str, ...]:
    """The paths that differ from the last commit, as `git diff` with these arguments lists them."""
    listed = git("diff", "--name-only", "--no-renames", "-z", *arguments)
    return tuple(sorted({path for path in listed.split("\0") if path}))


def run(command: tuple[str, ...]) -> tuple[int, str]:
    """Run code of the service or of its dependencies: without the tokens that this job has."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # `uv run` sets VIRTUAL_ENV to the environment of this script.
        if not re.search("TOKEN|^GIT_CONFIG_|^VIRTUAL_ENV$", name)
    }
    process = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout


def newer_version() -> tuple[str, str]:
    """The version of the template that this service has, and the newest.

    Raises NothingToDo, or CannotUpdate when the template cannot be read.
    """
    command = [*COPIER, "check-update", "--output-format=json"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise CannotUpdate(
            "Copier could not compare the versions: see above. If the template is private, this "
            "job needs a token that reads it."
        )
    found = json.loads(process.stdout.splitlines()[-1])
    if not found["update_available"]:
        raise NothingToDo(f"{found['current_version']} is the newest version of the template.")
    return found["current_version"], found["latest_version"]


def existing_branches() -> list[str]:
    """The branches for updates that origin has."""
    refs = git("ls-remote", "--heads", "origin", f"refs/heads/{branch_for('*')}").splitlines()
    return [line.split("\t")[1].removeprefix("refs/heads/") for line in refs]


def update(*, trust: bool) -> Update:
    """Make the branch, and update on it.

    Raises NothingToDo or CannotUpdate.
    """
    if git("status", "--porcelain"):
        raise CannotUpdate("There are uncommitted changes: commit them first.")
    old, new = newer_version()
    branch = branch_for(new)
    branches = existing_branches()
    if branch in branches:
        raise NothingToDo(
            f"{branch} exists already, and is left as it is. Delete it to have it made anew."
        )
    base = git("rev-parse", "--short=12", "HEAD").strip()
    locked = Path("uv.lock").exists()
    _, said = run(CHECK)
    # What uv wrote: Copier wants a clean tree, as this one was.
    git("reset", "--quiet", "--hard")
    git("clean", "--quiet", "--force", "-d")

    git("switch", "--quiet", "--create", branch)
    copier_update(branch, trust=trust)
    conflicts = paths("--diff-filter=U")
    deleted = paths("--diff-filter=D", "HEAD")
    answers = git("diff", "--unified=0", "HEAD", "--", ANSWERS)
    failed = failures(said, locked=locked)
    if not locked:
        Path("uv.lock").unlink(missing_ok=True)
    return Update(
        old=old,
        new=new,
        base=base,
        conflicts=conflicts,
        deleted=deleted,
        answers=changed_answers(answers),
        failures=failed,
        older_branches=tuple(branches),
    )


def copier_update(branch: str, *, trust: bool) -> None:
    """Run `copier update` on `branch`, which is gone again if the template is not trusted."""
    command = [*COPIER, "update", "--defaults", *(["--trust"] if trust else [])]
    returncode = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if returncode == NEEDS_TRUST:
        # Not `git switch`, which does not go back to a commit without a branch.
        git("checkout", "--quiet", "-")
        git("branch", "--quiet", "--delete", branch)
        raise CannotUpdate(
            "This version of the template has migrations, programs that would run here, and "
            "nothing was changed.\nRead them: `_migrations` in its copier.yml. Then start this "
            "job by hand with TEMPLATE_UPDATE_TRUST=true, or run in a clone\n\n"
            f"  git switch --create {branch}\n  {shlex.join(command)} --trust"
        )
    if returncode:
        raise CannotUpdate(f"Copier failed: see above. {branch} is as it left it, not pushed.")


def changed_answers(diff: str) -> str:
    """The answers in a diff of their file, without what Copier notes for itself."""
    return "\n".join(re.findall(r"^[-+][A-Za-z].*", diff, re.MULTILINE))


def failures(said: str, *, locked: bool) -> tuple[tuple[str, str], ...]:
    """The commands that fail after the update, and what they say that the check had not `said`."""
    if locked:
        # What is locked keeps its version; only what the update asks for changes.
        returncode, output = run(("uv", "lock", "--quiet"))
        if returncode:
            return (("uv lock", new_lines("", output)),)
    returncode, output = run(CHECK)
    output = new_lines(said, output)
    return (("uv run python -m app check", output),) if returncode and output else ()


def write_request(directory: Path, update: Update) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "title").write_text(f"{update.title}\n", encoding="utf-8")
    (directory / "body.md").write_text(body(update), encoding="utf-8")
    if update.conflicts:
        (directory / "draft").touch()
    # Last: it says that the others are there.
    (directory / "branch").write_text(f"{update.branch}\n", encoding="utf-8")


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: uv run dev/template_update.py DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(sys.argv[1]).absolute()
    os.chdir(Path(__file__).parents[1])
    try:
        made = update(trust=os.environ.get("TEMPLATE_UPDATE_TRUST") == "true")
        git("add", "--all")
        git("commit", "--quiet", "--message", f"{made.title}\n\nFrom {made.old}.")
        write_request(directory, made)
    except NothingToDo as reason:
        print(reason)
        return 0
    except CannotUpdate as reason:
        print(reason, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"This failed, see above: {shlex.join(error.cmd)}", file=sys.stderr)
        return 1
    print(f"{made.title}: committed to {made.branch}.")
    print(body(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
