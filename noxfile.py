# /// script
# requires-python = ">=3.11"
# dependencies = ["copier>=9.19", "nox[uv]>=2026.10"]
# ///
"""Every check of Slipstream is a session: `nox -j auto` runs those of CI, `nox --list` shows all.

`nox -s demo` renders a service and starts it. `nox -s "variant(defaults)"` renders one variant, makes its environment,
runs its own lint, type checks and tests on real servers, and then the tests of core's internals assigned to it.
"""

import atexit
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.claims import page as claims_page
from benchmarks.claims import results as claims_results
from tests import chaos as chaos_suite
from tests import demo as demonstration
from tests import figures, internals_table, interpreters, ownership, promises, rendering, type_cache
from tests.environments import uv_environment, uv_program
from tests.quick_copier import quicken
from tests.updates import table
from tests.variants import DEFAULTS, GROWN, HARDEST, SHELL, VARIANTS

# Hide the log of Copier's git commands.
logging.getLogger("plumbum").setLevel(logging.WARNING)

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
# Those that need the whole machine, and then those that run side by side, the longest first: no core waits at the end.
nox.options.sessions = [
    *("lint", "tests", "updated", "demo-once", "chaos-short", "bench-tests", "fastapi-suite", "newest", "variant")
]
# Read by `print_seconds`. Each session of `-j` is a process of its own that loads this file, and reports elsewhere.
REPORT = Path(tempfile.gettempdir(), f"nox-{os.getpid()}.json")
nox.options.report = str(REPORT)

DEPENDENCIES = nox.project.load_toml("pyproject.toml")["dependency-groups"]
NAMES = [nox.param(name, id=name) for name in VARIANTS]
# Of programs that start others, which would compile all that they import again at each start.
COMPILED_ONCE = {"PYTHONDONTWRITEBYTECODE": None}
SERVICES = {"TMPDIR": os.environ.get("TMPDIR")} | COMPILED_ONCE
# Of sessions side by side: the cores are taken, so each runs its tests in one process.
ONE_PROCESS = {"PYTEST_XDIST_AUTO_NUM_WORKERS": "1"}
# The same random requests each time.
FEW_REQUESTS = ("--max-examples=30", "--generation-deterministic")
NEWEST_NAMES = [nox.param(name, id=name) for name in internals_table.ON_NEWEST]


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint and types of the template's own Python, and lint of the plain files of template/."""
    session.install(*DEPENDENCIES["lint"], *DEPENDENCIES["release"])
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests of the template: questions, rendering, ownership, updates. Arguments after `--` go to pytest."""
    session.install(*DEPENDENCIES["tests"], *DEPENDENCIES["release"])
    run_tests(session, *session.posargs)


@nox.session
def thorough(session: nox.Session) -> None:
    """All tests of the template, a full fleet, and all internals in all variants and on the newest Python.

    A release requires it.
    """
    session.install(*DEPENDENCIES["tests"], *DEPENDENCIES["release"])
    run_tests(session, "-m", "")
    run_fleet(session)
    session.notify("fastapi-suite", ["--whole"])
    session.notify("chaos", ["--no-page"])
    session.notify("soak")
    for name in VARIANTS:
        session.notify(f"internals({name})")
        session.notify(f"fuzz({name})")
    for name in internals_table.ON_NEWEST:
        session.notify(f"newest-internals({name})")


@nox.session(name="fastapi-suite", python=interpreters.newest(), allow_parallel=True)
def fastapi_suite(session: nox.Session) -> None:
    """FastAPI's own tests with compiled handlers: none may differ; `-- --whole` runs all of them both ways."""
    directory = Path(session.create_tmp())
    shutil.rmtree(directory)
    directory.mkdir()
    session.install("fastapi[all]>=0.165", "pip")
    session.run("python", "tests/fastapi_suite/fetch.py", str(directory))
    source = directory / "source"
    session.install("--group", f"{source / 'pyproject.toml'}:tests")
    environment = COMPILED_ONCE | (ONE_PROCESS if session.parallel else {})
    session.run("python", "-m", "tests.fastapi_suite", str(source), str(directory), *session.posargs, env=environment)


