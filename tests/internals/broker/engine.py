"""The engine of the rendered service."""

from importlib.util import find_spec

ENGINE = "rq" if find_spec("rq") else "celery"
