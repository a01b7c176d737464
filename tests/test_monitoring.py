"""Alerts and panels: every expression is valid and of this service, and each alert fires when it should, and only then.

tests/internals/test_expressions.py finds every metric and label of the expressions in a live scrape.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.variants import Answers

COMPOSE: Answers = {"deployment": "compose"}
KUBERNETES: Answers = {"deployment": "kubernetes"}
# All options off that bring metrics.
LEAST: Answers = COMPOSE | {"cache_backend": "none"}
FULL: Answers = COMPOSE | {"background_jobs": "celery"}
Rendered = Callable[[Answers], Path]
Series = dict[str, str]

REQUESTS = "http_server_request_duration_seconds"
ALIVE = {"up{instance='a'}": "1x5000"}
UP = ALIVE | {"jobs_waiting{instance='a'}": "0x5000"}


def requests(good: str, bad: str) -> Series:
    """Counters of requests with and without an error; all are fast."""
    return {f"{REQUESTS}_count{{status='200'}}": good, f"{REQUESTS}_count{{status='503'}}": bad}


def slow(all_of_them: str, fast: str) -> Series:
    """Counters of requests, all without an error, and of those within 0.5 s."""
    return {f"{REQUESTS}_count{{status='200'}}": all_of_them, f"{REQUESTS}_bucket{{le='0.5'}}": fast}


def gauge(name: str, values: str) -> Series:
    return {f"{name}{{instance='a'}}": values}


# The situation: its series, one sample in a minute (`0+98x60`: 0, and 60 times 98 more), the time, the firing alerts.
SITUATIONS: dict[str, tuple[Series, str, set[str]]] = {
    "no traffic": (UP, "2h", set()),
    "1 of 2,000 fails": (UP | requests("0+1999x420", "0+1x420"), "7h", set()),
    "probes of new pods fail": (UP | {f"{REQUESTS}_count{{status='503', route='/readyz'}}": "0+10x120"}, "2h", set()),
    "2 % fail for an hour": (UP | requests("0+100x360 36098+98x59", "0x360 2+2x59"), "7h", {"RequestsFail"}),
    "and ten minutes later": (UP | requests("0+100x360 36098+98x59 41980+100x9", "0x360 2+2x59 120x9"), "7h10m", set()),
    "0.7 % fail for six hours": (UP | requests("0+993x360", "0+7x360"), "6h", {"RequestsFail", "RequestsFailForDays"}),
    "0.2 % fail for three days": (UP | requests("0+998x4320", "0+2x4320"), "3d", {"RequestsFailForDays"}),
    "one of 40 requests in an hour fails": (UP | requests("0+1x360 361+1x30", "0x360 1x30"), "6h30m", set()),
    "all of 40 requests in an hour fail": (
        UP | requests("0+1x360 360x30", "0x360 1+1x30"),
        "6h30m",
        {"RequestsFail"},
    ),
    "9 of 4,000 in three days fail": (UP | requests("0+1x4320", "0x1000 3x1000 6x1000 9x1320"), "3d", set()),
    "20 % are slow for an hour": (UP | slow("0+100x420", "0+100x360 36080+80x59"), "7h", {"RequestsSlow"}),
    "2 % are slow for three days": (UP | slow("0+100x4320", "0+98x4320"), "3d", {"RequestsSlowForDays"}),
    "0.5 % are slow": (UP | slow("0+1000x420", "0+995x420"), "7h", set()),
    "no instance": ({"up{instance='a'}": "0x9"}, "3m", {"ServiceDown"}),
    "no instance for long": ({"up{instance='a'}": "0x9"}, "7m", {"ServiceDown", "InstanceDown"}),
    "one of two instances": (UP | {"up{instance='b'}": "0x9"}, "7m", {"InstanceDown"}),
    "a restart": (UP | {"up{instance='b'}": "1 1 0 0 1x9"}, "7m", set()),
    "requests that are refused": (
        UP | gauge("http_server_refused_requests_total", "0+60x20"),
        "12m",
        {"RequestsRefused"},
    ),
    "a pool that is full": (UP | gauge("db_pool_waiting", "1x9"), "7m", {"PoolExhausted"}),
    "a pool that is full at times": (UP | gauge("db_pool_waiting", "1 1 0 1 1 1 0 1"), "7m", set()),
    "a pool that is full in the first sample": (UP | gauge("db_pool_waiting", "_ _ _ 1"), "3m", set()),
    "a blocked event loop": (UP | gauge("event_loop_lag_seconds", "0.01 0.01 0.6x9"), "8m", {"EventLoopBlocked"}),
    "an event loop that was blocked once": (UP | gauge("event_loop_lag_seconds", "0.01 0.6 0.6 0.01x9"), "3m", set()),
    "a busy event loop": (UP | gauge("event_loop_lag_seconds", "0.3x9"), "5m", set()),
    "workers that end at once": (
        UP | gauge("app_workers", "2x20") | gauge("app_worker_starts_total", "2+1x20"),
        "16m",
        {"WorkersRestart"},
    ),
    "one reload of two workers": (
        UP | gauge("app_workers", "2x20") | gauge("app_worker_starts_total", "2x5 4x15"),
        "16m",
        set(),
    ),
    "no cache": (UP | gauge("cache_server_up", "0x9"), "7m", {"CacheDown"}),
    "a restart of the cache": (UP | gauge("cache_server_up", "0 0 1x9"), "7m", set()),
    "jobs that wait": (
        UP | gauge("jobs_oldest_age_seconds", "301x9") | {"jobs_oldest_age_seconds{instance='b'}": "301x9"},
        "1m",
        {"JobsWait"},
    ),
    "jobs that run": (UP | gauge("jobs_oldest_age_seconds", "0 100 200 300 0x9"), "7m", set()),
    "jobs that failed": (UP | gauge("jobs_dead", "1x9") | {"jobs_dead{instance='b'}": "1x9"}, "7m", {"JobsFail"}),
    "jobs that failed and ran again": (UP | gauge("jobs_dead", "1 1 1 0x9"), "7m", set()),
    "jobs without a worker": (
        ALIVE | gauge("jobs_waiting", "1x20") | {"jobs_total{instance='a', outcome='succeeded'}": "7x20"},
        "15m",
        {"JobsStop"},
    ),
    "jobs with a slow worker": (
        ALIVE | gauge("jobs_waiting", "9x20") | {"jobs_total{instance='a', outcome='failed'}": "7+1x20"},
        "15m",
        set(),
    ),
    "no broker": (ALIVE | {"up{instance='b'}": "1x9"}, "7m", {"BrokerDown"}),
    "a restart of the broker": (ALIVE | gauge("jobs_waiting", "0 0 _ _ 0x9"), "7m", set()),
}


def rules(service: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((service / "deploy/prometheus/rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(service: Path) -> list[dict[str, Any]]:
    text = (service / "deploy/grafana/dashboards/service.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)["panels"]
    return found


def promtool(directory: Path, *arguments: str) -> None:
    program = shutil.which("promtool")
    if not program:
        pytest.skip("promtool is missing: it is part of Prometheus (apt install prometheus)")
    process = subprocess.run([program, *arguments], cwd=directory, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def test_each_alert_fires_when_it_should_and_only_then(rendered: Rendered, tmp_path: Path) -> None:
    service = rendered(FULL)
    alerts = {rule["alert"] for rule in rules(service) if "alert" in rule}
    assert alerts == set().union(*(firing for _, _, firing in SITUATIONS.values()))
    shutil.copy(service / "deploy/prometheus/rules.yml", tmp_path)
    # The longer a situation, the fewer evaluations: three days with one in each minute would take a minute.
    for unit, interval in {"m": "1m", "h": "10m", "d": "30m"}.items():
        tests = [
            promtool_test(name) for name, (_, time, _) in SITUATIONS.items() if time.strip("0123456789")[0] == unit
        ]
        content = {"rule_files": ["rules.yml"], "evaluation_interval": interval, "tests": tests}
        (tmp_path / f"{unit}.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    promtool(tmp_path, "test", "rules", "m.yml", "h.yml", "d.yml")


def promtool_test(situation: str) -> dict[str, Any]:
    """Return a test of `promtool test rules`: it compares all alerts that fire."""
    every, time, firing = SITUATIONS[situation]
    return {
        "name": situation,
        "interval": "1m",
        "input_series": [
            {"series": f"{series.removesuffix('}')}, job='my-service'}}", "values": values}
            for series, values in every.items()
        ],
        "promql_expr_test": [
            {
                "expr": "count by (alertname) (ALERTS{alertstate='firing'})",
                "eval_time": time,
                "exp_samples": [{"labels": f"{{alertname='{alert}'}}", "value": 1} for alert in sorted(firing)],
            }
        ],
    }


@pytest.mark.parametrize("answers", [COMPOSE, LEAST, FULL])
def test_prometheus_accepts_the_files(rendered: Rendered, answers: Answers) -> None:
    promtool(rendered(answers) / "deploy/prometheus", "check", "config", "prometheus.yml")


@pytest.mark.parametrize("answers", [COMPOSE, LEAST, FULL])
def test_every_expression_is_of_this_service_only(rendered: Rendered, answers: Answers) -> None:
    """A Prometheus has the metrics of many services: each selector names the job."""
    service = rendered(answers)
    expressions = [rule["expr"] for rule in rules(service)]
    expressions += [target["expr"] for panel in panels(service) for target in panel["targets"]]
    recorded = {rule["record"] for rule in rules(service) if "record" in rule}
    for expression in expressions:
        parsed = promql_parser.parse(expression.replace("$__rate_interval", "1m"))
        for selector in selectors(parsed):
            matchers = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
            assert matchers["job"] == "my-service", expression
            assert ":" not in selector.name or selector.name in recorded, expression


def selectors(expression: Any) -> list[Any]:
    """Return all selectors of series in a parsed expression."""
    found = [expression] if isinstance(expression, promql_parser.VectorSelector) else []
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (inner := getattr(expression, name, None)) is not None:
            found += selectors(inner)
    for argument in getattr(expression, "args", None) or ():
        found += selectors(argument)
    return found


def test_each_alert_says_what_is_wrong_and_what_to_do(rendered: Rendered) -> None:
    for rule in rules(rendered(COMPOSE)):
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"].keys() == {"summary", "description"}
            assert all(text.endswith(".") for text in rule["annotations"].values())


@pytest.mark.parametrize(("engine", "aggregation"), [("background_tasks", "sum"), ("postgres", "max")])
def test_jobs_of_a_shared_queue_count_once(rendered: Rendered, engine: str, aggregation: str) -> None:
    """Each instance has the numbers of the one table; jobs in the memory of a web process are its own."""
    service = rendered(COMPOSE | {"background_jobs": engine})
    text = (service / "deploy/grafana/dashboards/service.json").read_text(encoding="utf-8")
    assert '"max by (outcome) (rate(jobs_total{' in text
    assert f'"{aggregation}(jobs_waiting{{' in text


def test_prometheus_asks_each_instance_by_its_name(rendered: Rendered) -> None:
    """An instance that is down has no address in DNS, so its name alone keeps `up` at 0."""
    service = rendered(COMPOSE)
    (scraped,) = yaml.safe_load((service / "deploy/prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    content = yaml.safe_load((service / "compose.yaml").read_text("utf-8"))
    port = content["x-environment"]["ADMIN_PORT"]
    web = [name for name in content["services"] if name.startswith("web-")]
    assert scraped["static_configs"] == [{"targets": [f"{name}:{port}" for name in web]}]
    for name in ("prometheus", *web):
        assert "admin" in content["services"][name]["networks"]


@pytest.mark.parametrize("answers", [COMPOSE, LEAST])
def test_panels_lie_beside_each_other(rendered: Rendered, answers: Answers) -> None:
    fields = []
    for panel in panels(rendered(answers)):
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        assert x + w <= 24
        fields.append({(column, row) for column in range(x, x + w) for row in range(y, y + h)})
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert not any(one & other for one, other in combinations(fields, 2))


def test_kubernetes_has_the_same_rules_and_panels(rendered: Rendered) -> None:
    compose, kubernetes = rendered(COMPOSE), rendered(KUBERNETES)
    plain = yaml.safe_load((compose / "deploy/prometheus/rules.yml").read_text(encoding="utf-8"))
    custom = yaml.safe_load((kubernetes / "deploy/kubernetes/monitoring/rules.yaml").read_text(encoding="utf-8"))
    assert custom["spec"] == plain
    assert panels(kubernetes) == panels(compose)