@nox.session
def release(session: nox.Session) -> None:
    """Prepare a version: `-- 1.2.0` or `-- minor`; without one, show the changes and the smallest possible version."""
    session.install(*DEPENDENCIES["tests"], *DEPENDENCIES["release"])
    session.run("python", "-m", "releases", *session.posargs)


@nox.session
def services(session: nox.Session) -> None:
    """Report on clones of real services: `-- CLONE [CLONE ...]`, `-- --json CLONE`."""
    session.install(*DEPENDENCIES["tests"])
    session.run("python", "-m", "releases.services", *session.posargs)


@nox.session(venv_backend="none", allow_parallel=True)
@nox.parametrize("name", NAMES)
def variant(session: nox.Session, name: str) -> None:
    """One variant on the oldest supported Python: rendered, formatted, linted, type-checked and tested.

    Arguments after `--` go to pytest instead: `-- tests/internals/test_gate.py` runs this file and nothing else.
    """
    check(session, name, interpreters.oldest(), internals_table.assigned(name))


@nox.session(venv_backend="none", allow_parallel=True)
@nox.parametrize("name", NEWEST_NAMES)
def newest(session: nox.Session, name: str) -> None:
    """One variant on the newest Python of this machine, with the internals whose result can depend on it."""
    check(session, name, interpreters.newest(), internals_table.on_newest(name))


@nox.session(venv_backend="none", allow_parallel=True)
@nox.parametrize("name", NAMES)
def internals(session: nox.Session, name: str) -> None:
    """All tests of internals that make sense in this variant; `variant` runs only those assigned to it."""
    service, environment = prepare(session, name, interpreters.oldest())
    if name == "defaults":
        # Random path operations of `test_compiled.py`, which do not depend on the variant.
        environment["COMPILED_CASES"] = "10000"
        # Runs of `test_benchmarks.py` with and without a slower endpoint.
        environment["BENCH_PROOFS"] = "10"
    test_internals(session, service, name, internals_table.sensible(name), environment=environment)


@nox.session(name="newest-internals", venv_backend="none", allow_parallel=True)
@nox.parametrize("name", NEWEST_NAMES)
def newest_internals(session: nox.Session, name: str) -> None:
    """All tests of internals that make sense in this variant, and random requests, on the newest Python."""
    service, environment = prepare(session, name, interpreters.newest())
    run_fuzz(session, service, *FEW_REQUESTS, environment=environment)
    test_internals(session, service, name, internals_table.sensible(name), environment=environment)


@nox.session(venv_backend="none", allow_parallel=True)
@nox.parametrize("name", NAMES)
def fuzz(session: nox.Session, name: str) -> None:
    """Random requests to one variant for five minutes; `variant` makes the same few requests each time."""
    service, environment = prepare(session, name, interpreters.oldest())
    run_fuzz(session, service, "--max-time=300", environment=environment)


@nox.session(venv_backend="none", allow_parallel=True)
def soak(session: nox.Session) -> None:
    """An hour of load on one worker, whose memory, descriptors, connections and tasks stay; `-- 1` for a minute."""
    service, environment = prepare(session, "defaults", interpreters.oldest())
    environment["SOAK_MINUTES"] = session.posargs[0] if session.posargs else "60"
    internals_table.lay_over(service, "defaults")
    test = ("pytest", "-q", "tests/internals/test_soak.py")
    run_internals(session, service, *test, environment=environment, silent=False)


@nox.session
def fleet(session: nox.Session) -> None:
    """Services with work of their own, updated in parallel, and their suites; `-- --help` for how many and which."""
    run_fleet(session, *session.posargs)


