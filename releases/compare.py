"""The changes for services between two versions (pure)."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import PurePosixPath
from typing import Any

from releases.facts import Answers, Config, Facts, choices, excluded, matching, questions, refused
from releases.migrations import Migration, handed_over, migrated, moved
from releases.rules import Change
from releases.signatures import broken

MERGED = {"ours", "seam"}


@dataclass(frozen=True)
class Pair:
    """A service in both versions: its recorded answers, and the facts of its renders."""

    answers: Answers
    older: Facts
    newer: Facts
    # Whether the newer version accepts all of these answers, after the hooks.
    accepted: bool = True


def fitting(answers: Answers, config: Config) -> dict[str, Any]:
    """Return the answers for which there are questions and choices."""
    asked = questions(config)
    known = {name: answer for name, answer in answers.items() if name in asked}
    return {name: answer for name, answer in known.items() if answer in (choices(asked[name]) or [answer])}


def compare(
    older: Config, newer: Config, pairs: Sequence[Pair], fresh: Sequence[Facts], crossed: Sequence[Migration]
) -> list[Change]:
    """Return all changes, once each, the largest first.

    `fresh` has the newer version's own variants; `crossed` has the entries of `_migrations` that an update runs.
    """
    found = set(compare_questions(older, newer, [pair.answers for pair in pairs], crossed))
    before = reduce(or_, (pair.older for pair in pairs), Facts())
    after = reduce(or_, (*(pair.newer for pair in pairs), *fresh), Facts())
    rewritten = set()
    for pair in pairs:
        if pair.accepted:
            texts = pair.newer.texts
            rewritten |= {path for path, text in pair.older.texts.items() if texts.get(path, text) != text}
        else:
            # For answers that no longer exist, only a path counts that is gone for all answers.
            kept = {name: pair.older.variables.get(name, value) for name, value in after.variables.items()}
            pair = replace(pair, newer=replace(after, variables=kept))
        found |= {*compare_paths(newer, pair, crossed), *compare_code(pair.older, pair.newer)}
    found |= set(additions(before, after, found))
    if rewritten:
        found.add(Change("content", str(len(rewritten))))
    copiers = [str(config.get("_min_copier_version", "")) for config in (older, newer)]
    if copiers[0] != copiers[1]:
        found.add(Change("Copier required", copiers[1]))
    return sorted(found, key=lambda change: (-change.rule.level, change))


def compare_questions(
    older: Config, newer: Config, rows: Sequence[Answers], crossed: Sequence[Migration]
) -> Iterator[Change]:
    before, after = questions(older), questions(newer)
    edits = [edit for migration in crossed for edit in migration.edits]
    names = {edit[1]: edit[2] for edit in edits if edit[0] == "rename" and edit[2] in after}
    for name in after.keys() - before.keys() - set(names.values()):
        default = after[name].get("default")
        yield Change("question without a default" if default is None else "question added", name, f"{default}")
    for name, old in before.items():
        current = names.get(name, name)
        new = after.get(current)
        if new is None:
            yield Change("question gone", name)
            continue
        if current != name:
            yield Change("question renamed", name, current)
        for key in ("type", "multiselect", "secret"):
            if old.get(key) != new.get(key):
                yield Change("question of another type", name, f"{key} was {old.get(key)}, is {new.get(key)}")
        if old.get("default") != new.get("default"):
            yield Change("question with another default", name, f"`{new.get('default')}`, not `{old.get('default')}`")
        if any(old.get(key, True) != new.get(key, True) for key in ("when", "ask")):
            yield Change("question asked otherwise", name)
        if old.get("validator") != new.get("validator") and current == name:
            example = refused(name, older, newer, rows)
            yield Change("question stricter" if example else "question validated otherwise", name, example)
        renamed = {choice: migrated({name: choice}, crossed).get(current) for choice in choices(old)}
        for choice in choices(new):
            if choice not in choices(old) and choice not in renamed.values():
                yield Change("choice added", current, str(choice))
        for choice, value in renamed.items():
            if value not in choices(new):
                yield Change("choice gone", name, str(choice))
            elif value != choice:
                yield Change("choice renamed", name, f"{choice}` is `{value}")


def compare_paths(config: Config, pair: Pair, crossed: Sequence[Migration]) -> Iterator[Change]:
    there = pair.newer.owners
    released = matching(excluded(config, pair.answers, "update"), pair.older.owners)
    for path, owner in pair.older.owners.items():
        target = moved(path, crossed)
        if path in there:
            if there[path] != owner:
                yield Change(reclassified(owner, there[path]), path, f"{owner}, now {there[path]}")
        elif owner == "yours":
            yield Change("path of the team's gone", path)
        elif target in there:
            yield Change("path moved", path, target)
        elif path in released or handed_over(path, crossed):
            yield Change("path handed over", path)
        else:
            name = PurePosixPath(path).name
            alike = sorted(new for new in there.keys() - pair.older.owners.keys() if PurePosixPath(new).name == name)
            yield Change("path gone", path, alike[0] if alike else "NEW")


def reclassified(owner: str, new: str) -> str:
    """Return the kind of a change of class."""
    if new in MERGED:
        return "path of another class" if owner in MERGED else "path taken from the team"
    return "path of another class" if (owner, new) == ("yours", "shared") else "path given to the team"


def compare_code(older: Facts, newer: Facts) -> Iterator[Change]:
    """Yield the changes that a team's code and its deployment notice."""
    anchors = {anchor for anchor in older.anchors if anchor.split(",")[0] in newer.owners}
    yield from (Change("anchor gone", anchor) for anchor in anchors - newer.anchors)
    yield from (Change("name gone", name) for name in older.promised - newer.offered)
    yield from broken(older.texts, newer.texts, older.promised & newer.offered)
    for name, requirement in older.requirements.items():
        if name not in newer.requirements:
            yield Change("dependency gone", name)
        elif newer.requirements[name] != requirement:
            yield Change("dependency with another range", name, newer.requirements[name])
    for name, default in older.variables.items():
        new = newer.variables.get(name)
        if new is None:
            yield Change("variable gone", name)
        elif new != default:
            required = new == "required"
            yield Change("variable required" if required else "variable with another default", name, new)
    if older.python != newer.python:
        yield Change("Python required", newer.python, older.python)


def additions(before: Facts, after: Facts, found: Collection[Change]) -> Iterator[Change]:
    """Yield the additions, for any answers."""
    targets = {change.detail for change in found if change.kind == "path moved"}
    yield from (Change("path added", path) for path in after.owners.keys() - before.owners.keys() - targets)
    yield from (Change("anchor added", anchor) for anchor in after.anchors - before.anchors)
    yield from (Change("name added", name) for name in after.promised - before.promised)
    for name in after.requirements.keys() - before.requirements.keys():
        yield Change("dependency added", name, after.requirements[name])
    for name in after.variables.keys() - before.variables.keys():
        default = after.variables[name]
        yield Change("variable required" if default == "required" else "variable added", name, default)
