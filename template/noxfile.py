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
def bench(session: nox.Session) -> None:
    """Requests/s and CPU time of each endpoint: `nox -s bench -- --against main` compares."""
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Random requests to each route for 30 s: `nox -s fuzz -- --max-time=600` for longer."""
    command = ("uv", "run", "--group=fuzz", "python", "-m", "dev", "run")
    session.run(*command, "python", "-m", "tests.core.fuzz", *session.posargs)


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of the packages in uv.lock; `-- --ignore=ID` accepts one."""
    command = ("uv", "audit", "--locked", "--preview-features=audit-command")
    session.run(*command, *session.posargs)


@nox.session(default=False)
def sbom(session: nox.Session) -> None:
    """The packages that the service runs with, as a CycloneDX document: sbom.json."""
    export = ("uv", "export", "--quiet", "--locked", "--no-dev", "--preview-features=sbom-export")
    session.run(*export, "--format=cyclonedx1.5", "--output-file=sbom.json")


@nox.session
def tests(session: nox.Session) -> None:
    """Tests on real servers, which they start; arguments after `--` replace those for pytest."""
    session.run("pytest", *(session.posargs or ["--numprocesses=auto"]))
