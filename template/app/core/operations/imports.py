"""Imports that do not resolve, found by reading: `python -m app check` names all of them, where
Python would stop at the first.

Nothing but the standard library is imported, so this runs whatever is broken. A module of the
project is looked up among its files, and a name in the module's syntax tree; of a package that is
installed, only whether it is there. Wrong attributes of modules are for mypy to find.
"""

import ast
import os
import symtable
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ADVICE = """\
Change these imports or, before an update is committed, bring back what it deleted:
`git diff --relative --no-renames --name-only --diff-filter=D HEAD` lists such files, and
`git checkout HEAD -- FILE` brings one back. `uv add` brings a package that is not installed."""

# All that runs where the development dependencies are not installed, as in an image.
_SERVING = ("app/", "deploy/", "migrations/")
# What guards an import that may fail, and what asks for the platform that has a module.
_GUARDS = {"ImportError", "ModuleNotFoundError"}
_PLATFORM = {"platform", "version_info", "implementation"}
# What modules have without saying so.
_IMPLICIT = {"*", "__doc__", "__file__", "__name__", "__package__", "__path__", "__spec__"}


class Source(NamedTuple):
    """A file that parses: its syntax tree, and the names that its module binds."""

    tree: ast.Module
    names: set[str]


def unresolved(root: Path) -> list[str]:
    """A sentence for each import below `root` that does not resolve, in the order of the files."""
    return findings(_read(root), lambda package: _is_installed(package, root))


def findings(files: Mapping[str, bytes], is_installed: Callable[[str], bool]) -> list[str]:
    """The same for files by their path from the root, with slashes."""
    project = _Project({path: _parse(files[path]) for path in sorted(files)}, is_installed)
    everything = is_installed("pytest")
    found = []
    for path, source in project.sources.items():
        if isinstance(source, str):
            found.append(f"{path}:{source}")
        elif everything or path.startswith(_SERVING):
            for statement in _imports(source.tree):
                problems = project.problems(path, statement)
                found += [f"{path}:{line}: {problem}" for line, problem in problems]
    return found


class _Project:
    def __init__(
        self, sources: Mapping[str, Source | str], is_installed: Callable[[str], bool]
    ) -> None:
        self.sources = sources
        self._is_installed = is_installed
        # The file of each module; None for a directory without `__init__.py`.
        self._modules: dict[str, str | None] = {}
        # None when only running the module would tell.
        self._names: dict[str, set[str] | None] = {}
        for path in sources:
            *above, _ = parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
            if f"{parts[0]}/__init__.py" not in sources and above and is_installed(parts[0]):
                continue  # a directory that happens to have the name of a package
            for end in range(1, len(parts)):
                self._modules.setdefault(".".join(parts[:end]), None)
            self._modules[".".join(parts)] = path

    def problems(
        self, path: str, statement: ast.Import | ast.ImportFrom
    ) -> Iterator[tuple[int, str]]:
        """The lines of an import of the file at `path`, and what is wrong there."""
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if problem := self._missing(self._absolute(path, alias.name)):
                    yield alias.lineno, problem
            return
        module = self._absolute(path, statement.module or "", statement.level)
        if problem := self._missing(module):
            yield statement.lineno, problem
        elif module in self._modules:
            names = self._names_of(module)
            for alias in statement.names:
                if names is None or alias.name in names | _IMPLICIT:
                    continue
                if f"{module}.{alias.name}" not in self._modules:
                    yield alias.lineno, f"{module} has no {alias.name}"

    def _absolute(self, path: str, name: str, level: int = 0) -> str:
        """The module's whole name; empty for one above the project."""
        package = path.split("/")[:-1]
        if level:
            above = package[: max(0, len(package) - level + 1)]
            return ".".join([*above, *filter(None, [name])]) if above else ""
        # Python looks beside a script, too.
        beside = ".".join([*package, name])
        is_script = self._modules.get(".".join(package)) is None
        return beside if is_script and beside in self._modules else name

    def _missing(self, module: str) -> str | None:
        """What keeps the module from being imported."""
        top, *_ = parts = module.split(".")
        if not top:
            return "there is no such package above"
        if top not in self._modules:
            return None if self._is_installed(top) else f"{top} is not installed"
        names = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        gone = next((name for name in names if name not in self._modules), None)
        return f"there is no module {gone}" if gone else None

    def _names_of(self, module: str, within: tuple[str, ...] = ()) -> set[str] | None:
        """What can be imported from a module, beside the modules in it."""
        path = self._modules[module]
        if path is None or module in within:  # as modules that import all of each other are
            return set()
        if module not in self._names:
            names = self._read_names(path, (*within, module))
            if within:
                return names
            self._names[module] = names
        return self._names[module]

    def _read_names(self, path: str, within: tuple[str, ...]) -> set[str] | None:
        source = self.sources[path]
        if isinstance(source, str) or "__getattr__" in source.names:
            return None
        names = set(source.names)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                module = self._absolute(path, node.module or "", node.level)
                more = self._names_of(module, within) if module in self._modules else None
                if more is None:
                    return None
                names |= more
            elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "globals":
                return None
        return names


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All but those that may fail; in functions as well."""
    inside: Iterable[ast.AST] = ast.iter_child_nodes(node)
    match node:
        case ast.Import() | ast.ImportFrom():
            yield node
        case ast.Try() if any(_mentions(handler.type, _GUARDS) for handler in node.handlers):
            inside = [*node.orelse, *node.finalbody]
        case ast.With() if any(_mentions(item.context_expr, _GUARDS) for item in node.items):
            return
        case ast.If() if _mentions(node.test, _PLATFORM):
            return
    for child in inside:
        if not isinstance(child, ast.expr):
            yield from _imports(child)


def _mentions(node: ast.AST | None, names: set[str]) -> bool:
    parts = ast.walk(node) if node else ()
    return any(getattr(part, "id", getattr(part, "attr", None)) in names for part in parts)


def _parse(text: bytes) -> Source | str:
    """The source, or the line and what is wrong with it."""
    with warnings.catch_warnings(action="ignore"):
        try:
            tree = ast.parse(text)
            symbols = symtable.symtable(text.decode("utf-8-sig"), "", "exec").get_symbols()
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            if b"\n<<<<<<< " in b"\n" + text:
                return f"{line}: a conflict is not resolved"
            return f"{line}: is not Python: {getattr(error, 'msg', error)}"
    names = {item.get_name() for item in symbols if item.is_assigned() or item.is_imported()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            names.update(node.names)
    return Source(tree, names)


def _read(root: Path) -> dict[str, bytes]:
    """The project's Python files, and none of an environment or a hidden directory."""
    files = {}
    for directory, subdirectories, names in os.walk(root):
        here = Path(directory)
        subdirectories[:] = [
            name
            for name in subdirectories
            if not name.startswith((".", "__pycache__", "node_modules"))
            and not (here / name / "pyvenv.cfg").exists()
        ]
        for path in (here / name for name in names):
            if path.suffix == ".py" and path.is_file():
                files[path.relative_to(root).as_posix()] = path.read_bytes()
    return files


@cache
def _is_installed(package: str, root: Path) -> bool:
    try:
        spec = find_spec(package)
    except ValueError:
        return True  # it runs, and was not imported: `__main__`
    if spec is None:
        return package == "_typeshed"  # which type checkers bring along
    # A directory of the project without Python in it is no package.
    places = spec.submodule_search_locations or ()
    return spec.origin is not None or any(Path(place).parent != root for place in places)