@nox.session
def updated(session: nox.Session) -> None:
    """The fleet for CI: services of the hardest variants, and the checks that an update can break."""
    run_fleet(session, str(len(HARDEST)), "--suites=short", "--variants", *HARDEST)


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Render the defaults, start the service and send it requests; `-- --once` stops it afterwards."""
    run_demo(session, once="--once" in session.posargs)


@nox.session(name="demo-once", venv_backend="none")
def demo_once(session: nox.Session) -> None:
    """The demo for CI: it fails at the first wrong response."""
    run_demo(session, once=True)


@nox.session(venv_backend="none")
def chaos(session: nox.Session) -> None:
    """Break the servers of a service under load, judge each answer, and write docs/chaos.md.

    `-- defaults` runs one variant, `-- memory-background killed` the faults with this word, which write no page;
    `--no-page` writes none either.
    """
    names = [argument for argument in session.posargs if argument in VARIANTS]
    faults = [argument for argument in session.posargs if argument not in (*VARIANTS, "--no-page")]
    documents = {name: run_chaos(session, name, *faults) for name in names or chaos_suite.VARIANTS}
    if not faults and "--no-page" not in session.posargs:
        chaos_suite.write(documents)
    if broken := chaos_suite.breaches(documents):
        session.error("; ".join(broken))


@nox.session(name="chaos-short", venv_backend="none")
def chaos_short(session: nox.Session) -> None:
    """The chaos suite for CI: the most telling faults of one variant."""
    if broken := chaos_suite.breaches({"defaults": run_chaos(session, "defaults", "--short")}):
        session.error("; ".join(broken))


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Write docs/claims.md, docs/promises.md, the trees of docs/ownership.md, and the figures of README.md."""
    ownership.main()
    session.log(f"{ownership.PAGE.relative_to(rendering.ROOT)} shows the template as it is")
    figures.main()
    session.log(f"README.md has the figures of {figures.RESULTS.relative_to(rendering.ROOT)}")
    claims_page.main()
    session.log(
        f"{claims_page.PAGE.relative_to(rendering.ROOT)} shows {claims_results.DATA.relative_to(rendering.ROOT)}"
    )
    promises.main()
    session.log(f"{promises.PAGE.relative_to(rendering.ROOT)} shows {promises.DATA.relative_to(rendering.ROOT)}")


@nox.session(python=interpreters.newest())
def bench(session: nox.Session) -> None:
    """Measure the rendered service beside five others; `-- --quick` for an overview, `-- --help` for all options."""
    install_benchmark(session)
    session.run(
        *("python", "-m", "benchmarks", *session.posargs),
        # The rows are stored where other clones find them too, and not in nox's own directory.
        env=SERVICES,
        # After Ctrl-C, the benchmark stops its servers and writes its results.
        interrupt_timeout=60,
        terminate_timeout=30,
    )


@nox.session(python=interpreters.newest())
def claims(session: nox.Session) -> None:
    """Measure claims of common advice and write docs/claims.md: all in about ten minutes, or `-- orjson uvloop`."""
    install_benchmark(session)
    session.run("python", "-m", "benchmarks.claims", *session.posargs, env=SERVICES, interrupt_timeout=60)


@nox.session(name="bench-operations", python=interpreters.newest())
def bench_operations(session: nox.Session) -> None:
    """Measure telemetry, start-up, memory and restarts of the rendered service, and print one table."""
    install_benchmark(session)
    session.run("python", "-m", "benchmarks.operations", env=SERVICES)


@nox.session(name="bench-jobs", python=interpreters.newest())
def bench_jobs(session: nox.Session) -> None:
    """Measure background jobs by engine, process pools and the HTTP client, and print one table."""
    install_benchmark(session)
    session.run("python", "-m", "benchmarks.jobs", env=SERVICES)


@nox.session(name="bench-overload", python=interpreters.newest())
def bench_overload(session: nox.Session) -> None:
    """Measure 2x to 100x of the load of one service, without and with its limiter; write a page; four minutes."""
    install_benchmark(session)
    session.run("python", "-m", "benchmarks.overload", *session.posargs, env=SERVICES)


