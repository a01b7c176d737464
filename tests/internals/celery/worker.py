"""The worker of the tests: `python -m tests.internals.celery.worker`."""

from app.core.jobs.celery_worker import create_worker
from app.settings import get_settings
from tests.internals.celery.jobs import thing

if __name__ == "__main__":
    create_worker(get_settings(), [thing])()
