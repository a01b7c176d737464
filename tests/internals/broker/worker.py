"""The worker of the tests: `python -m tests.internals.broker.worker`."""

from importlib import import_module

from app.settings import get_settings
from tests.internals.broker.engine import ENGINE
from tests.internals.broker.jobs import thing

if __name__ == "__main__":
    engine = import_module(f"app.core.jobs.{ENGINE}_worker")
    engine.create_worker(get_settings(), [thing])()
