"""Measures the rendered service beside four others: `nox -s bench`, or `python -m benchmarks` in its environment.

Writes results.json, results.md and plots; Ctrl-C keeps what was measured. A request that fails is counted, a service
that dies is an error.
"""

import signal
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from dev.processes import ServerUnavailable, workspace

from benchmarks.harness import drivers, machine, output, report
from benchmarks.harness.answers import AnswersDiffer
from benchmarks.harness.arguments import parse
from benchmarks.harness.cluster import ClusterInUse
from benchmarks.harness.environment import environment
from benchmarks.harness.progress import Progress
from benchmarks.harness.results import Results
from benchmarks.harness.runner import Runner
from benchmarks.harness.seeding import UnusableServer
from benchmarks.harness.services import ServiceDied
from tests.rendering import ROOT, git

ERRORS = (AnswersDiffer, ClusterInUse, UnusableServer, ServerUnavailable, ServiceDied, drivers.DriverError)
PACKAGES = (
    *("fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "gunicorn", "sqlalchemy", "asyncpg"),
    *("psycopg", "orjson", "redis", "cashews", "aiohttp", "httpx"),
)


def main() -> int:
    """Returns the exit code: 0, 1 after an error, 130 when interrupted."""
    arguments = parse(sys.argv[1:])
    try:
        output.prepare(arguments.output)
    except OSError as error:
        print(f"--output: {error}", file=sys.stderr)
        return 2
    plan = arguments.plan
    started_at, started = datetime.now(UTC), time.monotonic()
    runner: Runner | None = None
    versions: dict[str, str] = {}
    accountable, code = True, 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Progress() as progress, workspace() as home:
            shared = environment(
                home,
                plan.size,
                plan.depth,
                progress.say,
                database_url=arguments.database_url,
                cache_url=arguments.cache_url,
            )
            with shared as prepared:
                versions, accountable = dict(prepared.server_versions), prepared.accountable
                runner = Runner(plan, prepared, arguments.driver, progress)
                runner.run()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 130
    except ERRORS as error:
        print(error, file=sys.stderr)
        code = 1
    if runner is None or not (runner.measurements or runner.probes):
        return code
    results = Results(
        started_at=started_at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        complete=code == 0,
        machine=machine.describe(),
        versions=package_versions() | versions,
        settings=plan.settings()
        | {"client": arguments.driver.version, "template": template_version(), "own_servers": accountable},
        services=plan.titles,
        scenarios=plan.scenarios,
        measurements=runner.measurements,
        probes=runner.probes,
    )
    written = output.write(results, arguments.output)
    print(*(f"\n{table}" for table in report.main_tables(results)), "", *written, sep="\n")
    return code


def package_versions() -> dict[str, str]:
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def template_version() -> str:
    """The commit that was measured, and whether the working tree differs from it."""
    try:
        return git(ROOT, "describe", "--tags", "--always", "--dirty").strip()
    except (RuntimeError, OSError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