@nox.session(python=interpreters.newest())
def growth(session: nox.Session) -> None:
    """Measure how cost grows with rows, cache, clients and workers; write docs/performance/growth.md; `-- --quick`."""
    install_benchmark(session)
    session.run("python", "-m", "benchmarks.growth", *session.posargs, env=SERVICES)


@nox.session(name="bench-tests", python=interpreters.newest())
def bench_tests(session: nox.Session) -> None:
    """The tests of the benchmark, on real servers and with few rows. Arguments after `--` go to pytest."""
    install_benchmark(session)
    is_named = any(each.startswith("benchmarks/") for each in session.posargs)
    where = [] if is_named else ["benchmarks/tests"]
    session.run("pytest", "-rs", *where, *session.posargs, env=COMPILED_ONCE)


def run_tests(session: nox.Session, *arguments: str) -> None:
    spread = [] if session.posargs else ["--numprocesses=auto", "--dist=worksteal"]
    session.run("pytest", *spread, *arguments, env=COMPILED_ONCE)


def run_fleet(session: nox.Session, *arguments: str) -> None:
    session.install(*DEPENDENCIES["tests"])
    session.run("python", "-m", "tests.fleet", *arguments, env=COMPILED_ONCE)


def install_benchmark(session: nox.Session) -> None:
    """Install all services in one environment, so that they differ only in their own code."""
    pyproject = render(session, "defaults") / "pyproject.toml"
    session.install("--requirements", str(pyproject), "--group", f"{pyproject}:dev", *DEPENDENCIES["bench"])


def check(session: nox.Session, name: str, python: str, names: list[str]) -> None:
    """Render a variant and run its own sessions, then these internals; show their output only if one fails."""
    started = time.monotonic()
    service, environment = prepare(session, name, python)
    if name == GROWN:
        shutil.copytree("tests/grown", service, dirs_exist_ok=True)
        environment |= SHELL
    if session.posargs:
        internals_table.lay_over(service, name)
        run_internals(session, service, "pytest", *session.posargs, environment=environment, silent=False)
        return
    output = uv(session, service, "run", "nox", environment=environment)
    type_cache.keep(service)
    session.log(f"{name}: {passed(output)} on {python}; {time.monotonic() - started:.0f} s in all")
    # The routes of GROWN differ from the OpenAPI document: a team may write such ones.
    # On the newest Python, `newest-internals` sends the same requests.
    if name != GROWN and python == interpreters.oldest():
        run_fuzz(session, service, *FEW_REQUESTS, environment=environment)
    if names:
        test_internals(session, service, name, names, environment=environment)


def prepare(session: nox.Session, name: str, python: str) -> tuple[Path, dict[str, str | None]]:
    """Render a variant and make its environment; returns its directory, and the variables for uv."""
    quicken()
    service = render(session, name)
    environment = uv_environment(python)
    if session.parallel:
        environment |= ONE_PROCESS
    uv(session, service, "sync", "--quiet", environment=environment)
    type_cache.lend(service)
    return service, environment


def test_internals(
    session: nox.Session, service: Path, name: str, names: list[str], *, environment: dict[str, str | None]
) -> None:
    """Lay the internals over a service that is in order, and run these of their files with lint and types."""
    started = time.monotonic()
    internals_table.lay_over(service, name)
    paths = [f"tests/internals/{path}" for path in names]
    run_internals(session, service, "ruff", "check", "tests/internals", environment=environment)
    run_internals(session, service, "ruff", "format", "--check", "tests/internals", environment=environment)
    run_internals(session, service, "mypy", *paths, environment=environment)
    # Tests of one file share its service.
    spread = ("--numprocesses=auto", "--dist=loadfile")
    output = run_internals(session, service, "pytest", *spread, *paths, environment=environment)
    session.log(f"{name}: {passed(output)} of the internals; {time.monotonic() - started:.0f} s")


