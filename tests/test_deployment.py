"""The answer `deployment`: each pair of its answers with those of other questions is rendered and validated.

No Python file depends on it, so no variant is there for it. tests/internals/test_nginx.py runs two instances and nginx.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rendering import ROOT, render, with_few_files
from tests.variants import DEFAULTS, QUESTIONS, WITH_BROKER, WITHOUT_PYTHON, Answer, Answers

CHOICES = QUESTIONS["deployment"]
OTHERS = {question: answers for question, answers in QUESTIONS.items() if question not in WITHOUT_PYTHON}
SLUG = "the-orders-of-all-shops-in-every-country-of-europe"
# Row N of a choice has the answer N of each other question, so these rows have every pair.
ROWS: dict[str, Answers] = {
    f"{choice}-{number}": {question: answers[number % len(answers)] for question, answers in OTHERS.items()}
    | {"deployment": choice, "project_slug": SLUG}
    for choice in CHOICES
    for number in range(max(map(len, OTHERS.values())))
}
# Written by gunicorn's configuration: the time from SIGTERM until it kills the workers.
GRACEFUL_TIMEOUT_S = 30


def run_tool(name: str, *arguments: str | Path, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program that is installed beside this Python."""
    program = shutil.which(name, path=Path(sys.executable).parent)
    assert program, f"{name} is missing: it is in the dependency group `tests`"
    return subprocess.run(
        [program, *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def services(template: Path, once: Callable[[str, Callable[[Path], object]], Path]) -> dict[str, Path]:
    """The service of each row, without files that only a running one needs; read only."""

    def make(path: Path) -> None:
        few = with_few_files(template, path / "template")
        for name, answers in ROWS.items():
            render(few, path / name, answers)

    home = once("deployments", make)
    return {name: home / name for name in ROWS}


def of(services: dict[str, Path], *choices: str) -> list[Path]:
    return [path for name, path in services.items() if name.rpartition("-")[0] in choices]


def test_the_rows_have_every_pair_of_a_deployment_with_another_answer() -> None:
    pairs = {(row["deployment"], question, row[question]) for row in ROWS.values() for question in OTHERS}

    assert pairs == {
        (choice, question, answer) for choice in CHOICES for question in OTHERS for answer in OTHERS[question]
    }


def test_no_python_file_depends_on_the_deployment(rendered: Callable[[Answers], Path]) -> None:
    texts = []
    for choice in CHOICES:
        service = rendered(DEFAULTS | {"deployment": choice})
        texts.append({path.relative_to(service): path.read_bytes() for path in service.rglob("*.py")})

    assert len(texts[0]) > 50
    assert texts == [texts[0]] * len(CHOICES)


def test_only_the_chosen_deployment_has_files(services: dict[str, Path]) -> None:
    paths = {"Dockerfile": CHOICES[:-1], ".dockerignore": CHOICES[:-1], "compose.yaml": ("compose",)}
    for path, choices in paths.items():
        found = {name.rpartition("-")[0] for name, service in services.items() if (service / path).exists()}
        assert found == set(choices), path


# --- The image ---


def test_hadolint_finds_nothing_in_the_dockerfiles(services: dict[str, Path]) -> None:
    files = [path / "Dockerfile" for path in of(services, "docker", "compose", "kubernetes")]
    process = run_tool("hadolint", *files)

    assert process.returncode == 0, process.stdout + process.stderr


def test_the_image_is_not_root_and_holds_no_tools_of_the_build(services: dict[str, Path]) -> None:
    for service in of(services, "docker"):
        text = (service / "Dockerfile").read_text(encoding="utf-8")
        final = text.rpartition("\nFROM ")[2]
        assert "\nUSER 10001:10001\n" in final
        assert re.findall(r"COPY (.*)", final) == ["--from=build /service ./"]
        # Each of these needs a newer engine, or a network while it is built.
        assert [word for word in ("# syntax=", "<<", "curl", "apt-get") if word in text] == []
        assert re.search(r"HEALTHCHECK .*\\\n  CMD \[", final)


def test_only_named_directories_enter_the_image(services: dict[str, Path]) -> None:
    service = of(services, "docker")[0]
    lines = (service / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    assert patterns[0] == "*"
    named = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    assert named == ["app", "deploy/gunicorn.conf.py", "migrations", "pyproject.toml", "uv.lock"]
    assert "**/.env*" in patterns[patterns.index("!uv.lock") :]


# --- Compose ---


@pytest.fixture(scope="module")
def composed(services: dict[str, Path]) -> list[tuple[Answers, dict[str, Any]]]:
    """The answers and the content of each compose.yaml."""
    return [
        (ROWS[path.name], yaml.safe_load((path / "compose.yaml").read_text(encoding="utf-8")))
        for path in of(services, "compose")
    ]


def test_the_compose_files_are_valid(services: dict[str, Path]) -> None:
    files = [path / "compose.yaml" for path in of(services, "compose")]
    process = run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)

    assert process.returncode == 0, process.stdout + process.stderr


def test_the_servers_are_those_that_the_answers_need(composed: list[tuple[Answers, dict[str, Any]]]) -> None:
    for answers, content in composed:
        expected = {"nginx", "web-1", "web-2", "migrate", "postgres"}
        if answers["cache_backend"] == "valkey":
            expected |= {"cache"}
        if answers["background_jobs"] != "background_tasks":
            expected |= {"worker"}
        if answers["background_jobs"] in WITH_BROKER:
            expected |= {"broker"}
        if answers["metrics"] == "prometheus":
            expected |= {"prometheus", "grafana"}
        assert set(content["services"]) == expected
        used = set(re.findall(r"@?(\w+):(?:5432|6379)", str(content["x-environment"])))
        assert used == expected & {"postgres", "cache", "broker"}


def test_every_container_is_confined(composed: list[tuple[Answers, dict[str, Any]]]) -> None:
    for _, content in composed:
        for name, container in content["services"].items():
            assert container["read_only"] is True, name
            assert container["cap_drop"] == ["ALL"], name
            assert container["security_opt"] == ["no-new-privileges:true"], name
            assert container["mem_limit"], name
            # The service's own image has its user.
            assert "build" in container or container["user"] not in ("root", "0"), name
            assert not container["image"].endswith(":latest"), name
            assert ("ports" in container) == (name in ("nginx", "grafana")), name
            assert ("data" in container["networks"]) == (name not in ("nginx", "prometheus", "grafana")), name
        assert list(content["services"]["nginx"]["networks"]) == ["front"]
        assert content["networks"]["data"] == content["networks"]["admin"] == {"internal": True}


def test_no_variable_of_a_developer_moves_the_ports(services: dict[str, Path]) -> None:
    """.env may have HOST and PORT; compose.yaml sets those of the image again."""
    for service in of(services, "compose"):
        (line,) = re.findall(r"^ENV (HOST=.*)", (service / "Dockerfile").read_text("utf-8"), re.MULTILINE)
        image = dict(part.split("=") for part in line.split())
        environment = yaml.safe_load((service / "compose.yaml").read_text("utf-8"))["x-environment"]
        assert image | {"ADMIN_PORT": "9464"} == {name: environment[name] for name in (*image, "ADMIN_PORT")}


def test_no_container_takes_a_fixed_address(composed: list[tuple[Answers, dict[str, Any]]]) -> None:
    for _, content in composed:
        addresses = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(content["networks"]["front"]))
        subnet, given = map(IPv4Network, re.findall(r"[\d.]+/\d+", addresses))
        fixed = re.findall(r"'ipv4_address': '\$\{\w+:-([\d.]+)\}([.\d]+)'", str(content["services"]))
        assert len(fixed) == 3
        assert given.subnet_of(subnet)
        assert not any(ip_address("".join(address)) in given for address in fixed)


def test_no_secret_has_a_default(composed: list[tuple[Answers, dict[str, Any]]]) -> None:
    for _, content in composed:
        text = yaml.safe_dump(content, width=1000)
        for name in re.findall(r"\$\{(\w*(?:PASSWORD|SECRET)\w*)", text):
            assert re.search(rf"\$\{{{name}:\?", text)
            assert not re.search(rf"\$\{{{name}(?!:\?)", text)


def test_a_release_starts_after_its_migrations_and_stops_after_its_requests(
    composed: list[tuple[Answers, dict[str, Any]]],
) -> None:
    for _, content in composed:
        for name, container in content["services"].items():
            if "build" not in container:
                continue
            assert int(container["stop_grace_period"].removesuffix("s")) > GRACEFUL_TIMEOUT_S
            waits = container["depends_on"]
            if name != "migrate":
                assert waits["migrate"] == {"condition": "service_completed_successfully"}
            if name.startswith("web-"):
                # `up --wait` of a rolling deploy waits for it.
                assert "/readyz" in str(container["healthcheck"]["test"])


def test_the_cache_may_forget_and_the_broker_may_not(composed: list[tuple[Answers, dict[str, Any]]]) -> None:
    for _, content in composed:
        for name, policy in {"cache": "allkeys-lfu", "broker": "noeviction"}.items():
            if server := content["services"].get(name):
                command = " ".join(server["command"])
                assert f"--maxmemory-policy {policy}" in command
                assert ("--appendonly yes" in command) == ("volumes" in server) == (name == "broker")


def test_the_instances_fit_into_the_database(composed: list[tuple[Answers, dict[str, Any]]]) -> None:
    for answers, content in composed:
        cores = max(1, int(answers["cpu_cores"]))
        workers = max(1, int(cores * float(answers["workers_per_core"])))
        web, environment = content["services"]["web-1"], content["x-environment"]
        # Two connections for each process of the job workers, at least.
        jobs = 2 * 2 * {"background_tasks": 0, "postgres": 1}.get(str(answers["background_jobs"]), cores)
        assert web["cpus"] == cores
        assert int(web["mem_limit"].removesuffix("m")) >= workers * 160
        connections = int(environment["INSTANCES"]) * workers + jobs + 5
        assert connections <= int(environment["DATABASE_MAX_CONNECTIONS"])
        server = content["services"]["postgres"]["command"]
        assert f"max_connections={environment['DATABASE_MAX_CONNECTIONS']}" in server


def test_the_example_of_an_env_file_has_the_variables_of_compose(services: dict[str, Path]) -> None:
    for service in of(services, "compose"):
        used = set(re.findall(r"\$\{(\w+)", (service / "compose.yaml").read_text(encoding="utf-8")))
        example = (service / ".env.example").read_text(encoding="utf-8")
        assert {name for name in used if not re.search(rf"^(# )?{name}=", example, re.MULTILINE)} == set()


# --- nginx ---


@pytest.fixture
def nginx() -> str:
    """The program; the tests are skipped where there is none."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not found:
        pytest.skip("NOT TESTED WITH NGINX: run `apt-get install nginx-light`")
    return found


def test_nginx_accepts_its_configuration(
    services: dict[str, Path], composed: list[tuple[Answers, dict[str, Any]]], nginx: str, tmp_path: Path
) -> None:
    files = {(path / "deploy/nginx/nginx.conf.template").read_text("utf-8") for path in of(services, "compose")}
    assert len(files) == 1
    (text,) = files
    # The host names of an optional file of the team, too.
    (tmp_path / "site.conf").write_text("set $forwarded_proto https;\nset_real_ip_from 10.0.0.0/8;\n")
    variables: dict[str, Answer] = composed[0][1]["services"]["nginx"]["environment"] | {
        "NGINX_DIRECTORY": str(tmp_path),
        "NGINX_TEMP": str(tmp_path),
        "SERVER_NAME": "api.example.com *.example.org",
        "MAX_BODY_BYTES": "1048576",
    }
    variables["WEB_SERVERS"] = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(variables["WEB_SERVERS"]))
    filled = re.sub(r"\$\{(\w+)\}", lambda match: str(variables[match[1]]), text)
    (tmp_path / "nginx.conf").write_text(filled, encoding="utf-8")
    process = subprocess.run(
        # With the limit of most hosts, which is less than its connections need.
        ["sh", "-c", 'ulimit -Sn 1024; exec "$0" -t -c nginx.conf -p .', nginx],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )

    assert process.returncode == 0, process.stderr
    assert "[warn]" not in process.stderr
