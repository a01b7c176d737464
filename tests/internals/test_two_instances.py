"""Two instances with two workers each, of the example's own domain, share one cache."""

import asyncio
import time

import pytest

from tests.core.serving import serving

# Of a message from one worker to another; these machines may be busy.
HEARD_S = 0.5


@pytest.mark.usefixtures("database")
async def test_two_workers_of_two_instances_see_each_others_writes() -> None:
    await asyncio.to_thread(_write_in_one_and_read_in_all)


def _write_in_one_and_read_in_all() -> None:
    ada = {"email": "ada@example.com", "name": "Ada Lovelace"}
    with serving() as one, serving() as other:
        path = f"/users/{one.post('/users', json=ada).json()['id']}"
        # A connection stays with its worker: several, so that both are asked.
        headers = {"Connection": "close"}
        for number in range(4):
            for _ in range(5):
                for instance in (one, other):
                    instance.get(path, headers=headers).raise_for_status()
            name = f"Ada {number}"
            one.patch(path, json={"name": name}).raise_for_status()
            time.sleep(HEARD_S)
            seen = {
                instance.get(path, headers=headers).json()["name"]
                for _ in range(5)
                for instance in (one, other)
            }
            assert seen == {name}
