"""Render the working tree as `copier` renders a release.

Copier renders commits, so the tree, uncommitted work included, is committed to a temporary repository of its own.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import copier

ROOT = Path(__file__).parents[1]

# The user's git may have no identity, sign commits or run hooks: these commits must not depend on it.
GIT = (
    "git",
    *("-c", "user.name=Slipstream tests"),
    *("-c", "user.email=tests@example.com"),
    *("-c", "commit.gpgsign=false"),
    *("-c", "tag.gpgsign=false"),
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.autocrlf=false"),
    *("-c", "init.defaultBranch=main"),
)


def git(directory: Path, *arguments: str) -> str:
    """Run git in `directory`; return its output."""
    process = subprocess.run(
        [*GIT, *arguments],
        cwd=directory,
        # git sets these while it runs a hook: they would lead to the repository of that commit.
        env={key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"git {' '.join(arguments)}: {process.stderr}")
    return process.stdout


def commit(directory: Path, message: str = "Work") -> None:
    """Commit everything in `directory`, which becomes a repository if it is none."""
    if not (directory / ".git").exists():
        git(directory, "init", "--quiet")
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--allow-empty", "--message", message)


def snapshot(destination: Path, tag: str | None = None) -> Path:
    """Copy the template, as it lies in the working tree, to a new repository; returns `destination`."""
    names = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, names):
        source = ROOT / name
        # A file that is deleted but not yet committed is still listed.
        if source.is_file():
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    commit(destination, "The template")
    if tag:
        git(destination, "tag", tag)
    return destination


def with_few_files(template: Path, destination: Path) -> Path:
    """Copy the template without files that only a running service needs: Copier takes a second per hundred files."""
    shutil.copytree(template, destination)
    for directory in ("tests", "app/core/cache", "app/core/database", "app/users", "app/posts", "app/dashboard"):
        shutil.rmtree(destination / "template" / directory)
    commit(destination, "Few files")
    return destination


def render(template: Path, destination: Path, answers: Mapping[str, Any], vcs_ref: str = "HEAD") -> Path:
    """Render like `copier copy`, without --trust and without questions; returns `destination`."""
    copier.run_copy(
        str(template),
        destination,
        data=dict(answers),
        vcs_ref=vcs_ref,
        defaults=True,
        quiet=True,
        unsafe=False,
    )
    return destination
