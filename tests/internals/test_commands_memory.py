"""What `python -m app check` says of caches that are in the memory of each worker."""

import pytest

from tests.internals.commands import run


@pytest.mark.parametrize(
    ("workers", "instances", "caches"), [("1", "1", 0), ("2", "1", 2), ("1", "2", 2), ("2", "2", 4)]
)
def test_check_says_that_workers_have_caches_of_their_own(
    workers: str, instances: str, caches: int
) -> None:
    process = run("check", WEB_CONCURRENCY=workers, INSTANCES=instances, CACHE_TTL_S="42")

    assert process.returncode == 0
    assert (f"note: Each of the {caches} workers has a cache of its own" in process.stdout) == (
        caches > 1
    )
    assert ("CACHE_TTL_S = 42 s" in process.stdout) == (caches > 1)
