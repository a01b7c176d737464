"""The one list of variants, the answers to each question, and the words that each answer may bring.

noxfile.py makes a session of every variant; the tests prove that the variants cover every pair of answers.
"""

from collections.abc import Callable
from itertools import combinations

Answer = str | int | float | bool
Answers = dict[str, Answer]

# Every answer of a question with choices, and for a number its default and one other.
QUESTIONS: dict[str, tuple[Answer, ...]] = {
    "cache_backend": ("valkey", "memory", "none"),
    "background_jobs": ("postgres", "background_tasks", "celery", "rq"),
    "pagination": ("cursor", "offset"),
    "cpu_cores": (0, 2),
    "auth": ("none", "jwt"),
    "deployment": ("docker", "compose", "kubernetes", "none"),
    "ci": ("github", "gitlab", "none"),
    "example": (True, False),
    "workers_per_core": (1.0, 1.5),
    "db_max_connections": (100, 400),
    "instances": (1, 30),
    "read_replica": (False, True),
    "rate_limits": (False, True),
    "idempotency": (False, True),
    "static_files": (False, True),
    "metrics": ("prometheus", "none"),
    "tracing": (False, True),
    "http_client": (True, False),
    "outbox": (True, False),
}
# Engines that send jobs to a broker; only they have the question `outbox`.
WITH_BROKER = ("celery", "rq")
# No Python file depends on these: tests/test_deployment.py renders each pair of their answers with those of others, and
# no variant is there for them.
WITHOUT_PYTHON = ("deployment",)
# Free text: its effect is tested by tests/test_questions.py, and it excludes no other answer.
TEXT_QUESTIONS = ("project_name", "description", "project_slug")

DEFAULTS: Answers = {question: answers[0] for question, answers in QUESTIONS.items()}

# The answers that differ from the defaults.
VARIANTS: dict[str, Answers] = {
    "defaults": {},
    "minimum": {
        "cache_backend": "none",
        "background_jobs": "background_tasks",
        "pagination": "offset",
        "deployment": "none",
        "ci": "none",
        "example": False,
        "tracing": True,
        "http_client": False,
    },
    "everything": {
        "project_name": "Every Thing 2.0",
        "description": "It's 100 % <everything> & {{ more }}",
        "project_slug": "everything",
        "background_jobs": "celery",
        "auth": "jwt",
        "deployment": "compose",
        "ci": "gitlab",
        "workers_per_core": 1.5,
        "db_max_connections": 400,
        "instances": 30,
        "read_replica": True,
        "rate_limits": True,
        "idempotency": True,
        "static_files": True,
        "tracing": True,
    },
    "memory-celery": {
        "cache_backend": "memory",
        "background_jobs": "celery",
        "cpu_cores": 2,
        "auth": "jwt",
        "deployment": "kubernetes",
        "ci": "none",
        "example": False,
        "instances": 30,
        "static_files": True,
        "metrics": "none",
        "outbox": False,
    },
    "none-rq": {
        "cache_backend": "none",
        "background_jobs": "rq",
        "pagination": "offset",
        "cpu_cores": 2,
        "auth": "jwt",
        "deployment": "compose",
        "ci": "gitlab",
        "workers_per_core": 1.5,
        "rate_limits": True,
        "static_files": True,
        "metrics": "none",
        "outbox": False,
    },
    "none-celery": {
        # Also the name of a package on which the service depends.
        "project_slug": "celery",
        "cache_backend": "none",
        "background_jobs": "celery",
        "pagination": "offset",
        "deployment": "kubernetes",
        "read_replica": True,
        "idempotency": True,
        "tracing": True,
        "http_client": False,
        "outbox": False,
    },
    "rq": {
        "project_slug": "rq",
        "background_jobs": "rq",
        "pagination": "offset",
        "cpu_cores": 2,
        "deployment": "compose",
        "ci": "none",
        "workers_per_core": 1.5,
        "db_max_connections": 400,
        "instances": 30,
        "read_replica": True,
        "static_files": True,
        "metrics": "none",
        "tracing": True,
        "http_client": False,
        "outbox": False,
    },
    "memory-background": {
        "cache_backend": "memory",
        "background_jobs": "background_tasks",
        "cpu_cores": 2,
        "auth": "jwt",
        "deployment": "compose",
        "workers_per_core": 1.5,
        "db_max_connections": 400,
        "instances": 30,
        "read_replica": True,
        "rate_limits": True,
        "idempotency": True,
        "static_files": True,
        "metrics": "none",
    },
    "memory-rq": {
        "cache_backend": "memory",
        "background_jobs": "rq",
        "auth": "jwt",
        "deployment": "kubernetes",
        "example": False,
        "instances": 30,
        "read_replica": True,
        "rate_limits": True,
        "idempotency": True,
    },
    "memory-postgres": {
        "cache_backend": "memory",
        "pagination": "offset",
        "deployment": "compose",
        "ci": "gitlab",
        "example": False,
        "workers_per_core": 1.5,
        "db_max_connections": 400,
        "read_replica": True,
        "rate_limits": True,
        "idempotency": True,
        "metrics": "none",
        "tracing": True,
        "http_client": False,
    },
    "none-postgres": {
        "cache_backend": "none",
        "cpu_cores": 2,
        "auth": "jwt",
        "deployment": "kubernetes",
        "ci": "none",
        "db_max_connections": 400,
        "instances": 30,
        "rate_limits": True,
        "idempotency": True,
        "static_files": True,
        "http_client": False,
    },
    "grown": {
        "project_name": "The Orders of All Shops in Every Country of Europe",
        "description": "Orders’ service – 3 × “fast”, 注文サービス、それは速い。注文サービス、それは速い。注文",
        "project_slug": "the-orders-of-all-shops-in-every-country-of-europe",
        "background_jobs": "background_tasks",
        "pagination": "offset",
        "cpu_cores": 2,
        "deployment": "kubernetes",
        "ci": "gitlab",
        "example": False,
        "db_max_connections": 400,
        "instances": 30,
        "read_replica": True,
        "idempotency": True,
    },
}

