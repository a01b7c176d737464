# /// script
# requires-python = ">=3.11"
# dependencies = ["packaging>=24"]
# ///
"""Update to a newer version of the template on a branch, and describe the result.

`dev/template_update.sh DIRECTORY` of a service fetches this program, and runs it in the service. It commits to the
branch and writes `branch`, `title` and `body.md` into DIRECTORY, and `draft` after conflicts; without a newer version
it writes nothing. It pushes nothing. The variable TEMPLATE_UPDATE_VERSION names a tag of the template in place of the
newest one; TEMPLATE_UPDATE_TRUST=true runs the migrations of the template.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.version import Version

NEEDS_TRUST = 4  # Copier's exit code for a template that wants to run programs
MOST_LINES = 60  # of the output of a command: a description holds 64 KiB


def section(heading: str, text: str, lines: Sequence[str], language: str = "text") -> list[str]:
    """Return a part of the description with the lines as a code block; nothing without lines."""
    # The fence is longer than any run of backticks in the lines.
    fence = "`" * max([3, *(len(run) + 1 for line in lines for run in re.findall("`+", line))])
    block = "\n".join([f"{fence}{language}", *lines, fence])
    return [f"## {heading}", text, block] if lines else []


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def differing(*arguments: str) -> list[str]:
    """Return the paths in this directory that `git diff` lists with these arguments."""
    listed = git("diff", "--name-only", "--no-renames", "--relative", "-z", *arguments)
    return sorted({path for path in listed.split("\0") if path})


def answers_file() -> str:
    """Return the answers file of this service, whose name `copier copy -a` chooses."""
    marks = ("-e", "^_src_path: ", "-e", "^project_slug: ")
    found = git("grep", "--files-with-matches", "--all-match", *marks).splitlines()
    return min(found, key=lambda path: path.count("/"))


def versions(answers: str) -> tuple[str, str]:
    """Return the version of this service, and the version to which it should be updated."""
    command = ["uvx", "copier", "check-update", "--output-format=json", "-a", answers]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise SystemExit(
            "Copier could not compare the versions: see above. If the template is private, this "
            "job needs a token that reads it."
        )
    found = json.loads(process.stdout.splitlines()[-1])
    wanted = os.environ.get("TEMPLATE_UPDATE_VERSION") or found["latest_version"]
    return found["current_version"], str(Version(wanted))


def copier_update(answers: str, branch: str) -> None:
    command = ["uvx", "copier", "update", "--defaults", "-a", answers]
    if wanted := os.environ.get("TEMPLATE_UPDATE_VERSION"):
        command += ["--vcs-ref", wanted]
    if os.environ.get("TEMPLATE_UPDATE_TRUST") == "true":
        command += ["--trust"]
    returncode = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if returncode == NEEDS_TRUST:
        raise SystemExit(
            "This version of the template has migrations, which are programs, and nothing was "
            "changed.\nRead them: `_migrations` in its copier.yml. Then start this job by hand "
            "with TEMPLATE_UPDATE_TRUST=true, or run in a clone\n\n"
            f"  git switch --create {branch}\n  {shlex.join(command)} --trust"
        )
    if returncode:
        raise SystemExit("Copier failed: see above. Nothing is pushed.")
    git("switch", "--quiet", "--create", branch)


def failure(conflicts: list[str]) -> list[str]:
    """Return a section on the first check that fails, with the template's side of conflicts."""
    marked = {Path(path): Path(path).read_bytes() for path in conflicts}
    if conflicts:
        git("checkout", "--quiet", "--theirs", "--", *conflicts)
    # The service and its dependencies get no token of this job, and not this script's environment.
    hidden = re.compile("TOKEN|^GIT_CONFIG_|^VIRTUAL_ENV$")
    env = {name: value for name, value in os.environ.items() if not hidden.search(name)}
    locked = Path("uv.lock").exists()
    try:
        # Locked packages keep their versions, unless the update requires others.
        for command in ["uv lock"] * locked + ["uv run --quiet mypy"]:
            process = subprocess.run(command.split(), env=env, capture_output=True, text=True, check=False)
            if process.returncode:
                lines = (process.stdout + process.stderr).strip().splitlines()[-MOST_LINES:]
                text = "The output, with the template's side of each conflict:"
                return section(f"Fails: `{command}`", text, lines or ["no output"])
        return []
    finally:
        for path, content in marked.items():
            path.write_bytes(content)
        if not locked:
            Path("uv.lock").unlink(missing_ok=True)


def propose(directory: Path) -> str:
    """Make the branch and write its description; return text for the log."""
    if git("status", "--porcelain", "--", "."):
        raise SystemExit("There are uncommitted changes: commit them first.")
    answers = answers_file()
    old, new = versions(answers)
    if Version(new) <= Version(old):
        return f"There is nothing to update: the version is {old}, and the job updates to {new}."
    # One service of several in a repository has branches of its own.
    stem = f"template-update/{git('rev-parse', '--show-prefix').strip()}"
    heads = git("ls-remote", "--heads", "origin", f"refs/heads/{stem}*").splitlines()
    known = {head.partition("refs/heads/")[2] for head in heads}
    branch, base = f"{stem}{new}", git("rev-parse", "--short=12", "HEAD").strip()
    if branch in known:
        return f"{branch} exists already, and is left as it is. Delete it to make it again."
    copier_update(answers, branch)
    conflicts, deleted = differing("--diff-filter=U"), differing("--diff-filter=D", "HEAD")
    changed = git("diff", "--unified=0", "HEAD", "--", answers)
    parts = [
        f"Updates the template from {old} to {new}, as `copier update --defaults` does it.",
        *section(
            f"Conflicts: {len(conflicts)}",
            "The template and this repository changed the same lines. These files are committed "
            "with conflict markers; resolve them on this branch first:",
            conflicts,
        ),
        *section(
            f"Deleted: {len(deleted)}",
            "The template no longer has these files, and your changes in them are deleted as well. "
            "To restore a file, run its line on this branch and commit; the file is then yours:",
            [f"git checkout {base} -- {shlex.quote(path)}" for path in deleted],
            "console",
        ),
        *failure(conflicts),
        *section(
            "Answers",
            "New questions got their defaults:",
            re.findall(r"^[-+][A-Za-z].*", changed, re.MULTILINE),
            "diff",
        ),
        "## Before you merge",
        f"Fetch `{branch}`, look for new variables in `docs/configuration.md`, and run "
        "`uv run nox`. Close this request and keep its branch to skip the version.",
    ]
    if older := sorted(head for head in known if "/" not in head.removeprefix(stem)):
        parts.append(f"It replaces these branches, which you may delete: `{'`, `'.join(older)}`.")
    count = f" ({len(conflicts)} conflict{'s' * (len(conflicts) > 1)})" if conflicts else ""
    title = f"Update the template to {new}{count}"
    git("add", "--all", "--", ".")
    git("commit", "--quiet", "--message", f"{title}\n\nFrom {old}.")
    directory.mkdir(parents=True, exist_ok=True)
    body = "\n\n".join(parts)
    draft = {"draft": ""} if conflicts else {}
    # CI takes `branch`, the last one, as the sign that the other files are complete.
    for name, text in {"title": title, "body.md": body, **draft, "branch": branch}.items():
        (directory / name).write_text(f"{text}\n", encoding="utf-8")
    return f"{title}: committed to {branch}.\n\n{body}"


if __name__ == "__main__":
    try:
        print(propose(Path(sys.argv[1]).absolute()))
    except subprocess.CalledProcessError as error:
        sys.exit(f"This failed, see above: {shlex.join(error.cmd)}")
