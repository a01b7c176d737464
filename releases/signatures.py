"""Breaks in the signatures, methods and attributes of the names that a team's code may import, found by griffe.

griffe reads the modules and does not run them. It does not compare the types of parameters: the trial of an update does,
by the type check of a service with a year of work in it.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import griffe

from releases.rules import Change

# Callers that rely on the default see another behaviour, and no error.
MINOR = {griffe.BreakageKind.PARAMETER_CHANGED_DEFAULT}


def broken(older: Mapping[str, str], newer: Mapping[str, str], names: Collection[str]) -> Iterator[Change]:
    """Yield the breaks between two versions of the files of a service, for these names (`a.b` or `a.b:name`)."""
    before, after = public(older, names), public(newer, names)
    for name in before.members.keys() - after.members.keys():
        del before.members[name]  # It is gone: releases/compare.py says so.
    for breakage in griffe.find_breaking_changes(before, after):
        value = breakage.old_value or breakage.new_value
        parameter = f" ({value.name})" if isinstance(value, griffe.Parameter) else ""
        kind = "parameter with another default" if breakage.kind in MINOR else "signature broken"
        yield Change(kind, breakage.obj.canonical_path, f"{breakage.kind.value.lower()}{parameter}")


def public(texts: Mapping[str, str], names: Collection[str]) -> griffe.Module:
    """Return a module with these names as its members, each with the object that it leads to."""
    with tempfile.TemporaryDirectory() as home:
        for path, text in texts.items():
            if path.startswith("app/") and path.endswith(".py"):
                (Path(home) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(home) / path).write_text(text, encoding="utf-8")
        loader = griffe.GriffeLoader(search_paths=[home], allow_inspection=False)
        package = loader.load("app")
        loader.resolve_aliases()
    found = griffe.Module("public")
    for name in names:
        try:
            target = package[name.replace(":", ".").removeprefix("app.")]
            target = target.final_target if target.is_alias else target
        except (KeyError, griffe.AliasResolutionError):
            continue  # Gone, or a name of a library.
        target.public = True
        found.members[name] = target
    return found
