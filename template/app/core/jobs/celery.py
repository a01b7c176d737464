"""Celery: the key of its list in the broker is the name of the queue."""

from functools import partial

from app.core.jobs.broker import accept, checks, drain, opened_at, receive

__all__ = ["QUEUE", "accept", "checks", "drain", "opened", "receive"]

QUEUE = "{}"
opened = partial(opened_at, QUEUE)