def run_fuzz(session: nox.Session, service: Path, *options: str, environment: dict[str, str | None]) -> None:
    """Run the fuzz session of a service with these options of Schemathesis; show its output only if it fails."""
    # The session calls uv.
    path = os.pathsep.join([str(Path(uv_program()).parent), os.environ["PATH"]])
    environment = environment | {"PATH": path}
    output = uv(session, service, "run", "nox", "-s", "fuzz", "--", *options, environment=environment)
    session.log(f"random requests: {', '.join(re.findall('[0-9]+ generated, .*', output))}")


def run_internals(
    session: nox.Session,
    service: Path,
    module: str,
    *arguments: str,
    environment: dict[str, str | None],
    silent: bool = True,
) -> str:
    """Run a tool in the service's environment, to which the packages of the internals are added."""
    packages = [f"--with={package}" for package in internals_table.PACKAGES]
    command = ["run", "--quiet", *packages, "python", "-m", module, *arguments]
    return uv(session, service, *command, environment=environment, silent=silent)


def passed(output: str) -> str:
    """Return pytest's lines with the number of tests."""
    return ", ".join(line.strip("= ") for line in output.splitlines() if re.search(r"\d passed\b.* in \d", line))


def render(session: nox.Session, name: str) -> Path:
    """Render a variant of the working tree into the session's temporary directory."""
    home = Path(session.create_tmp()).absolute()
    for leftover in ("template", "service"):
        shutil.rmtree(home / leftover, ignore_errors=True)
    template = rendering.snapshot(home / "template")
    service = rendering.render(template, home / "service", DEFAULTS | VARIANTS[name])
    # A repository of its own: Ruff skips what the .gitignore of this one names, as the directory of nox.
    rendering.git(service, "init", "--quiet")
    return service


def run_chaos(session: nox.Session, name: str, *arguments: str) -> chaos_suite.Document:
    """Run faults in a rendered variant; returns the document with the verdicts."""
    service, environment = prepare(session, name, interpreters.oldest())
    chaos_suite.lay_over(service)
    output = Path(session.create_tmp(), f"{name}.json").absolute()
    records = output.with_suffix("")
    packages = [f"--with={package}" for package in internals_table.PACKAGES]
    program = ["python", "-m", "tests.internals.chaos", str(output), "--keep", str(records), *arguments]
    # Exit code 1 is a broken promise, of which the page tells as well.
    with session.chdir(service):
        command = [uv_program(), "run", "--quiet", *packages, *program]
        session.run(*command, env=environment, external=True, success_codes=[0, 1])
    return chaos_suite.load(output)


def run_demo(session: nox.Session, *, once: bool) -> None:
    service = render(session, "defaults")
    environment = uv_environment(interpreters.oldest())
    uv(session, service, "sync", "--quiet", environment=environment)
    demonstration.run(service, uv_program(), environment, once=once)


def uv(
    session: nox.Session,
    service: Path,
    *arguments: str,
    environment: dict[str, str | None],
    silent: bool = True,
) -> str:
    """Run uv in the service; return its output. If `silent`, print the output only on failure."""
    with session.chdir(service):
        output = session.run(uv_program(), *arguments, env=environment, silent=silent, external=True)
    return output if isinstance(output, str) else ""


@atexit.register
def print_seconds() -> None:
    """Print how many seconds each session took: nox itself rounds to minutes."""
    if not REPORT.exists():
        return
    sessions = json.loads(REPORT.read_text(encoding="utf-8"))["sessions"]
    REPORT.unlink()
    rows = {
        (each["signatures"] or [each["name"]])[-1]: (each["result"], f"{each['duration']:.0f}") for each in sessions
    }
    if len(rows) > 1:
        print(f"\n{table('session', rows, ('result', 'seconds'))}")


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    nox.main()
