"""Skip two steps of Copier that take most of its time in these tests and do not change its results.

tests/conftest.py, the sessions of variants and the benchmark call `quicken`; a test that needs a program runs `COPIER`
in place of `copier`. The sessions `updated`, `fleet` and `demo`, and the hooks, run Copier as it is.
"""

import os
import sys
from functools import wraps
from types import CodeType
from typing import Any

import copier._main
import jinja2
from copier._cli import CopierApp

COPIER = (sys.executable, __file__)


def quicken() -> None:
    """Change Copier in this process.

    Copier asks git for `core.fileMode` before each file (228 processes in one update), and ignores the answer where
    file systems have executable bits. It also compiles each part of each path as a Jinja template, for every file of
    every rendering (4,000 in one update).
    """
    if os.name == "posix":
        # A later Copier may have no such method: then there is nothing to leave out.
        copier._main.Worker._sync_git_index_executable_bit = lambda *_: None  # type: ignore[method-assign]

    compile_anew = jinja2.Environment.compile
    compiled: dict[tuple[object, ...], CodeType] = {}

    @wraps(compile_anew)
    def compile_once(self: jinja2.Environment, source: str, name: str | None = None, filename: object = None) -> Any:
        # Environments with the same syntax share one lexer. The file name is a new one each time, for tracebacks.
        key = (source, name, self.lexer, *self.extensions)
        if key not in compiled:
            compiled[key] = compile_anew(self, source, name)
        return compiled[key]

    jinja2.Environment.compile = compile_once  # type: ignore[assignment]


if __name__ == "__main__":
    quicken()
    CopierApp.run()
