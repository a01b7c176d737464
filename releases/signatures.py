"""Breaks in the signatures, methods and attributes of the names that a team's code may import, found by griffe.

griffe reads the modules and does not run them. It does not compare types: the type check of a service with a year of
work in it does, in the trial of an update.
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
        if target := lookup(package, name.replace(":", ".")):
            found.members[name] = target
            for path in types(target):
                if leading := lookup(package, path):
                    found.members[path] = leading
    return found


def lookup(package: griffe.Object | griffe.Alias, path: str) -> griffe.Object | None:
    """Return the object at a path such as `app.core.jobs.enqueue`; None if there is none, or a library has it."""
    try:
        found: griffe.Object | griffe.Alias = package[path.removeprefix("app.")]
        target = found.final_target if isinstance(found, griffe.Alias) else found
    except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
        return None
    target.public = True
    return target


def types(target: griffe.Object) -> set[str]:
    """Return the paths to which an attribute or the result of a function leads: `public = Policy` and `-> Policy`."""
    leading = [target.value, target.annotation] if isinstance(target, griffe.Attribute) else []
    leading += [target.returns] if isinstance(target, griffe.Function) else []
    return {
        name.canonical_path
        for expression in leading
        if isinstance(expression, griffe.Expr)
        for name in expression.iterate(flat=True)
        if isinstance(name, griffe.ExprName) and name.canonical_path.startswith("app.")
    }
