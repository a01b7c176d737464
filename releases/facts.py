"""The interface of a version of the template, read from its settings and its renders (pure)."""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pathspec
from jinja2.sandbox import SandboxedEnvironment
from packaging.requirements import Requirement

ANSWERS_FILE = ".copier-answers.yml"
ANCHOR = re.compile(r"Add your own (?:above|below) this line")
VARIABLE = re.compile(r"^\| `([A-Z][A-Z0-9_]*)` \| ([^|]*?) \|", re.MULTILINE)

Config = Mapping[str, Any]
Answers = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """The interface of one rendered service, or of several together."""

    texts: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    # The packages that the service requires, for production or development, with their versions.
    requirements: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    anchors: frozenset[str] = frozenset()
    # The names that a team's code may import, and all names that it could import.
    promised: frozenset[str] = frozenset()
    offered: frozenset[str] = frozenset()

    def __or__(self, other: "Facts") -> "Facts":
        return Facts(
            {**self.texts, **other.texts},
            {**self.owners, **other.owners},
            {**self.variables, **other.variables},
            {**self.requirements, **other.requirements},
            self.python or other.python,
            self.anchors | other.anchors,
            self.promised | other.promised,
            self.offered | other.offered,
        )


def facts(texts: Mapping[str, str], config: Config, answers: Answers) -> Facts:
    """Return the facts of a rendered service, whose files are `texts`."""
    texts = {path: text for path, text in texts.items() if path != ANSWERS_FILE}
    owners = owned(texts, config, answers)
    pyproject = tomllib.loads(texts.get("pyproject.toml", ""))
    return Facts(
        texts,
        owners,
        dict(VARIABLE.findall(texts.get("docs/configuration.md", ""))),
        requirements(pyproject),
        pyproject.get("project", {}).get("requires-python", ""),
        frozenset(anchor for path, text in texts.items() for anchor in anchors(path, text)),
        frozenset(promised(texts, owners)),
        frozenset(name for path, text in texts.items() for name in offered(path, text)),
    )


# --- Settings ---


def questions(config: Config) -> dict[str, dict[str, Any]]:
    """Return the questions whose answers a service records, without derived ones."""
    named = {name: asked if isinstance(asked, dict) else {"default": asked} for name, asked in config.items()}
    return {name: asked for name, asked in named.items() if name[0] != "_" and asked.get("when") is not False}


def choices(question: Mapping[str, Any]) -> list[Any]:
    """Return the values of the choices of a question, as written: Jinja in them is not rendered."""
    raw = question.get("choices", [])
    listed = raw.values() if isinstance(raw, dict) else [] if isinstance(raw, str) else raw
    values = [item[1] if isinstance(item, list) else item for item in listed]
    return [value["value"] if isinstance(value, dict) else value for value in values]


