"""The steps of a release: render the last version and the working tree, try updates, and write CHANGELOG.md."""

import runpy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml
from packaging.version import InvalidVersion, Version

from releases.changelog import declared, effect, parts, released
from releases.compare import Pair, compare, fitting
from releases.facts import ANSWERS_FILE, Answers, Config, Facts, facts
from releases.migrations import Migration, migrated, migrations
from releases.refusals import Plan, refusals
from releases.rules import RULES, Change, level, parse_asked
from releases.trial import texts, trial
from tests.rendering import git, render

CHANGELOG = "CHANGELOG.md"
RESULTS = "docs/performance/results.md"
THOROUGH = "  .venv/bin/nox -s thorough    # must pass before the tag"


@dataclass(frozen=True)
class Source:
    """A version of the template in a repository: its settings, and the answers of its variants."""

    repository: Path
    ref: str
    config: Config
    variants: Mapping[str, Answers]


def run(root: Path, asked_for: str | None, say: Callable[[str], None] = print) -> int:
    """Prepare a version in the repository `root`, or show the smallest one; return the exit code."""
    tags = versions(root)
    last = max((version for version in tags if not version.is_prerelease), default=None)
    try:
        asked = parse_asked(asked_for, last) if asked_for else None
    except ValueError as error:
        say(f"Refused: {error}.")
        return 1
    dirty = [line[3:] for line in git(root, "status", "--porcelain", "--no-renames").splitlines()] if asked else []
    changelog = (root / CHANGELOG).read_text(encoding="utf-8")
    entries = migrations(yaml.safe_load((root / "copier.yml").read_text(encoding="utf-8")))
    crossed = [entry for entry in entries if last and entry.version and entry.version > last]
    words = [Change(kind) for part in declared(changelog) if (kind := f"declared {part}") in RULES]
    plan = Plan(asked, last, tags, dirty, changelog, entries, words)
    results: Sequence[str] = ("", "")
    # Print the results that need no render first.
    if last and not (asked and any(refusals(plan))):
        with tempfile.TemporaryDirectory(prefix="release-", ignore_cleanup_errors=True) as name:
            plan, results = examined(plan, last, root, crossed, Path(name))
    if asked is None:
        return show(plan, say)
    reasons = list(refusals(plan))
    for reason in reasons:
        say(f"Refused: {reason}.")
    if reasons:
        return 1
    section = parts(last, plan.changes, len(crossed), plan.trials, effect(*results))
    say(section)
    if asked.is_prerelease:
        # Copier offers it only with --prereleases: its notes stay those of the coming version.
        say(f"{asked} gets no section in {CHANGELOG}: its notes stay under Unreleased. Run:")
        say(THOROUGH)
    else:
        date = datetime.now(UTC).date().isoformat()
        (root / CHANGELOG).write_text(released(changelog, asked, date, section), encoding="utf-8", newline="\n")
        say(f"{CHANGELOG} is written. Read and correct it, then run:")
        say(THOROUGH)
        say(f'  git commit --message "Version {asked}" {CHANGELOG}')
    say(f"  git tag --annotate v{asked} --message {asked}")
    say(f"  git push origin HEAD v{asked}")
    return 0


def examined(
    plan: Plan, last: Version, root: Path, crossed: Sequence[Migration], home: Path
) -> tuple[Plan, Sequence[str]]:
    """Return the plan with the results of renders and updates, and both versions of the benchmark's results."""
    template = copied(root, home / "template")
    older, newer = source(template, plan.tagged[last], home), source(template, "HEAD", home)
    plan = replace(plan, changes=[*plan.changes, *compared(older, newer, crossed, home)])
    if plan.asked and not any(refusals(plan)):
        refs = (older.ref, f"v{plan.asked}")
        git(template, "tag", refs[1])
        git(template, "worktree", "add", "--quiet", "--detach", str(home / "older"), older.ref)
        trials = [trial(home / "older", name, row, refs, crossed, home) for name, row in older.variants.items()]
        found = [Change("work broken", each.variant, each.broken) for each in trials if each.broken]
        plan = replace(plan, trials=trials, changes=[*plan.changes, *found])
    return plan, [shown(template, version.ref, RESULTS) for version in (older, newer)]


def show(plan: Plan, say: Callable[[str], None]) -> int:
    """Print the changes since the last version, the smallest possible version, and the open tasks."""
    if plan.smallest is None:
        say("There is no tag of a version yet: the first version may have any number.")
    else:
        say(f"Since v{plan.last}:")
        for change in plan.changes:
            say(f"  {change.rule.level.name.lower():5}  {change.text}")
        part = level(plan.changes).name.lower()
        say(f"The smallest version is {plan.smallest} ({part}); CONTRIBUTING.md has the rules.")
    for reason in refusals(plan):
        say(f"To do: {reason}.")
    return 0


# --- Versions and variants ---


def versions(root: Path) -> dict[Version, str]:
    """Return the tags that Copier takes for versions."""
    found = {}
    for tag in git(root, "tag", "--list").split():
        try:
            found[Version(tag)] = tag
        except InvalidVersion:
            continue
    return found


def copied(root: Path, destination: Path) -> Path:
    """Make a clone with the working tree as its HEAD, uncommitted work included, and return its path."""
    git(root, "clone", "--quiet", "--no-checkout", str(root), str(destination))
    git(root, f"--git-dir={destination / '.git'}", f"--work-tree={root}", "add", "--all")
    git(destination, "commit", "--quiet", "--allow-empty", "--message", "Work")
    git(destination, "reset", "--quiet", "--hard")
    return destination


def shown(repository: Path, ref: str, path: str) -> str:
    """Return the text of a file in a commit; empty if there is no such file."""
    return git(repository, "show", f"{ref}:{path}") if git(repository, "ls-tree", ref, path) else ""


def source(repository: Path, ref: str, home: Path) -> Source:
    """Return the version of the template at `ref`."""
    variants = home / f"variants-{ref}.py"
    variants.write_text(shown(repository, ref, "tests/variants.py"), encoding="utf-8")
    names = runpy.run_path(str(variants))
    rows = {name: names["DEFAULTS"] | row for name, row in names["VARIANTS"].items()}
    return Source(repository, ref, yaml.safe_load(shown(repository, ref, "copier.yml")), rows)


# --- Rendering and updating ---


def rendered(version: Source, answers: Answers, home: Path) -> tuple[Facts, Answers]:
    """Render a service, and return its facts and its recorded answers."""
    service = render(version.repository, Path(tempfile.mkdtemp(dir=home)), answers, version.ref)
    files = texts(service)
    recorded = yaml.safe_load(files[ANSWERS_FILE])
    return facts(files, version.config, recorded), recorded


def compared(older: Source, newer: Source, crossed: Sequence[Migration], home: Path) -> list[Change]:
    """Return the changes between the renders of both versions."""
    pairs: list[Pair] = []
    rows: list[Answers] = []
    for answers in older.variants.values():
        before, recorded = rendered(older, answers, home)
        wanted = migrated({name: answer for name, answer in recorded.items() if name[0] != "_"}, crossed)
        row = fitting(wanted, newer.config)
        try:
            after, _ = rendered(newer, row, home)
        except ValueError:
            # Refused by a validator: the questions are compared all the same.
            pairs.append(Pair(recorded, before, Facts(), accepted=False))
        else:
            pairs.append(Pair(recorded, before, after, accepted=row == wanted))
            rows.append(row)
    others = [new for new in newer.variants.values() if not any(new.items() <= row.items() for row in rows)]
    fresh = [rendered(newer, row, home)[0] for row in others]
    return compare(older.config, newer.config, pairs, fresh, crossed)
