"""A job that does nothing, and counts its runs in this process."""

from app.core.jobs import job

counts = {"nothing": 0}


@job
async def nothing(number: int) -> None:
    """Count one run."""
    counts["nothing"] += 1
