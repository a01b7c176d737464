"""The effects of the entries of `_migrations`, from the command lines of the scripts in hooks/ (pure)."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml
from packaging.version import Version

from releases.facts import Answers, Config

JINJA = re.compile(r"\{\{.*?\}\}")


@dataclass(frozen=True)
class Migration:
    """One entry: its version, and the words of its command."""

    version: Version | None
    words: tuple[str, ...]

    def arguments(self, script: str) -> list[str]:
        """Return the arguments of a script; empty if the entry runs another one."""
        for position, word in enumerate(self.words):
            if PurePosixPath(word).name == script:
                rest = list(self.words[position + 1 :])
                if rest[:1] == ["--answers-file"]:
                    return rest[2:]
                return rest[1:] if rest[:1] and rest[0].startswith("--answers-file=") else rest
        return []

    @property
    def edits(self) -> Iterator[tuple[str, ...]]:
        """Yield the edits of answers: `rename OLD NEW` and `value QUESTION OLD NEW`."""
        words = self.arguments("edit_answers.py")
        while words:
            size = 4 if words[0] == "value" else 3
            yield tuple(words[:size])
            words = words[size:]


def migrations(config: Config) -> list[Migration]:
    """Return all entries, in their order."""
    entries = [entry if isinstance(entry, dict) else {"command": entry} for entry in config.get("_migrations", [])]
    return [
        Migration(Version(str(entry["version"])) if "version" in entry else None, _words(entry["command"]))
        for entry in entries
    ]


def _words(command: str | Sequence[Any]) -> tuple[str, ...]:
    if isinstance(command, str):
        return tuple(shlex.split(JINJA.sub("-", command)))
    return tuple(JINJA.sub("-", str(word)) for word in command)


def moved(path: str, crossed: Sequence[Migration]) -> str:
    """Return the new place of a path that moves alone or with a directory; empty if it does not move."""
    for migration in crossed:
        words = migration.arguments("merge_moved.py")
        for old, new in zip(words[::2], words[1::2], strict=False):
            if path == old or path.startswith(f"{old}/"):
                return new + path[len(old) :]
    return ""


def handed_over(path: str, crossed: Sequence[Migration]) -> bool:
    """Whether a path, or a directory above it, is left to the team."""
    names = {path, *map(str, PurePosixPath(path).parents)}
    return any(names.intersection(migration.arguments("hand_over.py")) for migration in crossed)


def migrated(answers: Answers, crossed: Sequence[Migration]) -> dict[str, Any]:
    """Return the answers after the hooks."""
    edited = dict(answers)
    for kind, name, *rest in (edit for migration in crossed for edit in migration.edits):
        if kind == "rename" and name in edited:
            edited[rest[0]] = edited.pop(name)
        elif kind == "value" and str(edited.get(name)) == rest[0]:
            edited[name] = yaml.safe_load(rest[1])
    return edited
