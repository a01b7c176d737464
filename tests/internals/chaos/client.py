"""Clients that write, read and enqueue at a steady rate, and record each answer.

`python -m tests.internals.chaos.client URL`: until SIGTERM; then each client reads every item once
more. Each record is a line of JSON on standard output, an `Event` of `judge.py`. Times are those of
the monotonic clock, which all processes of a machine share.
"""

import asyncio
import json
import random
import signal
import sys
import time
from uuid import uuid4

import httpx2

from tests.internals.chaos.bounds import CACHED_S
from tests.internals.chaos.judge import ITEMS, USERS, Event, text_of

# Of one client; together they send 120 requests a second.
INTERVAL_S = 0.1
TIMEOUT_S = 20.0
# In a hundred requests.
MIX = {"cached": 40, "read": 20, "write": 30, "entry": 10}


class User:
    """One client with a connection of its own; only it writes the items `number` modulo `USERS`."""

    def __init__(self, number: int, url: str, stopping: asyncio.Event) -> None:
        self._number = number
        self._stopping = stopping
        self._random = random.Random(number)  # noqa: S311 - no secret
        self._client = httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S)
        # Of the last answer that had one.
        self._headers: dict[str, str] = {}

    async def run(self) -> None:
        async with self._client:
            await asyncio.sleep(INTERVAL_S * self._number / USERS)
            while not self._stopping.is_set():
                began = time.monotonic()
                (kind,) = self._random.choices([*MIX], [*MIX.values()])
                await self._request(kind, self._random.randrange(ITEMS))
                await asyncio.sleep(max(0.0, INTERVAL_S - (time.monotonic() - began)))
            await asyncio.sleep(CACHED_S + 0.1)
            for kind in ("read", "cached"):
                for item in range(ITEMS):
                    await self._request(kind, item)

    async def _request(self, kind: str, item: int) -> None:
        began = time.monotonic()
        key, sent = str(item), 0
        match kind:
            case "cached" | "read":
                path = f"/chaos/{'cached' if kind == 'cached' else 'items'}/{item}"
                request = self._client.build_request("GET", path, headers=self._headers)
            case "write":
                item -= item % USERS - self._number
                key, sent = str(item), int(began * 1_000_000)
                body = {"version": sent, "text": text_of(item, sent)}
                request = self._client.build_request("PUT", f"/chaos/items/{item}", json=body)
            case _:
                key = str(uuid4())
                request = self._client.build_request("POST", f"/chaos/entries/{key}")
        outcome, shown = await self._send(request, item)
        event = Event(self._number, kind, key, sent, began, time.monotonic(), outcome, shown)
        print(json.dumps(event), flush=True)

    async def _send(self, request: httpx2.Request, item: int) -> tuple[str, int]:
        """Return the status or the name of the error, and the version that was shown or 0."""
        try:
            response = await self._client.send(request)
        except httpx2.TransportError as error:
            return type(error).__name__, 0
        if (seen := response.headers.get("commit-lsn")) and request.method != "GET":
            self._headers = {"Commit-LSN": seen}
        status = str(response.status_code)
        if response.is_error:
            is_problem = response.headers.get("content-type") == "application/problem+json"
            return status if is_problem else f"{status} without a problem document", 0
        if request.method != "GET":
            return status, 0
        body = response.json()
        is_right = body["id"] == item and body["text"] == text_of(item, body["version"])
        return (status, body["version"]) if is_right else (f"{status} with a wrong body", 0)


async def main(url: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await asyncio.gather(*(User(number, url, stopping).run() for number in range(USERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
