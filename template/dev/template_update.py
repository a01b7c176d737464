# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Update to the newest version of the template on a branch of its own, and describe the result.

CI runs `uv run dev/template_update.py DIRECTORY`. It commits to the branch and writes `branch`,
`title` and `body.md` into DIRECTORY, and `draft` after conflicts; without a newer version it writes
nothing. It pushes nothing. By hand, `uvx copier update --defaults` is enough.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ANSWERS = ".copier-answers.yml"
NEEDS_TRUST = 4  # Copier's exit code for a template that wants to run programs
MOST_LINES = 60  # of the output of a command: a request holds 64 KiB


def title(version: str, conflicts: int) -> str:
    count = f" ({conflicts} conflict{'s' * (conflicts > 1)})" if conflicts else ""
    return f"Update the template to {version}{count}"


def body(
    old: str, new: str, base: str, conflicts: list[str], deleted: list[str], *more: str
) -> str:
    """Return the text of the request, in Markdown, in the order in which to work through it."""
    parts = [f"Updates the template from {old} to {new}, as `copier update --defaults` does it."]
    if conflicts:
        parts += [
            f"## Conflicts: {len(conflicts)}",
            "The template and this repository changed the same lines. These files are committed "
            "with conflict markers; resolve them on this branch first:",
            fence("\n".join(conflicts), "text"),
        ]
    if deleted:
        commands = [f"git checkout {base} -- {shlex.quote(path)}" for path in deleted]
        parts += [
            f"## Deleted: {len(deleted)}",
            "The template no longer has these files, and your changes in them are deleted as well. "
            "To bring one back, run its line on this branch and commit; the file is then yours:",
            fence("\n".join(commands), "console"),
        ]
    return "\n\n".join([*parts, *filter(None, more)]) + "\n"


def fence(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in the text."""
    marks = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def changed_answers(diff: str) -> str:
    """Return the answers in a diff of their file, without Copier's own entries."""
    return "\n".join(re.findall(r"^[-+][A-Za-z].*", diff, re.MULTILINE))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def differing(*arguments: str) -> list[str]:
    """Return the paths that `git diff` lists with these arguments."""
    listed = git("diff", "--name-only", "--no-renames", "-z", *arguments)
    return sorted({path for path in listed.split("\0") if path})


def copier_update(branch: str) -> None:
    """Run `copier update` on a new branch, which is deleted if the template is not trusted."""
    git("switch", "--quiet", "--create", branch)
    trust = ["--trust"] * (os.environ.get("TEMPLATE_UPDATE_TRUST") == "true")
    command = ["uvx", "copier", "update", "--defaults", *trust]
    returncode = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if returncode == NEEDS_TRUST:
        # Not `git switch`, which does not go back to a commit without a branch.
        git("checkout", "--quiet", "-")
        git("branch", "--quiet", "--delete", branch)
        raise SystemExit(
            "This version of the template has migrations, programs that would run here, and "
            "nothing was changed.\nRead them: `_migrations` in its copier.yml. Then start this "
            "job by hand with TEMPLATE_UPDATE_TRUST=true, or run in a clone\n\n"
            f"  git switch --create {branch}\n  {shlex.join(command)} --trust"
        )
    if returncode:
        raise SystemExit(f"Copier failed: see above. {branch} is not pushed.")


def failure(conflicts: list[str]) -> str:
    """Return a section on the first command that fails, taking the template's side of conflicts."""
    marked = {Path(path): Path(path).read_bytes() for path in conflicts}
    if conflicts:
        git("checkout", "--quiet", "--theirs", "--", *conflicts)
    # The service and its dependencies get no token of this job, and not this script's environment.
    hidden = re.compile("TOKEN|^GIT_CONFIG_|^VIRTUAL_ENV$")
    env = {name: value for name, value in os.environ.items() if not hidden.search(name)}
    locked, section = Path("uv.lock").exists(), ""
    # What is locked keeps its version, unless the update asks for another.
    for command in ["uv lock"] * locked + ["uv run --quiet mypy"]:
        process = subprocess.run(
            command.split(), env=env, capture_output=True, text=True, check=False
        )
        if process.returncode:
            lines = (process.stdout + process.stderr).strip().splitlines()[-MOST_LINES:]
            section = f"## Fails: `{command}`\n\n" + fence("\n".join(lines), "text")
            break
    for path, content in marked.items():
        path.write_bytes(content)
    if not locked:
        Path("uv.lock").unlink(missing_ok=True)
    return section


def propose(directory: Path) -> str:
    """Make the branch and write the request; return a line for the log."""
    if git("status", "--porcelain"):
        raise SystemExit("There are uncommitted changes: commit them first.")
    command = ["uvx", "copier", "check-update", "--output-format=json"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise SystemExit(
            "Copier could not compare the versions: see above. If the template is private, this "
            "job needs a token that reads it."
        )
    found = json.loads(process.stdout.splitlines()[-1])
    old, new = found["current_version"], found["latest_version"]
    if not found["update_available"]:
        return f"{old} is the newest version of the template."
    branch = f"template-update/{new}"
    heads = git("ls-remote", "--heads", "origin", "refs/heads/template-update/*").splitlines()
    branches = [head.split("\t")[1].removeprefix("refs/heads/") for head in heads]
    if branch in branches:
        return f"{branch} exists already, and is left as it is. Delete it to make it anew."
    base = git("rev-parse", "--short=12", "HEAD").strip()
    copier_update(branch)
    conflicts, deleted = differing("--diff-filter=U"), differing("--diff-filter=D", "HEAD")
    answers = changed_answers(git("diff", "--unified=0", "HEAD", "--", ANSWERS))
    more = [failure(conflicts)]
    if answers:
        more += ["## Answers", "New questions got their defaults:", fence(answers, "diff")]
    more += [
        "## Before you merge",
        f"Fetch `{branch}`, look for new variables in `docs/configuration.md`, and run "
        "`uv run nox`. Close this request and keep its branch to skip the version.",
    ]
    if branches:
        more.append(f"It replaces these branches, so they can go: `{'`, `'.join(branches)}`.")
    text = body(old, new, base, conflicts, deleted, *more)
    heading = title(new, len(conflicts))
    git("add", "--all")
    git("commit", "--quiet", "--message", f"{heading}\n\nFrom {old}.")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "title").write_text(f"{heading}\n", encoding="utf-8")
    (directory / "body.md").write_text(text, encoding="utf-8")
    if conflicts:
        (directory / "draft").touch()
    # Last: CI takes it as the sign that the others are complete.
    (directory / "branch").write_text(f"{branch}\n", encoding="utf-8")
    return f"{heading}: committed to {branch}.\n\n{text}"


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    os.chdir(Path(__file__).parents[1])
    try:
        print(propose(target))
    except subprocess.CalledProcessError as error:
        sys.exit(f"This failed, see above: {shlex.join(error.cmd)}")
