"""RQ: its list in the broker is a queue of RQ, whose tools show how long it is."""

from functools import partial

from app.core.jobs.broker import accept, checks, drain, opened_at, receive

__all__ = ["QUEUE", "accept", "checks", "drain", "opened", "receive"]

QUEUE = "rq:queue:{}"
opened = partial(opened_at, QUEUE)
