"""Imports that do not resolve are found by reading, whatever is broken, and no others."""

from pathlib import Path

import pytest

from app.core.operations import imports

ROOT = Path(__file__).parents[2]
# What the project of these tests has; each test adds a file that imports from it.
PROJECT = {
    "app/__init__.py": "",
    "app/core/__init__.py": "",
    "app/core/jobs/__init__.py": "from app.core.jobs.engine import enqueue as enqueue\n",
    "app/core/jobs/engine.py": "def enqueue() -> None: ...\n",
    "app/core/names.py": """\
import os.path as a
import email.message
try:
    b = 1
except ValueError as c:
    b = 2
if a:
    d: int
    (e, [f, *g]) = 1, [2, 3]
else:
    class H: ...
with open(a) as i:
    for j in i:
        print(k := j)
async def m():
    global n
    n = local = 1
while not a:
    async def o(): ...
match a:
    case {"x": p}: pass
""",
    "app/core/lazy.py": "def __getattr__(name): ...\n",
    "app/core/computed.py": "globals()['x'] = 1\n",
    "app/core/everything.py": "from .names import *\nfrom app.core.circle import *\n",
    "app/core/circle.py": "from .everything import *\nr = 1\n",
    "app/core/foreign.py": "from decimal import *\n",
    "app/core/broken.py": "def f(:\n",
    "namespace/deeper/module.py": "x = 1\n",
    "scripts/tool.py": "import beside\n",
    "scripts/beside.py": "x = 1\n",
    # Directories of the project may have the name of a package.
    "fastapi/notes.py": "",
    "app/.hidden/x.py": "import gone\n",
    ".venv/lib/x.py": "import gone\n",
    "environment/pyvenv.cfg": "",
    "environment/lib/x.py": "import gone\n",
    "app/__pycache__/x.py": "import gone\n",
}
BROKEN = "app/core/broken.py:1: is not Python: "


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def found(root: Path, path: str, text: str) -> list[str]:
    """What is found in one more file, after its path and a colon."""
    lines = imports.unresolved(write(root, {**PROJECT, path: text}))
    own = [line.removeprefix(f"{path}:") for line in lines if not line.startswith(BROKEN)]
    assert len(own) == len(lines) - 1, "nothing else of the project is broken"
    return own


@pytest.mark.parametrize(
    "statement",
    [
        "import app.core.jobs.engine as engine, app.core",
        "from app.core import jobs, names",
        "from app.core.jobs import engine, enqueue",
        "from app.core.names import a, b, c, d, e, f, g, H, i, j, k, m, n, o, p, email, __file__",
        "from app.core.names import *",
        "from app.core.lazy import whatever",
        "from app.core.computed import x",
        "from app.core.everything import b, H, r",
        "from app.core.circle import b",
        "from app.core.foreign import Decimal",
        "from app.core.broken import f",
        "from . import service",
        "from .. import core",
        "from ..core.jobs import enqueue",
        "from ..core.names import H",
        "import namespace.deeper.module",
        "from namespace.deeper import module",
        "from namespace.deeper.module import x",
        "import asyncio, sqlalchemy.ext.asyncio, fastapi, __main__",
        "from opentelemetry import metrics",
        "from fastapi import FastAPI",
        "from __future__ import annotations",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from _typeshed import StrPath",
        "try:\n    import gone\nexcept ImportError:\n    import gone_as_well",
        "try:\n    import gone\nexcept (ValueError, builtins.ModuleNotFoundError):\n    pass",
        "with contextlib.suppress(ImportError):\n    import gone",
        "if sys.platform == 'win32':\n    import gone",
        "if sys.version_info < (3, 9):\n    import gone\nelse:\n    import gone",
        "'''import gone'''  # import gone",
        "import re\nre.compile('\\d')  # which Python warns of",
    ],
)
def test_what_resolves(tmp_path: Path, statement: str) -> None:
    assert found(tmp_path, "app/orders/service.py", f"{statement}\n") == []


