"""The owner of each rendered path, from the lists in copier.yml; and the trees of docs/ownership.md."""

import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pathspec
import yaml

from tests.rendering import ROOT, render, snapshot
from tests.variants import DEFAULTS, VARIANTS

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
BY_UPDATE = re.compile(r"\{% if _copier_operation == 'update' %\}(?P<path>/\S+)\{% endif %\}")
OWNERS: dict[str, list[str]] = {
    "ours": CONFIG["_ours"],
    "seam": CONFIG["_seam"],
    "shared": CONFIG["_skip_if_exists"],
    "yours": [match["path"] for entry in CONFIG["_exclude"] if (match := BY_UPDATE.fullmatch(entry))],
}

PAGE = ROOT / "docs" / "ownership.md"
# The shapes differ too, for readers who cannot tell the colours apart.
MARKERS = {"ours": "🟦", "seam": "🔶", "shared": "🟣", "yours": "🟩"}
SEVERAL = "⬜"
# Between two comments of the page, which GitHub does not show.
GENERATED = re.compile(r"(?P<begin><!-- (?P<name>tree|all) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def owner(path: str) -> str:
    """Return the class of a rendered file.

    Raises:
        LookupError: when the file is in no list, or in several.
    """
    found = [name for name, patterns in OWNERS.items() if _spec(patterns).match_file(path)]
    if len(found) != 1:
        raise LookupError(f"{path} is in {', '.join(found) or 'no list'} of copier.yml")
    return found[0]


def tree(paths: Iterable[str], owner: Callable[[str], str], *, fold: bool) -> str:
    """Return a tree of files and directories, each with the marker of its class.

    With `fold`, a directory of one class is one line.
    """
    classes = {path: owner(path) for path in paths}
    return "\n".join(_lines(classes, "", fold=fold, depth=0))


def _lines(classes: dict[str, str], directory: str, *, fold: bool, depth: int) -> Iterable[str]:
    within = {path.removeprefix(directory): name for path, name in classes.items() if path.startswith(directory)}
    names = {path.split("/")[0] for path in within}
    directories = {name for name in names if any(path.startswith(f"{name}/") for path in within)}
    for name in sorted(names, key=lambda name: (name not in directories, name)):
        below = [owner for path, owner in within.items() if path.startswith(f"{name}/")]
        alike = len(set(below)) == 1
        marker = MARKERS[below[0] if alike else within[name]] if alike or not below else SEVERAL
        indent = "  " * depth
        if not below:
            yield f"{marker} {indent}{name}"
            continue
        yield f"{marker} {indent}{name}/"
        if not (fold and alike):
            yield from _lines(classes, f"{directory}{name}/", fold=fold, depth=depth + 1)


def _spec(patterns: list[str]) -> pathspec.PathSpec[Any]:
    return pathspec.PathSpec.from_lines("gitignore", patterns)


def page(text: str, service: Path) -> str:
    """Return the page `text` with the trees of a rendered service."""
    paths = [path.relative_to(service).as_posix() for path in service.rglob("*") if path.is_file()]
    trees = {"tree": tree(paths, owner, fold=True), "all": tree(paths, owner, fold=False)}
    return GENERATED.sub(
        lambda match: f"{match['begin']}\n```text\n{trees[match['name']]}\n```\n\n{match['end']}", text
    )


def render_everything(home: Path) -> Path:
    """Render the service of the page: the variant with most files."""
    return render(snapshot(home / "template"), home / "service", DEFAULTS | VARIANTS["everything"])


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        text = page(PAGE.read_text(encoding="utf-8"), render_everything(Path(home)))
    PAGE.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
