"""CHANGELOG.md: the text under "Unreleased", and the section of a version (pure)."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from packaging.version import Version

from releases.rules import CODE, FILES, QUESTIONS, Change

HEADING = "## Unreleased"
TITLE = re.compile(r"^## (\S+) - \d{4}-\d{2}-\d{2}$", re.MULTILINE)
# A row of "The whole picture" in results.md, and the figure of a cell such as `1,888 (20x)`.
ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)
FIGURE = re.compile(r"^[\d,.]+")
WIDTH = 120


@dataclass(frozen=True)
class Trial:
    """The result of the update of one service, with a line of the team in every file."""

    variant: str
    files: int = 0
    conflicts: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    # Questions whose answers became others.
    answers: tuple[str, ...] = ()
    # Why there was no update at all, or why uv cannot lock the packages of the updated service.
    error: str = ""
    # The first check of the service that passes before the update and fails after it, with the end of its output.
    broken: str = ""


def split(changelog: str) -> tuple[str, str, str]:
    """Return the texts before, under and after the heading "Unreleased"."""
    before, _, rest = f"\n{changelog}".partition(f"\n{HEADING}\n")
    text, *behind = re.split(r"^(?=## )", rest, maxsplit=1, flags=re.MULTILINE)
    return before.strip(), text.strip(), "".join(behind).strip()


def unreleased(changelog: str) -> str:
    """Return the text under "Unreleased"."""
    return split(changelog)[1]


def newest(changelog: str) -> Version | None:
    """Return the version of the newest section."""
    return max(map(Version, TITLE.findall(changelog)), default=None)


def declared(changelog: str) -> dict[str, str]:
    """Return the parts of "Unreleased", by their headings in lower case."""
    titles = re.split(r"^### (.+)$", unreleased(changelog), flags=re.MULTILINE)[1:]
    return {title.lower(): text for title, text in zip(titles[::2], titles[1::2], strict=True)}


def released(changelog: str, version: Version, date: str, parts: str) -> str:
    """Return the changelog with a section for `version`, and without text under "Unreleased"."""
    before, text, behind = split(changelog)
    blocks = [before, HEADING, f"## {version} - {date}", text, parts, behind]
    return "\n\n".join(filter(None, blocks)) + "\n"


def parts(last: Version | None, changes: Iterable[Change], hooks: int, trials: Sequence[Trial], effect: str) -> str:
    """Return the generated part of a section."""
    if last is None:
        return "### Update\n\nThe first version: there is nothing to update from."
    listed = {section: [each.text for each in changes if each.rule.section == section] for section in SECTIONS}
    blocks = [f"### {section}\n\n" + "\n".join(map(_item, texts)) for section, texts in listed.items() if texts]
    trust = (
        f"`copier update` from {last} needs `--trust`, for its entries in `_migrations`: {hooks}."
        if hooks
        else f"`copier update` from {last} needs no `--trust`."
    )
    return "\n\n".join([*blocks, "### Update\n\n" + "\n".join(map(_item, [trust, tried(last, trials), effect]))])


SECTIONS = (QUESTIONS, FILES, CODE)


def _item(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def tried(last: Version, trials: Sequence[Trial]) -> str:
    """Return the results of the updates."""
    files = sum(trial.files for trial in trials)
    conflicts = sorted({path for trial in trials for path in trial.conflicts})
    deleted = sorted({path for trial in trials for path in trial.deleted})
    lost = sum(len(trial.lost) for trial in trials)
    return (
        f"Variants updated from {last}: {len(trials)}, with a line of a team in each of their {files:,} files. "
        f"Conflicts: {sum(len(trial.conflicts) for trial in trials)}{_named(conflicts)}. "
        f"Deleted files: {sum(len(trial.deleted) for trial in trials)}{_named(deleted)}. Lost lines: {lost}."
    )


def _named(paths: Sequence[str]) -> str:
    return f" ({', '.join(f'`{path}`' for path in paths)})" if paths else ""


def ratios(results: str) -> Mapping[str, float]:
    """Return the requests per second of the rendered service as a multiple of those of `plain` in the same run."""
    _, _, picture = results.partition("## The whole picture")
    rows = [row.split(" | ") for row in ROW.findall(picture.partition("\n## ")[0])]
    if not rows or not {"plain", "rendered"} <= set(rows[0]):
        return {}
    plain, rendered = rows[0].index("plain"), rows[0].index("rendered")
    found = {}
    for row in rows[2:]:
        figures = [FIGURE.match(row[column]) for column in (plain, rendered)]
        if figures[0] and figures[1]:
            found[row[0]] = float(figures[1][0].replace(",", "")) / float(figures[0][0].replace(",", ""))
    return found


def effect(older: str, newer: str) -> str:
    """Return the effect on performance, by `results.md` of docs/performance in the last version and now."""
    before, after = ratios(older), ratios(newer)
    both = [name for name in after if name in before]
    if older == newer or not both:
        return "Effect on performance: not measured."
    changes = ", ".join(f"{name} {before[name]:.2f} to {after[name]:.2f}" for name in both)
    return f"Effect on performance, in requests/s as a multiple of FastAPI and asyncpg by hand: {changes}."