def environment(config: Config) -> SandboxedEnvironment:
    """Return the environment of Jinja that Copier uses for validators and `_exclude`."""
    options = {key: value for key, value in config.get("_envops", {}).items() if key != "undefined"}
    return SandboxedEnvironment(extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"], **options)


def excluded(config: Config, answers: Answers, operation: str) -> list[str]:
    """Return the patterns of `_exclude` with these answers."""
    jinja = environment(config)
    known = {**answers, "_copier_operation": operation}
    return [text for entry in config.get("_exclude", []) if (text := jinja.from_string(entry).render(known))]


def matching(patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    """Return the paths that match patterns with the syntax of .gitignore, as Copier reads them."""
    return set(pathspec.PathSpec.from_lines("gitignore", patterns).match_files(paths))


def owned(paths: Iterable[str], config: Config, answers: Answers) -> dict[str, str]:
    """Return the class of ownership of each path (docs/ownership.md)."""
    paths = list(paths)
    owners = dict.fromkeys(paths, "ours")
    owners |= dict.fromkeys(matching(config.get("_seam", []), paths), "seam")
    owners |= dict.fromkeys(matching(config.get("_skip_if_exists", []), paths), "shared")
    return owners | dict.fromkeys(matching(excluded(config, answers, "update"), paths), "yours")


def refused(name: str, older: Config, newer: Config, answers: Iterable[Answers]) -> str:
    """Return an answer that the older validator accepts and the newer one refuses; empty if none is found.

    The function tries the answers of the variants, and a range of numbers and of lengths.
    """
    old, new = ((environment(each), each[name].get("validator", "")) for each in (older, newer))
    numbers = [*range(-1, 1100), *(10**power + step for power in range(3, 8) for step in (-1, 0, 1))]
    words = [letter * length for letter in ("a", "A", "a-", "a b", "1") for length in (1, 2, 20, 25, 40, 50, 80)]
    probes: dict[str, list[Any]] = {"int": numbers, "float": [number / 10 for number in numbers], "str": words}
    rows = [dict(row) for row in answers if name in row] or [{}]
    tried = [row[name] for row in rows if name in row] + probes.get(older[name].get("type", "yaml"), [])

    def accepts(side: tuple[SandboxedEnvironment, str], value: Any) -> bool:
        return not side[0].from_string(side[1]).render({**rows[0], name: value}).strip()

    return next((str(value) for value in tried if accepts(old, value) and not accepts(new, value)), "")


# --- Files ---


def requirements(pyproject: Mapping[str, Any]) -> dict[str, str]:
    """Return the required packages of a pyproject.toml, each with its extras, versions and marker."""
    groups = pyproject.get("dependency-groups", {}).values()
    listed = [*pyproject.get("project", {}).get("dependencies", []), *(text for group in groups for text in group)]
    return {requirement.name: str(requirement) for requirement in map(Requirement, listed)}


def anchors(path: str, text: str) -> Iterator[str]:
    """Yield the places for a team's own lines; places after the first in a file have a number."""
    seen: Counter[str] = Counter()
    for line in filter(ANCHOR.search, text.splitlines()):
        seen[line] += 1
        yield f"{path}, {line.strip()}" + (f" ({seen[line]})" if seen[line] > 1 else "")


def module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def offered(path: str, text: str) -> Iterator[str]:
    """Return the importable names: modules as `a.b` and `a:b`, and their top-level names as `a.b:name`."""
    if not path.endswith(".py"):
        return
    package, _, leaf = module(path).rpartition(".")
    yield from (module(path), f"{package}:{leaf}")
    parts = list(ast.parse(text).body)
    for node in parts:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.Import(names=found) | ast.ImportFrom(names=found):
                names = [alias.asname or alias.name.split(".")[0] for alias in found]
            case ast.If() | ast.Try() | ast.With():
                parts += [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]
                parts += [each for handler in getattr(node, "handlers", []) for each in handler.body]
                names = []
            case _:
                # Assigned: `a = ...`, `a: int = ...`, `a, b = ...`.
                names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name) and _stored(each)]
        yield from (f"{module(path)}:{name}" for name in names)


def _stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def promised(texts: Mapping[str, str], owners: Mapping[str, str]) -> Iterator[str]:
    """Return the names that a team's code may use.

    These are `__all__` of our modules, our fixtures, and the names that rendered files of the team import from ours.
    """
    modules = {module(path): owners[path] for path in texts if path.endswith(".py")}
    for path in filter(lambda path: path.endswith(".py"), texts):
        for node in ast.walk(ast.parse(texts[path])):
            match node:
                case ast.ImportFrom(module=str(source), names=names, level=0) if owners[path] != "ours":
                    for name in (alias.name for alias in names):
                        if modules.get(f"{source}.{name}") == "ours":
                            yield f"{source}.{name}"
                        elif modules.get(source) == "ours":
                            yield source if name == "*" else f"{source}:{name}"
                case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List() as listed) if owners[path] == "ours":
                    yield from (f"{module(path)}:{value}" for value in ast.literal_eval(listed))
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if owners[path] == "ours":
                    if any(ast.unparse(each).startswith("pytest.fixture") for each in node.decorator_list):
                        yield f"{module(path)}:{name}"
