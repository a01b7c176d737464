"""`nox -s audit` of a rendered service, with a database of vulnerabilities on this machine."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.environments import run_uv
from tests.internals.local_http import Handler, served
from tests.variants import Answers

# A dependency of the group `dev`, so the groups are looked up as well.
VULNERABLE = "ruff"
FINDING = {
    "id": "OSV-TEST-1",
    "modified": "2026-01-01T00:00:00Z",
    "summary": "A vulnerability that only this test knows",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": VULNERABLE},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
        }
    ],
}


@contextmanager
def vulnerabilities(*findings: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """Serve the API of osv.dev with these findings; yields its URL, and the packages that it was asked for."""
    asked: set[str] = set()

    class Answering(Handler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            names = [each["package"]["name"] for each in queries]
            asked.update(names)
            self.tell({"results": [{"vulns": found(name)} for name in names]})

        def do_GET(self) -> None:
            self.tell(next(each for each in findings if self.path == f"/v1/vulns/{each['id']}"))

        def tell(self, document: dict[str, Any]) -> None:
            self.answer(200, json.dumps(document).encode())

    def found(name: str) -> list[dict[str, str]]:
        return [
            {"id": each["id"], "modified": each["modified"]}
            for each in findings
            if each["affected"][0]["package"]["name"] == name
        ]

    with served(Answering) as url:
        yield url, asked


@pytest.fixture(scope="module")
def service(rendered: Callable[[Answers], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with its uv.lock."""
    service = Path(shutil.copytree(rendered({}), tmp_path_factory.mktemp("audit") / "service"))
    assert run_uv(service, "lock", timeout_s=100).returncode == 0
    return service


def audit(service: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the session with the database at this URL, which uv asks once."""
    command = ("run", "--quiet", "nox", "-s", "audit", "--", f"--service-url={url}", *options)
    return run_uv(service, *command, timeout_s=200, UV_HTTP_RETRIES="0")


def test_a_vulnerability_fails_and_an_accepted_one_does_not(service: Path) -> None:
    with vulnerabilities(FINDING) as (url, asked):
        refused = audit(service, url)
        accepted = audit(service, url, f"--ignore={FINDING['id']}")
    with (service / "uv.lock").open("rb") as file:
        locked = {each["name"] for each in tomllib.load(file)["package"] if "registry" in each["source"]}
    assert asked == locked
    assert refused.returncode == 1
    assert re.search(rf"{VULNERABLE} \S+ has 1 known vulnerability", refused.stdout + refused.stderr)
    assert accepted.returncode == 0, accepted.stderr


def test_packages_without_vulnerabilities_pass(service: Path) -> None:
    with vulnerabilities() as (url, asked):
        process = audit(service, url)
    assert process.returncode == 0, process.stderr
    assert asked


def test_a_database_that_does_not_answer_fails_and_is_named(service: Path) -> None:
    """Without a network, packages do not count as safe."""
    with vulnerabilities() as (url, _):
        pass
    process = audit(service, url)
    output = process.stdout + process.stderr
    assert process.returncode == 1
    assert f"error sending request for url ({url}/" in output
    assert "Traceback" not in output
