"""The versions of real services: `nox -s services -- CLONE [CLONE ...]` reports on their clones.

A clone has one service or several. The report changes nothing and fetches nothing: run `git fetch` in the clones first.
The last green run comes from `gh` or `glab`; without these programs, it is unknown.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import yaml
from packaging.version import InvalidVersion, Version

from tests.rendering import git
from tests.updates import table

BRANCHES = "refs/remotes/origin/template-update/"
# Copier's abbreviations of addresses.
HOSTS = {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}
RUNS = {
    "github": "gh run list --workflow ci.yml --branch {} --status success --limit 1 --json updatedAt",
    "gitlab": "glab ci list --ref {} --status success --per-page 1 --output json",
}
TIMEOUT_S = 30


@dataclass(frozen=True)
class Service:
    """The state of one service; None is unknown."""

    name: str
    version: str
    # How many released versions of its template are newer.
    behind: int | None
    # The branches of the update job, and the files with conflict markers: there, or as they are checked out.
    updates: tuple[str, ...]
    conflicts: tuple[str, ...]
    # When the last successful run of CI on the default branch ended.
    green: str | None


def parse(tag: str) -> Version | None:
    """Return the version of a tag, or of a commit after it (`v1.2.0-3-g1a2b3c4`); None for other names."""
    try:
        return Version(re.sub(r"-\d+-g[0-9a-f]+$", "", tag))
    except InvalidVersion:
        return None


@cache
def released(address: str) -> frozenset[Version] | None:
    """Return the versions of a template that Copier offers, or None if the template cannot be read."""
    for short, host in HOSTS.items():
        address = address.replace(short, host, 1) if address.startswith(short) else address
    try:
        listed = git(Path.cwd(), "ls-remote", "--tags", "--refs", address)
    except RuntimeError:
        return None
    found = [parse(line.partition("refs/tags/")[2]) for line in listed.splitlines()]
    return frozenset(version for version in found if version and not version.is_prerelease)


def last_green(directory: Path, ci: str) -> str | None:
    """Ask GitHub or GitLab for the last successful run on the default branch."""
    with suppress(KeyError, OSError, RuntimeError, subprocess.TimeoutExpired):
        branch = git(directory, "rev-parse", "--abbrev-ref", "origin/HEAD").strip().removeprefix("origin/")
        process = subprocess.run(
            RUNS[ci].format(branch).split(),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if found := re.search(r'"updated_?at": *"([^"]+)"', process.stdout, re.IGNORECASE):
            return found[1]
    return None


def grep(directory: Path, *arguments: str) -> list[str]:
    """Return the paths, or `REF:PATH`, that `git grep` finds; none if there is no match."""
    with suppress(RuntimeError):
        return git(directory, "grep", "--files-with-matches", *arguments).splitlines()
    return []


def services(clone: Path) -> Iterator[Service]:
    """Yield the services in a clone, by their answers files."""
    for answers_file in grep(clone, "--all-match", "-e", "^_src_path: ", "-e", "^project_slug: "):
        answers = yaml.safe_load((clone / answers_file).read_text(encoding="utf-8"))
        directory = (clone / answers_file).parent
        stem = BRANCHES + git(directory, "rev-parse", "--show-prefix").strip()
        known = git(clone, "for-each-ref", "--format=%(refname)", stem).splitlines()
        updates = [name for name in known if "/" not in name.removeprefix(stem)]
        marked = grep(directory, "-e", "^<<<<<<< before updating$")
        marked += [path for name in updates for path in grep(directory, "-e", "^<<<<<<< before updating$", name)]
        version, versions = parse(str(answers["_commit"])), released(answers["_src_path"])
        yield Service(
            name=directory.resolve().relative_to(clone.resolve().parent).as_posix(),
            version=str(version or answers["_commit"]),
            behind=None if version is None or versions is None else sum(newer > version for newer in versions),
            updates=tuple(name.removeprefix("refs/remotes/origin/") for name in updates),
            conflicts=tuple(path.removeprefix("refs/remotes/origin/") for path in marked),
            green=last_green(directory, answers.get("ci", "")),
        )


def report(found: Sequence[Service]) -> str:
    """Return the table, with the service first that is most behind."""
    unknown = len(found) + max((service.behind or 0 for service in found), default=0)
    ordered = sorted(found, key=lambda service: -(unknown if service.behind is None else service.behind))
    rows = {
        service.name: (
            service.version,
            "?" if service.behind is None else service.behind,
            len(service.updates),
            len(service.conflicts),
            service.green or "?",
        )
        for service in ordered
    }
    return table("service", rows, ("version", "behind by", "open updates", "conflicts", "last green run"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s services --", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clones", nargs="+", type=Path, metavar="CLONE", help="a directory with a git repository")
    parser.add_argument("--json", action="store_true", help="print JSON with the names of branches and files")
    options = parser.parse_args(arguments)
    if missing := [str(clone) for clone in options.clones if not (clone / ".git").exists()]:
        parser.error(f"not the root of a git repository: {', '.join(missing)}")
    found = [service for clone in options.clones for service in services(clone)]
    print(json.dumps([asdict(service) for service in found], indent=2) if options.json else report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