# `variant(grown)` adds the files of a team, tests/grown/, and runs the checks in a shell with these variables.
GROWN = "grown"
SHELL = {
    "DATABASE_MAX_CONNECTIONS": "3",
    "DATABASE_URL_FILE": "/nowhere",
    "INSTANCES": "700",
    "LOG_LEVEL": "nonsense",
    "PGHOST": "nowhere",
    "PGSSLMODE": "require",
}

# Together they have every answer to a question that brings or takes paths: CI updates these, `thorough` all.
HARDEST = ("defaults", "everything", "minimum", "none-rq", "memory-postgres")

# The words that only some answers may bring into the rendered files and their names: a pattern (case does not
# matter), and the answers with which it may, and must, occur.
TRACES: dict[str, Callable[[Answers], bool]] = {
    r"redis|valkey": lambda answers: answers["cache_backend"] == "valkey" or answers["background_jobs"] in WITH_BROKER,
    r"cache_url|cache_prefix|sharedcache|allkeys-lfu`|cache/valkey": lambda answers: (
        answers["cache_backend"] == "valkey"
    ),
    r"cache of its own": lambda answers: answers["cache_backend"] == "memory",
    # Every service declares policies with app.core.cache, and sends Cache-Control.
    r"cache/(store|valkey|local|keys|entry)|\bcached\b|cache_(ttl|max|version)|invalidate_after": lambda answers: (
        answers["cache_backend"] != "none"
    ),
    r"cachesettings|responsecache|(?<!py)test_(response_)?cache|\bttl_s\b": lambda answers: (
        answers["cache_backend"] != "none"
    ),
    r"celery|kombu": lambda answers: answers["background_jobs"] == "celery",
    r"\brq\b": lambda answers: answers["background_jobs"] == "rq",
    r"broker|job_queue|job_process": lambda answers: answers["background_jobs"] in WITH_BROKER,
    r"app/worker": lambda answers: answers["background_jobs"] != "background_tasks",
    r"jobs[./]outbox": lambda answers: answers["background_jobs"] in WITH_BROKER and bool(answers["outbox"]),
    r"jobs[./]direct": lambda answers: answers["background_jobs"] in WITH_BROKER and not answers["outbox"],
    r"jobs[./]postgres": lambda answers: answers["background_jobs"] == "postgres",
    # Not those of FastAPI, which handlers may take.
    r"background_tasks(?!_param)|job_backlog": lambda answers: answers["background_jobs"] == "background_tasks",
    r"job_concurrency": lambda answers: answers["background_jobs"] not in WITH_BROKER,
    # Not SQLAlchemy's CursorResult and before_cursor_execute.
    r"cursor(?!result|_execute)|keyset": lambda answers: answers["pagination"] == "cursor",
    r"offset": lambda answers: answers["pagination"] == "offset",
    # Not the numbers of pods in Kubernetes.
    r"(?<!min)(?<!max)replica(?!s:)|lsn": lambda answers: bool(answers["read_replica"]),
    r"static_(files|url|directory)|servestatic|app/static": lambda answers: bool(answers["static_files"]),
    r"\bjwt\b|\bprincipal\b|security/(tokens|api_keys)": lambda answers: answers["auth"] == "jwt",
    r"rate_?limits?\b": lambda answers: bool(answers["rate_limits"]),
    # Not the keys of jobs and of outgoing calls.
    r"idempotency-key|idempotency_lifetime|http/idempotency|idempotent(_answer|session)": lambda answers: bool(
        answers["idempotency"]
    ),
    r"dockerfile|dockerignore|docker build": lambda answers: answers["deployment"] != "none",
    r"compose\.yaml|docker compose|deploy/nginx": lambda answers: answers["deployment"] == "compose",
    r"deploy/kubernetes|kustomiz|kubectl": lambda answers: answers["deployment"] == "kubernetes",
    r"grafana|promql|prometheus/|rules\.ya?ml": lambda answers: (
        answers["metrics"] == "prometheus" and answers["deployment"] in ("compose", "kubernetes")
    ),
    # Not the metrics of CPU by which Kubernetes scales.
    r"prometheus|(?<!\")\bmetrics\b(?!:$)": lambda answers: answers["metrics"] == "prometheus",
    r"opentelemetry[-.]|otlp|otel_|\btracing\b": lambda answers: bool(answers["tracing"]),
    r"aiohttp|http_client|public_http|http_(total|retries|private|offline)": lambda answers: bool(
        answers["http_client"]
    ),
    # The short forms of Copier are in dev/template_update.sh.
    r"github(?!\.com/\|)|\bgh\b(?!:)|pull.request": lambda answers: answers["ci"] == "github",
    r"gitlab(?!\.com/\|)|merge.request": lambda answers: answers["ci"] == "gitlab",
    r"template.update": lambda answers: answers["ci"] != "none",
    # Not the files and words of Grafana.
    r"\bposts\b|postread|(?<!grafana_)dashboard(?!s)|welcome|app/users|app\.users|(?<!hash)seed": lambda answers: bool(
        answers["example"]
    ),
}


def pairs(answers: Answers) -> set[frozenset[tuple[str, Answer]]]:
    """All pairs of answers that shape Python, each with its question, that occur together in `answers`."""
    complete = DEFAULTS | {key: answers[key] for key in answers if key in QUESTIONS}
    shaping = [(key, answer) for key, answer in complete.items() if key not in WITHOUT_PYTHON]
    return {frozenset(pair) for pair in combinations(shaping, 2)}


def all_pairs() -> set[frozenset[tuple[str, Answer]]]:
    """All pairs of answers that shape Python and may occur together."""
    every = {
        frozenset({(one, answer), (other, other_answer)})
        for one, other in combinations([key for key in QUESTIONS if key not in WITHOUT_PYTHON], 2)
        for answer in QUESTIONS[one]
        for other_answer in QUESTIONS[other]
    }
    engines = set(QUESTIONS["background_jobs"]) - set(WITH_BROKER)
    return every - {frozenset({("outbox", False), ("background_jobs", engine)}) for engine in engines}
