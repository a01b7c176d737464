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
        """The smallest version that the changes allow; None before the first version, which may have any number."""
        return bump(self.last, level(self.changes)) if self.last else None


def refusals(plan: Plan) -> Iterator[str]:
    """Yield all reasons at once."""
    if plan.dirty:
        yield f"there is uncommitted work ({', '.join(sorted(plan.dirty)[:3])}): commit or stash it"
    if not unreleased(plan.changelog):
        yield 'CHANGELOG.md has no text under "## Unreleased": describe the changes for services there'
    written = newest(plan.changelog)
    if written and written not in plan.tagged:
        yield f"CHANGELOG.md has a section {written} without a tag: run `git fetch --tags`, or tag the version"
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
                f"an update of variant {trial.variant} from {plan.last} loses the answer to {name}: "
                "use hooks/edit_answers.py"
            )
        if trial.lost:
            yield (
                f"an update of variant {trial.variant} from {plan.last} loses a team's lines in "
                f"{', '.join(trial.lost)}: keep them with a hook"
            )


def _migrations(plan: Plan) -> Iterator[str]:
    for migration in plan.migrations:
        entry = f"the `_migrations` entry `{textwrap.shorten(' '.join(migration.words), 80, placeholder=' ...')}`"
        version = migration.version
        if version is None:
            yield f"{entry} has no version, so all updates would need --trust: give the entry a version"
        elif plan.asked and version != plan.asked and version not in plan.tagged:
            yield f"{entry} names {version}, neither released nor {plan.asked}: give the entry the right version"


def _number(plan: Plan, asked: Version) -> Iterator[str]:
    latest = max(plan.tagged, default=None)
    if latest and asked <= latest:
        yield f"{asked} is not newer than the tag v{latest}: ask for a newer version"
    if plan.smallest and Version(asked.base_version) < plan.smallest:
        part = level(plan.changes)
        reasons = [change.text for change in plan.changes if change.rule.level == part]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        yield f"{asked} is too small, {plan.smallest} is needed: {reasons[0].rstrip('.')}{more}"
