"""The rules of versions: the part that each kind of change increases (pure).

CONTRIBUTING.md says the same in words, and a test holds the two together.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from packaging.version import Version

# X.Y.Z, or a pre-release of it, as PEP 440 writes them.
FORM = re.compile(r"v?\d+\.\d+\.\d+((a|b|rc)\d+)?")


class Level(IntEnum):
    """The part of a version that a change increases."""

    PATCH = 0
    MINOR = 1
    MAJOR = 2


@dataclass(frozen=True)
class Rule:
    """The level of a kind of change; `sentence` is formatted with the change's subject and detail."""

    level: Level
    section: str
    sentence: str
    # The remedy for a change that would lose a team's work.
    refusal: str = ""


@dataclass(frozen=True, order=True)
class Change:
    """One change that services see: a key of RULES, its subject, and a detail."""

    kind: str
    subject: str = ""
    detail: str = ""

    @property
    def rule(self) -> Rule:
        return RULES[self.kind]

    @property
    def text(self) -> str:
        return self.rule.sentence.format(self.subject, self.detail)


PATCH, MINOR, MAJOR = Level
QUESTIONS, FILES, CODE = "Questions", "Files", "Variables and names"
# Not in CHANGELOG.md.
UNLISTED = ""

HOOK = "add a `_migrations` entry of this version that runs hooks/"
DECLARED = "CHANGELOG.md has a part `### {}`."

RULES: dict[str, Rule] = {
    "question added": Rule(MINOR, QUESTIONS, "`{0}` is new; its default is `{1}`."),
    "question without a default": Rule(MAJOR, QUESTIONS, "`{0}` is new and has no default: every update asks for it."),
    "question gone": Rule(
        MAJOR,
        QUESTIONS,
        "`{0}` is gone.",
        f"the question {{0}} is gone: {HOOK}edit_answers.py rename {{0}} NEW, or explain under "
        "`### Breaking` in CHANGELOG.md why `{0}` is gone",
    ),
    "question renamed": Rule(MAJOR, QUESTIONS, "`{0}` is called `{1}`; a hook renames the answer."),
    "question of another type": Rule(MAJOR, QUESTIONS, "`{0}` is of another type: {1}."),
    "question stricter": Rule(MAJOR, QUESTIONS, "`{0}` refuses the former answer `{1}`."),
    "question with another default": Rule(MINOR, QUESTIONS, "`{0}` has another default: {1}."),
    "question asked otherwise": Rule(MINOR, QUESTIONS, "`{0}` is asked under other conditions."),
    "question validated otherwise": Rule(MINOR, QUESTIONS, "`{0}` is validated in another way."),
    "choice added": Rule(MINOR, QUESTIONS, "`{0}` has the new choice `{1}`."),
    "choice gone": Rule(
        MAJOR,
        QUESTIONS,
        "`{0}` no longer has the choice `{1}`.",
        f"the choice {{1}} of {{0}} is gone, and updates would take the default: {HOOK}edit_answers.py "
        "value {0} {1} NEW",
    ),
    "choice renamed": Rule(MAJOR, QUESTIONS, "`{0}`: `{1}`; a hook changes the answer."),
    "path added": Rule(MINOR, FILES, "Added: `{0}`."),
    "path gone": Rule(
        MAJOR,
        FILES,
        "Removed: `{0}`.",
        f"{{0}} is gone, and updates would delete it, edited or not: {HOOK}merge_moved.py {{0}} {{1}} or "
        "hooks/hand_over.py {0}, or list it in `_exclude` for updates",
    ),
    "path moved": Rule(MAJOR, FILES, "Moved: `{0}` to `{1}`; a hook merges the changes of a team in it."),
    "path handed over": Rule(MAJOR, FILES, "No longer rendered: `{0}` stays in services, and is the team's."),
    "path of the team's gone": Rule(MINOR, FILES, "New services start without `{0}`."),
    "path given to the team": Rule(MAJOR, FILES, "Updates no longer change `{0}`: {1}."),
    "path taken from the team": Rule(MAJOR, FILES, "Updates merge into `{0}` from now on: {1}."),
    "path of another class": Rule(MINOR, FILES, "`{0}` changed its class: {1}."),
    "content": Rule(PATCH, UNLISTED, "Files with another text: {0}."),
    "anchor added": Rule(MINOR, CODE, "New place for lines of your own: `{0}`."),
    "anchor gone": Rule(MAJOR, CODE, "A place for lines of your own is gone: `{0}`."),
    "variable added": Rule(MINOR, CODE, "Variable `{0}` is new; default: {1}."),
    "variable required": Rule(MAJOR, CODE, "Variable `{0}` must be set."),
    "variable with another default": Rule(MINOR, CODE, "Variable `{0}` has another default: {1}."),
    "variable gone": Rule(MAJOR, CODE, "Variable `{0}` is gone."),
    "name added": Rule(MINOR, CODE, "New name: `{0}`."),
    "name gone": Rule(MAJOR, CODE, "`{0}` can no longer be imported."),
    "signature broken": Rule(MAJOR, CODE, "`{0}`: {1}."),
    "parameter with another default": Rule(MINOR, CODE, "`{0}`: {1}."),
    "dependency added": Rule(MINOR, CODE, "Services require the package `{1}`."),
    "dependency gone": Rule(
        MAJOR, CODE, "Services no longer require the package `{0}`: add it if your code imports it."
    ),
    "dependency with another range": Rule(MINOR, CODE, "Services require the package `{1}`."),
    "work broken": Rule(MAJOR, CODE, "The code of a team no longer passes the checks (variant {0}): {1}"),
    "Python required": Rule(MAJOR, CODE, "Services need Python {0}, not {1}."),
    "Copier required": Rule(MINOR, CODE, "Updates need Copier {0} or newer."),
    "declared breaking": Rule(MAJOR, UNLISTED, DECLARED.format("Breaking")),
    "declared added": Rule(MINOR, UNLISTED, DECLARED.format("Added")),
}


def level(changes: Iterable[Change]) -> Level:
    """Return the level of all changes together."""
    return max((change.rule.level for change in changes), default=PATCH)


def bump(last: Version, level: Level) -> Version:
    """Return the next version; before 1.0.0, a major change increases the minor part (semver.org, item 4)."""
    major, minor, patch = (*last.release, 0, 0)[:3]
    if level == MAJOR and major:
        return Version(f"{major + 1}.0.0")
    return Version(f"{major}.{minor}.{patch + 1}" if level == PATCH else f"{major}.{minor + 1}.0")


def parse_asked(text: str, last: Version | None) -> Version:
    """Return the version for `1.2.0`, `v1.2.0`, `1.2.0rc1`, or for the part to increase: major, minor, patch.

    Raises:
        ValueError: with a sentence for the user.
    """
    if text.upper() in Level.__members__:
        if last is None:
            raise ValueError(f"there is no version yet: write a number such as 1.0.0 in place of `{text}`")
        major = text == "major" and not last.major
        return Version("1.0.0") if major else bump(last, Level[text.upper()])
    if not FORM.fullmatch(text):
        raise ValueError(f"{text} is no version: write 1.2.0, 1.2.0rc1, major, minor or patch")
    return Version(text)
