"""The reasons against a version: one sentence each, with a remedy (pure)."""

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.version import Version

from releases.changelog import Trial, declared, newest, unreleased
from releases.migrations import Migration
from releases.rules import Change, bump, level


@dataclass(frozen=True)
class Plan:
    """The facts about a requested version; `asked` is None if the command only shows the changes."""

    asked: Version | None
    last: Version | None
    # The tag of every version, pre-releases too.
    tagged: Mapping[Version, str]
    dirty: Collection[str]
    changelog: str
    migrations: Sequence[Migration]
    changes: Sequence[Change]
    trials: Sequence[Trial] = field(default=())

    @property
    def smallest(self) -> Version | None:
        """The smallest version that the changes allow; None for the first one, which is free."""
        return bump(self.last, level(self.changes)) if self.last else None


def refusals(plan: Plan) -> Iterator[str]:
    """Yield all reasons at once."""
    if plan.dirty:
        yield f"there is uncommitted work ({', '.join(sorted(plan.dirty)[:3])}): commit it or put it aside"
    if not unreleased(plan.changelog):
        yield 'CHANGELOG.md has nothing under "## Unreleased": write there what services get'
    written = newest(plan.changelog)
    if written and written not in plan.tagged:
        yield f"CHANGELOG.md has a section {written}, and there is no tag v{written}: `git fetch --tags`, or tag it"
    explained = declared(plan.changelog).get("breaking", "")
    for change in plan.changes:
        if change.rule.refusal and not (change.kind == "question gone" and f"`{change.subject}`" in explained):
            yield change.rule.refusal.format(change.subject, change.detail)
    yield from _migrations(plan)
    if plan.asked:
        yield from _number(plan, plan.asked)
    for trial in plan.trials:
        if trial.error:
            yield f"variant {trial.variant} cannot be updated from {plan.last}: {trial.error}"
        for name in trial.answers:
            yield (
                f"updating variant {trial.variant} from {plan.last} loses its answer to {name}: "
                "change it by hooks/edit_answers.py"
            )
        if trial.lost:
            yield (
                f"updating variant {trial.variant} from {plan.last} loses what a team wrote in "
                f"{', '.join(trial.lost)}: keep it by a hook"
            )


def _migrations(plan: Plan) -> Iterator[str]:
    for migration in plan.migrations:
        entry = f"the `_migrations` entry `{textwrap.shorten(' '.join(migration.words), 80, placeholder=' ...')}`"
        version = migration.version
        if version is None:
            yield f"{entry} has no version, so every update would need --trust: give it one"
        elif plan.asked and version != plan.asked and version not in plan.tagged:
            yield f"{entry} names {version}, neither {plan.asked} nor released: give it the version that brings it"


def _number(plan: Plan, asked: Version) -> Iterator[str]:
    latest = max(plan.tagged, default=None)
    if latest and asked <= latest:
        yield f"v{latest} is tagged, and {asked} is no newer: ask for a version above it"
    if plan.smallest and Version(asked.base_version) < plan.smallest:
        part = level(plan.changes)
        reasons = [change.text for change in plan.changes if change.rule.level == part]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        yield f"{asked} is too small, {plan.smallest} is needed: {reasons[0].rstrip('.')}{more}"
