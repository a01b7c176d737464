"""The engine of the rendered service."""

from importlib.util import find_spec

ENGINES = ("celery", "rq", "postgres", "background_tasks")
ENGINE = next(name for name in ENGINES if find_spec(f"app.core.jobs.{name}"))
