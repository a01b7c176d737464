"""A worker of background jobs in a process of its own."""

from contextlib import AbstractContextManager

from tests.core.serving import program


def job_worker(*command: str) -> AbstractContextManager[None]:
    """Run `python -m app worker`, or another command, until the block ends."""
    return program(*(command or ("app", "worker")), is_ready=lambda log: " ready." in log)