@pytest.mark.parametrize(
    ("statement", "problems"),
    [
        ("import app.core.mail", ["1: there is no module app.core.mail"]),
        ("import app.core.mail.smtp as v", ["1: there is no module app.core.mail"]),
        ("from app.core.mail import a, b", ["1: there is no module app.core.mail"]),
        ("from app.core.mail import *", ["1: there is no module app.core.mail"]),
        ("from app.core import mail", ["1: app.core has no mail"]),
        ("from app.core.jobs.engine.x import y", ["1: there is no module app.core.jobs.engine.x"]),
        ("from app.core.names import local", ["1: app.core.names has no local"]),
        ("from app.core.everything import x", ["1: app.core.everything has no x"]),
        (
            "\nfrom app.core.jobs import (\n    drain,\n    enqueue,\n    ping,\n)",
            ["3: app.core.jobs has no drain", "5: app.core.jobs has no ping"],
        ),
        ("from namespace import gone", ["1: namespace has no gone"]),
        ("from namespace.deeper.gone import x", ["1: there is no module namespace.deeper.gone"]),
        ("from .gone import x", ["1: there is no module app.orders.gone"]),
        ("from ..core.mail import x", ["1: there is no module app.core.mail"]),
        ("from . import gone", ["1: app.orders has no gone"]),
        ("from ... import gone", ["1: there is no such package above"]),
        ("import gone", ["1: gone is not installed"]),
        ("import sys, gone.deeper, a", ["1: gone is not installed", "1: a is not installed"]),
        ("from gone.deeper import a, b", ["1: gone is not installed"]),
        ("import environment.lib", ["1: environment is not installed"]),
        ("def f():\n    class C:\n        import gone", ["3: gone is not installed"]),
        ("if TYPE_CHECKING:\n    from gone import x", ["2: gone is not installed"]),
        ("if a: pass\nelif b: import gone", ["2: gone is not installed"]),
        ("match a:\n    case 1: import gone", ["2: gone is not installed"]),
        ("try:\n    import gone\nexcept ValueError: pass", ["2: gone is not installed"]),
        ("try: pass\nexcept ImportError: pass\nelse: import gone", ["3: gone is not installed"]),
        ("x = 1\n<<<<<<< before updating\nx = 2\n=======", ["2: a conflict is not resolved"]),
        ("x = (", ["1: is not Python: '(' was never closed"]),
    ],
)
def test_what_does_not(tmp_path: Path, statement: str, problems: list[str]) -> None:
    files = {"app/orders/__init__.py": "", "app/orders/service.py": f"{statement}\n"}

    assert found(write(tmp_path, files), "app/orders/service.py", f"{statement}\n") == problems


@pytest.mark.parametrize(
    ("path", "statement", "problems"),
    [
        # A module is not beside itself: only a script is.
        ("scripts/other.py", "import beside", []),
        ("app/core/jobs/gone.py", "from gone import x", ["1: gone is not installed"]),
        ("app/core/__init__.py", "from .jobs import enqueue", []),
        ("app/core/__init__.py", "from .mail import x", ["1: there is no module app.core.mail"]),
        ("noxfile.py", "import app.core.mail", ["1: there is no module app.core.mail"]),
        ("noxfile.py", "from . import x", ["1: there is no such package above"]),
        ("deploy/server.conf.py", "import gone", ["1: gone is not installed"]),
        ("migrations/versions/0002_a-b.py", "from app import x", ["1: app has no x"]),
    ],
)
def test_where_the_file_lies(
    tmp_path: Path, path: str, statement: str, problems: list[str]
) -> None:
    assert found(tmp_path, path, f"{statement}\n") == problems


def test_a_directory_in_which_only_a_cache_is_left_is_no_module(tmp_path: Path) -> None:
    write(tmp_path, {"app/core/mail/__pycache__/smtp.cpython-311.pyc": ""})

    assert found(tmp_path, "app/x.py", "import app.core.mail\n") == [
        "1: there is no module app.core.mail"
    ]


@pytest.mark.parametrize("text", [b"x = '\0'", b"\xff", b"# coding: latin-1\n\xff = 1", b"x = ("])
def test_a_file_that_is_not_python(text: bytes) -> None:
    (line,) = imports.findings({"app/x.py": text}, lambda _: True)

    assert line.startswith("app/x.py:1: is not Python: ")


def test_without_the_development_dependencies_only_what_serves_is_looked_at() -> None:
    files = dict.fromkeys(("app/x.py", "noxfile.py", "tests/x.py"), b"import pytest, gone")

    assert imports.findings(files, lambda package: package != "gone") == [
        f"{name}:1: gone is not installed" for name in files
    ]
    assert imports.findings(files, lambda _: False) == [
        "app/x.py:1: pytest is not installed",
        "app/x.py:1: gone is not installed",
    ]


def test_core_itself_imports_nothing_that_is_not_there() -> None:
    """Of what a team writes, `python -m app check` speaks."""
    ours = ("app/core/", "app/__main__", "deploy/", "dev/", "migrations/env", "tests/core/")

    assert [line for line in imports.unresolved(ROOT) if line.startswith(ours)] == []
