"""Every check of this service: `uv run nox`, or one of them with `-s`."""

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"  # `uv run` has made the environment.


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint; `nox -s lint -- --fix` mends what it can."""
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict type checks."""
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, on real servers that they start; arguments after `--` go to pytest instead."""
    session.run("pytest", *(session.posargs or ["--numprocesses=auto"]))
