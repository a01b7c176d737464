"""The table of promises: docs/promises.md, made from tests/promises.toml."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.internals_table import SOURCE, TESTS, Needs, answers_of
from tests.rendering import ROOT
from tests.variants import VARIANTS, Answer

DATA = ROOT / "tests/promises.toml"
PAGE = ROOT / "docs/promises.md"
# Where the file of a test is, by the start of its id; without one, it is a test of internals.
DIRECTORIES = {"service/": ROOT / "template/tests/core", "template/": ROOT / "tests"}
HEAD = """\
# What a service promises

Each row is one promise, with the tests that prove it. The letter is its kind: resilience (R), security (S) or
operation (O). A figure names the command that measures it, or the test that insists on it. The last column has the
answers with which the tests run. `nox -s docs` writes this page from [tests/promises.toml](../tests/promises.toml).

| id | promise | proved by | figure | with |
| --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Promise:
    """A promise of a service; tests/promises.toml explains the fields."""

    id: str
    promise: str
    tests: list[str] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    figure: str = ""
    open: str = ""
    out: str = ""

    @property
    def variants(self) -> list[str]:
        """Return the variants that it concerns."""
        return [
            name
            for name in VARIANTS
            if all(answers_of(name)[question] in allowed for question, allowed in self.answers.items())
        ]


def promises() -> list[Promise]:
    document: dict[str, Any] = tomllib.loads(DATA.read_text(encoding="utf-8"))
    return [Promise(**row) for row in document["promises"]]


def file_of(test: str) -> Path:
    """Return the file of a test id, which may be a template."""
    name = test.partition("::")[0]
    for prefix, directory in DIRECTORIES.items():
        if name.startswith(prefix):
            path = directory / name.removeprefix(prefix)
            return path if path.exists() else path.with_name(f"{path.name}.jinja")
    return SOURCE / name


def exists(test: str) -> bool:
    """Return whether the file of the id has the function of the id."""
    path = file_of(test)
    function = rf"^(?:async )?def {re.escape(test.partition('::')[2])}\("
    return path.exists() and re.search(function, path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def runs_in(test: str, variant: str) -> bool:
    """Return whether the test makes sense in the variant; those of services and of this repository always do."""
    name = test.partition("::")[0]
    is_internal = not name.startswith(tuple(DIRECTORIES))
    return TESTS.get(name, Needs()).fit(answers_of(variant)) if is_internal else True


def page() -> str:
    """Return the text of docs/promises.md."""
    return HEAD + "".join(_row(each) for each in promises())


def _row(promise: Promise) -> str:
    proofs = [f"[{test.partition('::')[2]}](../{file_of(test).relative_to(ROOT).as_posix()})" for test in promise.tests]
    if promise.open:
        proofs.append(f"**open**: {promise.open}")
    if promise.out:
        proofs.append(f"**out of scope**: {promise.out}")
    answers = [f"`{name}`: {', '.join(map(_shown, allowed))}" for name, allowed in promise.answers.items()]
    cells = [promise.id, promise.promise, "<br>".join(proofs), promise.figure, "<br>".join(answers) or "all"]
    return f"| {' | '.join(cells)} |\n"


def _shown(answer: Answer) -> str:
    return {True: "yes", False: "no"}[answer] if isinstance(answer, bool) else str(answer)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
