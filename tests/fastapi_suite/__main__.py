"""Run FastAPI's own tests with compiled handlers, and compare them with its own, test by test.

The tests of the source distribution run with compiled handlers; those that do not pass run again with FastAPI's own,
and then once more with compiled ones, because some tests depend on time. `--whole` runs all of them both ways.
"""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent
# The least share of the path operations that must be compiled: a suite that compiles none proves nothing.
SHARE = 1 / 3

# Tests that look at the way instead of the answer, each with the reason.
EXPECTED = {
    "tests/test_tutorial/test_body/test_tutorial001.py::test_other_exceptions[tutorial001]": (
        "replaces json.loads, which compiled handlers call for invalid JSON only"
    ),
}


class Suite:
    """The suite of a source distribution; reports go to `directory`."""

    def __init__(self, source: Path, directory: Path) -> None:
        self.source = source
        self.directory = directory

    def run(self, *tests: str, compiled: bool) -> dict[str, str]:
        """Return the outcome of each test, or of these."""
        report = self.directory / "report.xml"
        report.unlink(missing_ok=True)
        arguments = ["-q", "--numprocesses=auto", "--override-ini=addopts=", "-p", "no:sugar"]
        arguments += [f"--junitxml={report}", "--override-ini=junit_family=xunit1"]
        path = [str(PLUGIN), str(ROOT / "template")] if compiled else []
        if compiled:
            arguments += ["-p", "compiled_plugin"]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "COMPILED_COUNTS": str(self.directory / "counts"),
        }
        command = [sys.executable, "-m", "pytest", *arguments, *(tests or ["tests"])]
        subprocess.run(command, cwd=self.source, env=environment, check=False, stdout=subprocess.DEVNULL)
        return outcomes(report)

    def counts(self, kind: str = "json") -> Counter[str]:
        """Return the number of path operations by their reason, or as `compiled`; or of requests."""
        found: Counter[str] = Counter()
        for path in (self.directory / "counts").glob(f"*.{kind}"):
            found.update(json.loads(path.read_text()))
        return found


def outcomes(report: Path) -> dict[str, str]:
    """Return the outcome of each test of a report, under a name that pytest takes."""
    found = {}
    # pytest wrote it in this run.
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314
        file = case.get("file", "")
        # The dotted name of the module, and that of a class in it.
        scopes = case.get("classname", "").removeprefix(file.removesuffix(".py").replace("/", ".")).split(".")
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found["::".join([file, *filter(None, scopes), case.get("name", "")])] = kinds[0] if kinds else "passed"
    return found


def differences(suite: Suite, *, whole: bool) -> dict[str, tuple[str, str]]:
    """Return the tests whose outcomes differ: FastAPI's own, and that with compiled handlers."""
    compiled = suite.run(compiled=True)
    print_outcomes("compiled", compiled)
    doubtful = sorted(name for name, outcome in compiled.items() if outcome in ("failure", "error"))
    if whole:
        stock = suite.run(compiled=False)
        print_outcomes("FastAPI's own", stock)
        names = stock.keys() | compiled.keys()
        doubtful = sorted(name for name in names if stock.get(name) != compiled.get(name))
    if not doubtful:
        return {}
    # Once more, alone: tests with a time limit fail on a busy machine.
    stock, compiled = suite.run(*doubtful, compiled=False), suite.run(*doubtful, compiled=True)
    pairs = {name: (stock.get(name, "absent"), compiled.get(name, "absent")) for name in doubtful}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and name not in EXPECTED}


def print_outcomes(title: str, found: dict[str, str]) -> None:
    print(title, dict(Counter(found.values())), flush=True)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the unpacked source distribution")
    parser.add_argument("directory", type=Path, help="for reports")
    parser.add_argument("--whole", action="store_true", help="run all tests both ways")
    options = parser.parse_args()
    suite = Suite(options.source.resolve(), options.directory.resolve())
    found = differences(suite, whole=options.whole)
    counts = suite.counts()
    share = counts["compiled"] / max(1, counts.total())
    print(
        f"FastAPI {version('fastapi')}: {counts['compiled']} of {counts.total()} path operations compiled ({share:.0%})"
    )
    print("requests:", dict(suite.counts("requests")))
    for reason, count in counts.most_common(8):
        print(f"  {count:5} {reason}")
    for name, reason in EXPECTED.items():
        print(f"not compared: {name} {reason}")
    for name, (stock, compiled) in found.items():
        print(f"differs: {name}: {stock} with FastAPI's own handlers, {compiled} with compiled ones")
    if found or share < SHARE:
        sys.exit(1)


if __name__ == "__main__":
    main()
