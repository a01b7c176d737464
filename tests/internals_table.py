"""The tests of core's internals: which answers each file depends on, and in which variant it therefore runs.

The files lie in tests/internals/, import `app`, and run in a rendered service, into whose tests/internals/ they are
copied. A file runs once for each combination of the answers that it depends on, in the first variant that has it.
`nox -s internals` runs every file in every variant where it makes sense.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from tests.variants import DEFAULTS, QUESTIONS, VARIANTS, WITH_BROKER, Answer, Answers

SOURCE = Path(__file__).parent / "internals"
# The variants that are tested on the newest Python too.
ON_NEWEST = ("defaults", "everything")
# Packages that only these tests import.
PACKAGES = ("opentelemetry-sdk>=1.45", "py-spy>=0.4.3", "trustme>=1.2.1")

CACHED: dict[str, tuple[Answer, ...]] = {"cache_backend": ("valkey", "memory")}
VALKEY: dict[str, tuple[Answer, ...]] = {"cache_backend": ("valkey",)}
BACKGROUND: dict[str, tuple[Answer, ...]] = {"background_jobs": ("background_tasks",)}
POSTGRES: dict[str, tuple[Answer, ...]] = {"background_jobs": ("postgres",)}
BROKER: dict[str, tuple[Answer, ...]] = {"background_jobs": WITH_BROKER}
REPLICA: dict[str, tuple[Answer, ...]] = {"read_replica": (True,)}
AUTH: dict[str, tuple[Answer, ...]] = {"auth": ("jwt",)}
METRICS: dict[str, tuple[Answer, ...]] = {"metrics": ("prometheus",)}
KEYS: dict[str, tuple[Answer, ...]] = {"idempotency": (True,)}
HTTP_CLIENT: dict[str, tuple[Answer, ...]] = {"http_client": (True,)}
TRACING: dict[str, tuple[Answer, ...]] = {"tracing": (True,)}
RATE_LIMITS: dict[str, tuple[Answer, ...]] = {"rate_limits": (True,)}


@dataclass(frozen=True)
class Needs:
    """The answers that a file needs.

    `by` are the questions whose answers change what it tests: it runs for each of them. `only` says with which answers
    it makes sense at all. No other answer changes its result. `interpreter` says that its result can depend on the
    version of Python as well: on tasks, context variables, signals, threads, processes, pickling or signatures.
    """

    by: tuple[str, ...] = ()
    only: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)
    interpreter: bool = False

    def fit(self, answers: Answers) -> bool:
        return all(answers[question] in allowed for question, allowed in self.only.items())

    def combinations(self) -> list[Answers]:
        """Return every combination of the answers that the file depends on, and that a service may have."""
        choices = [self.only.get(question, QUESTIONS[question]) for question in self.by]
        every = [dict(zip(self.by, answers, strict=True)) for answers in product(*choices)]
        # Without a broker, `outbox` is no question.
        return [each for each in every if each.get("background_jobs") in WITH_BROKER or each.get("outbox", True)]


TESTS: dict[str, Needs] = {
    "broker/test_broker.py": Needs(by=("background_jobs",), only=BROKER | {"outbox": (True,)}),
    "broker/test_direct.py": Needs(by=("background_jobs",), only=BROKER | {"outbox": (False,)}),
    "broker/test_faults.py": Needs(by=("background_jobs", "outbox"), only=BROKER),
    "broker/test_relay.py": Needs(interpreter=True, only=BROKER),
    "broker/test_rq.py": Needs(only={"background_jobs": ("rq",), "outbox": (True,)}),
    "broker/test_worker.py": Needs(interpreter=True, by=("background_jobs",), only=BROKER | {"outbox": (True,)}),
    # Its programs import the driver of Valkey; `nox -s chaos` runs them in other variants as well.
    "chaos/test_judge.py": Needs(only=VALKEY),
    "replica/test_cache_rules.py": Needs(only=CACHED | REPLICA),
    "replica/test_decisions.py": Needs(interpreter=True, only=REPLICA),
    "replica/test_replica.py": Needs(interpreter=True, by=("cache_backend",), only=REPLICA),
    "jobs/test_background_tasks.py": Needs(only=BACKGROUND),
    "jobs/test_declaration.py": Needs(interpreter=True, only=POSTGRES),
    "jobs/test_execution.py": Needs(interpreter=True, only=POSTGRES),
    "jobs/test_lost.py": Needs(only=BACKGROUND),
    "jobs/test_running_jobs.py": Needs(
        by=("background_jobs",), only={"background_jobs": ("postgres", "background_tasks")}
    ),
    "jobs/test_worker.py": Needs(interpreter=True, only=POSTGRES),
    "jobs/test_worker_processes.py": Needs(interpreter=True, only=POSTGRES),
    "test_admin.py": Needs(interpreter=True),
    "test_admission.py": Needs(only=CACHED),
    "test_balance.py": Needs(interpreter=True),
    "test_benchmarks.py": Needs(by=("auth",)),
    "test_body_limit.py": Needs(),
    "test_cache.py": Needs(interpreter=True, by=("cache_backend", "read_replica"), only=CACHED),
    "test_cache_commands.py": Needs(only=VALKEY),
    "test_cache_connection.py": Needs(interpreter=True, only=VALKEY),
    "test_cache_headers.py": Needs(by=("cache_backend",)),
    "test_cache_keys.py": Needs(only=CACHED),
    "test_cache_local.py": Needs(only=CACHED),
    "test_cache_store.py": Needs(interpreter=True, by=("cache_backend",), only=CACHED),
    "test_cache_tags.py": Needs(only=CACHED),
    "test_cache_valkey.py": Needs(interpreter=True, only=VALKEY),
    "test_calls_at_a_stop.py": Needs(
        interpreter=True,
        by=("background_jobs",),
        only=HTTP_CLIENT | {"background_jobs": ("postgres", "background_tasks")},
    ),
    "test_callers.py": Needs(only=AUTH | {"example": (True,)}),
    "test_capacity.py": Needs(by=("cache_backend", "read_replica")),
    "test_check.py": Needs(interpreter=True, by=("cache_backend", "background_jobs")),
    "test_commands.py": Needs(by=("cache_backend",)),
    "test_commits.py": Needs(interpreter=True, by=("read_replica",)),
    "test_compiled.py": Needs(interpreter=True),
    "test_concurrency.py": Needs(interpreter=True),
    "test_database.py": Needs(interpreter=True, by=("read_replica",)),
    "test_deadlines.py": Needs(interpreter=True, by=("cache_backend", "read_replica")),
    "test_dev.py": Needs(by=("cache_backend", "background_jobs")),
    "test_drain.py": Needs(interpreter=True),
    "test_edge.py": Needs(only=CACHED),
    "test_errors.py": Needs(by=("read_replica",)),
    "test_example.py": Needs(only=CACHED | {"example": (True,)}),
    "test_expressions.py": Needs(by=("background_jobs",), only=METRICS | {"deployment": ("compose", "kubernetes")}),
    "test_forwarded.py": Needs(),
    "test_gate.py": Needs(interpreter=True),
    "test_guards.py": Needs(interpreter=True, by=("cache_backend",)),
    "test_health.py": Needs(interpreter=True, by=("cache_backend", "background_jobs")),
    "test_http_client.py": Needs(interpreter=True, only=HTTP_CLIENT | METRICS | TRACING),
    "test_idempotency.py": Needs(interpreter=True, by=("auth",), only=KEYS),
    "test_idempotency_callers.py": Needs(only=KEYS | AUTH),
    "test_idempotency_effects.py": Needs(only=KEYS | CACHED | POSTGRES),
    "test_hung_database.py": Needs(interpreter=True, by=("cache_backend",)),
    "test_jobs_commands.py": Needs(only=POSTGRES),
    "test_jobs_metrics.py": Needs(interpreter=True, by=("background_jobs",), only=METRICS),
    "test_killed.py": Needs(interpreter=True),
    "test_lists.py": Needs(),
    "test_logs.py": Needs(interpreter=True),
    "test_metrics.py": Needs(interpreter=True, by=("background_jobs",), only=METRICS),
    "test_migrations.py": Needs(),
    "test_nginx.py": Needs(only=VALKEY | {"example": (True,), "deployment": ("compose",)}),
    "test_overload.py": Needs(interpreter=True),
    "test_pagination_cursor.py": Needs(by=("read_replica",), only={"pagination": ("cursor",)}),
    "test_pagination_offset.py": Needs(by=("read_replica",), only={"pagination": ("offset",)}),
    "test_pgbouncer.py": Needs(by=("read_replica",)),
    "test_prepared.py": Needs(by=("read_replica",)),
    "test_problems.py": Needs(by=("cache_backend",)),
    "test_processes.py": Needs(interpreter=True),
    "test_profiling.py": Needs(interpreter=True, only={"example": (True,)}),
    "test_queries.py": Needs(by=("read_replica",)),
    "test_rate_limits.py": Needs(interpreter=True, by=("cache_backend",), only=RATE_LIMITS),
    "test_rate_limits_cached.py": Needs(by=("cache_backend",), only=CACHED | RATE_LIMITS),
    "test_rate_limits_server.py": Needs(interpreter=True, only=VALKEY | RATE_LIMITS),
    "test_read_back.py": Needs(),
    "test_redis_url.py": Needs(only=VALKEY),
    "test_repeated_hits.py": Needs(only=CACHED),
    "test_request_id.py": Needs(by=("cache_backend",)),
    "test_resources.py": Needs(interpreter=True, by=("cache_backend",)),
    "test_response_cache.py": Needs(interpreter=True, by=("cache_backend", "read_replica"), only=CACHED),
    "test_routing.py": Needs(interpreter=True),
    "test_dispatch.py": Needs(interpreter=True),
    "test_routing_matcher.py": Needs(only=CACHED),
    "test_server.py": Needs(interpreter=True),
    "test_serving.py": Needs(),
    "test_settings.py": Needs(),
    "test_streams.py": Needs(interpreter=True),
    "test_wrong_settings.py": Needs(only=VALKEY | BROKER | REPLICA),
    "test_soak.py": Needs(only=VALKEY | {"example": (True,), "auth": ("none",)}),
    "test_static_files.py": Needs(only={"static_files": (True,)}),
    "test_telemetry.py": Needs(interpreter=True, by=("cache_backend",)),
    "test_threads.py": Needs(interpreter=True),
    "test_tokens.py": Needs(interpreter=True, only=AUTH),
    "test_api_keys.py": Needs(only=AUTH),
    "test_declarations.py": Needs(only=AUTH),
    "test_tracing.py": Needs(interpreter=True, only=TRACING | CACHED | {"example": (True,)}),
    "test_watchdog.py": Needs(interpreter=True),
    "work/test_arguments.py": Needs(),
    "work/test_pools.py": Needs(only=METRICS),
    "work/test_outages.py": Needs(interpreter=True, by=("background_jobs", "outbox")),
    "test_two_instances.py": Needs(only=VALKEY | {"example": (True,)}),
}

# Shared modules, with the answers under which they can be imported.
HELPERS: dict[str, Needs] = {
    "asking.py": Needs(),
    "__init__.py": Needs(),
    "broker/__init__.py": Needs(),
    "broker/engine.py": Needs(),
    "broker/jobs.py": Needs(),
    "broker/relaying.py": Needs(only=BROKER),
    "broker/service.py": Needs(only=BROKER),
    "broker/web.py": Needs(),
    "broker/worker.py": Needs(),
    "broker_server.py": Needs(),
    "calling.py": Needs(only=HTTP_CLIENT),
    "chaos/__init__.py": Needs(),
    "chaos/__main__.py": Needs(),
    "chaos/bounds.py": Needs(),
    "chaos/client.py": Needs(),
    "chaos/faults.py": Needs(),
    "chaos/items.py": Needs(),
    "chaos/judge.py": Needs(),
    "chaos/world.py": Needs(),
    "commands.py": Needs(),
    "declared.py": Needs(),
    "computing.py": Needs(),
    "fault_proxy.py": Needs(),
    "guarded.py": Needs(only=AUTH),
    "idempotent.py": Needs(only=KEYS),
    "jobs/__init__.py": Needs(),
    "jobs/process.py": Needs(only=POSTGRES),
    "jobs/queue.py": Needs(),
    "limited.py": Needs(only=RATE_LIMITS),
    "load.py": Needs(),
    "local_http.py": Needs(),
    "logged.py": Needs(),
    "overloaded.py": Needs(),
    "postgres_server.py": Needs(),
    "replica/__init__.py": Needs(),
    "replica/servers.py": Needs(),
    "running.py": Needs(),
    "server.py": Needs(),
    "soaked.py": Needs(),
    "tables.py": Needs(),
    "transport.py": Needs(),
    "valkey_server.py": Needs(only=VALKEY),
    "work/__init__.py": Needs(),
    "work/web.py": Needs(),
}


def answers_of(variant: str) -> Answers:
    """Return the answers of a variant to all questions."""
    return DEFAULTS | VARIANTS[variant]


def variant_with(needs: Needs, combination: Answers) -> str | None:
    """Return the first variant with these answers in which the file makes sense, or None."""
    for variant in VARIANTS:
        answers = answers_of(variant)
        if needs.fit(answers) and answers.items() >= combination.items():
            return variant
    return None


def assigned(variant: str) -> list[str]:
    """Return the test files that run in this variant, so that each runs once per combination."""
    return [
        name
        for name, needs in TESTS.items()
        if variant in {variant_with(needs, combination) for combination in needs.combinations()}
    ]


def on_newest(variant: str) -> list[str]:
    """Return the test files that run in this variant on the newest Python, so that each runs once there."""
    return [
        name
        for name, needs in TESTS.items()
        if needs.interpreter and variant == next((each for each in ON_NEWEST if needs.fit(answers_of(each))), None)
    ]


def sensible(variant: str) -> list[str]:
    """Return all test files that make sense in this variant."""
    return [name for name, needs in TESTS.items() if needs.fit(answers_of(variant))]


def lay_over(service: Path, variant: str) -> None:
    """Copy the tests that make sense in this variant, and their shared modules, into a rendered service."""
    helpers = [name for name, needs in HELPERS.items() if needs.fit(answers_of(variant))]
    for name in helpers + sensible(variant):
        target = service / "tests" / "internals" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCE / name, target)
