"""Rendering the working tree does not depend on the user's git configuration."""

import subprocess
from pathlib import Path

import pytest

from tests.rendering import commit, git, render, snapshot

# No identity, commits to be signed by a program that fails, and hooks that refuse everything.
HOSTILE = """
[user]
    useConfigOnly = true
[commit]
    gpgSign = true
[tag]
    gpgSign = true
[gpg]
    program = false
[core]
    hooksPath = {hooks}
[init]
    defaultBranch = "someone's favourite"
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("pre-commit", "commit-msg", "post-checkout"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    (tmp_path / ".gitconfig").write_text(HOSTILE.format(hooks=hooks))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_hostile_git_configuration_does_no_harm(hostile: Path) -> None:
    template = snapshot(hostile / "template", tag="v1.0.0")
    service = render(template, hostile / "service", {})
    commit(service)

    assert git(service, "log", "--format=%an <%ae>") == "Slipstream tests <tests@example.com>\n"
    assert git(template, "tag") == "v1.0.0\n"


def test_the_configuration_is_hostile_indeed(hostile: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", "."], cwd=hostile, check=True)
    refused = subprocess.run(
        ["git", "commit", "--allow-empty", "--message", "x"], cwd=hostile, capture_output=True, check=False
    )

    assert refused.returncode != 0


def test_uncommitted_work_is_rendered_and_ignored_files_are_not(template: Path) -> None:
    names = set(git(template, "ls-files").splitlines())

    assert "copier.yml" in names
    assert "template/pyproject.toml.jinja" in names
    assert not {name for name in names if name.startswith((".nox/", ".venv/")) or "__pycache__" in name}
