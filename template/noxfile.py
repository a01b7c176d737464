"""The checks of this service: `uv run nox` runs all, `uv run nox -s lint` one."""

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"  # `uv run` made the environment.


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint; `nox -s lint -- --fix` repairs what can be repaired."""
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict type checks."""
    session.run("mypy")


@nox.session(default=False)
def profile(session: nox.Session) -> None:
    """Flame graph or memory under load: `nox -s profile -- cpu`, gil, native or memory."""
    command = ("uv", "run", "--group=profile", "python", "-m", "dev", "run")
    session.run(*command, "python", "-m", "dev.profiling", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Random requests to each route for 30 s: `nox -s fuzz -- --max-time=600` for longer."""
    command = ("uv", "run", "--group=fuzz", "python", "-m", "dev", "run")
    session.run(*command, "python", "-m", "tests.core.fuzz", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Tests on real servers, which they start; arguments after `--` replace those for pytest."""
    session.run("pytest", *(session.posargs or ["--numprocesses=auto"]))
