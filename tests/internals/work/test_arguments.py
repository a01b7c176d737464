"""The arguments of a job have a largest size."""

import pytest

from app.core.database import WriteSession
from app.core.jobs import enqueue
from app.core.jobs.declaration import MAX_ARGUMENT_BYTES
from tests.internals.broker.jobs import work
from tests.internals.jobs.queue import rows


async def test_arguments_that_are_too_large_are_refused_before_the_database(
    database: None,
) -> None:
    with pytest.raises(TypeError, match=r"jobs\.work: .* 209715212 bytes .* 1048576: pass an id"):
        async with WriteSession() as session:
            await enqueue(session, work, "x" * 200 * 1024**2)
    assert await rows() == []

    most = work.dump("x" * (MAX_ARGUMENT_BYTES - len(work.dump(""))))
    assert len(most) == MAX_ARGUMENT_BYTES
