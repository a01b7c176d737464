"""The Celery application that `python -m app worker` loads."""

import app.api  # noqa: F401 - declares the jobs of all domains
from app.core.jobs.worker import create_worker
from app.resources import RESOURCES
from app.settings import get_settings

celery = create_worker(get_settings(), RESOURCES)
