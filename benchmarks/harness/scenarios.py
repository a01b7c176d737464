"""What the services are asked: endpoints, mixes of them, and the stream of requests of each (pure)."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple
from uuid import UUID

# Enough that hardly any user comes twice, and few enough for wrk to load in no time.
STREAM_LENGTH = 5_000
HOT_USERS = 1_000
# HttpArena's `crud`: ids that are read and changed, and those that are created, first by an insert and then by updates.
READ_ITEMS = 50_000
CREATED_ITEMS = range(100_001, 105_001)
# Many more paths than the memo of the rendered service holds, and none twice while a cache still has it; LuaJIT, and so
# wrk, loads them in 30 ms.
CRUD_LENGTH = 40_000


class Request(NamedTuple):
    method: str
    path: str
    body: bytes = b""

    def encoded(self) -> bytes:
        """The request as it is sent, HTTP/1.1 with keep-alive."""
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        if self.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + self.body


@dataclass(frozen=True)
class Data:
    """The seeded rows that requests name; `deep_page` is a service's own path of a page far down the list.

    All paths are below `root`.
    """

    users: Sequence[UUID]
    deep_page: str
    root: str = ""


Choose = Callable[[random.Random, Data], UUID]


def anyone(rng: random.Random, data: Data) -> UUID:
    """Every user is as likely as any other, so no cache of this size helps."""
    return rng.choice(data.users)


def someone_popular(rng: random.Random, data: Data) -> UUID:
    """One of the first HOT_USERS, the k-th about 1/k as often as the first."""
    hot = min(HOT_USERS, len(data.users))
    return data.users[int(hot ** rng.random()) - 1]


def user(rng: random.Random, data: Data, choose: Choose) -> Request:
    return Request("GET", f"/users/{choose(rng, data)}")


def posts(_rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", "/posts?limit=20")


def posts_deep(_rng: random.Random, data: Data, _choose: Choose) -> Request:
    return Request("GET", data.deep_page)


def users(_rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", "/reports/users")


def aggregate(rng: random.Random, data: Data, choose: Choose) -> Request:
    return Request("GET", f"/reports/authors/{choose(rng, data)}")


def dashboard(rng: random.Random, data: Data, choose: Choose) -> Request:
    return Request("GET", f"/reports/authors/{choose(rng, data)}/dashboard")


def write(rng: random.Random, data: Data, choose: Choose) -> Request:
    body = json.dumps({"name": f"Name {rng.randrange(1_000_000):06d}"}).encode()
    return Request("PATCH", f"/users/{choose(rng, data)}", body)


def read_item(rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", f"/crud/items/{rng.randint(1, READ_ITEMS)}")


def list_items(rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", f"/crud/items?category=office&page={rng.randint(1, 10)}&limit=10")


def update_item(rng: random.Random, _data: Data, _choose: Choose) -> Request:
    content = {"name": f"Updated Product {rng.randrange(1_000_000):06d}", "price": 200, "quantity": 25}
    return Request("PUT", f"/crud/items/{rng.randint(1, READ_ITEMS)}", json.dumps(content).encode())


def create_item(rng: random.Random, _data: Data, _choose: Choose) -> Request:
    content = {"id": rng.choice(CREATED_ITEMS), "name": "New Product", "category": "test", "price": 150, "quantity": 30}
    return Request("POST", "/crud/items", json.dumps(content).encode())


# HttpArena's `json` (numbers of items, and multipliers) and `async-db` (limits); each is as frequent as any other.
TOTALS = ((1, 3), (5, 7), (10, 2), (15, 5), (25, 4), (40, 8), (50, 6))
PRICED = (5, 10, 20, 35, 50)


def totals(rng: random.Random, _data: Data, _choose: Choose) -> Request:
    count, multiplier = rng.choice(TOTALS)
    return Request("GET", f"/json/{count}?m={multiplier}")


def priced(rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", f"/async-db?min=10&max=50&limit={rng.choice(PRICED)}")


def sum_of_two(_rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", "/baseline11?a=13&b=42")


def all_totals(_rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", "/json/50?m=1")


def most_priced(_rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", "/async-db?min=10&max=50&limit=50")


def health(_rng: random.Random, _data: Data, _choose: Choose) -> Request:
    return Request("GET", "/livez")


Make = Callable[[random.Random, Data, Choose], Request]


@dataclass(frozen=True)
class Scenario:
    """`parts` gives each kind of request its share; `cached` says whether services may use their caches."""

    title: str
    parts: Mapping[Make, float]
    cached: bool = False
    choose: Choose = anyone
    length: int = STREAM_LENGTH


READ_MOSTLY: Mapping[Make, float] = {
    user: 48,
    posts: 20,
    posts_deep: 5,
    users: 2,
    aggregate: 10,
    dashboard: 5,
    write: 10,
}

ENDPOINTS: dict[str, Scenario] = {
    "health": Scenario("a liveness probe", {health: 1}),
    "user": Scenario("one user by key", {user: 1}),
    "posts": Scenario("20 posts with authors, first page", {posts: 1}),
    "posts-deep": Scenario("20 posts with authors, behind 100,000 others", {posts_deep: 1}),
    "users": Scenario("1,000 users", {users: 1}),
    "aggregate": Scenario("an author's posts, counted and summed", {aggregate: 1}),
    "dashboard": Scenario("four reads and a call to another service, in parallel", {dashboard: 1}),
    "write": Scenario("one user's name changed", {write: 1}),
}

MIXES: dict[str, Scenario] = {
    "read-mostly-cached": Scenario("90 % reads, caches on, popular users", READ_MOSTLY, True, someone_popular),
    "read-mostly": Scenario("90 % reads, no caches, any user", READ_MOSTLY),
    "write-heavy": Scenario("half writes, half reads, caches on", {write: 50, user: 50}, True, someone_popular),
}

# Asked in a comparison of ways only.
FURTHER: dict[str, Scenario] = {
    "user-popular": Scenario("one popular user by key, caches on", {user: 1}, True, someone_popular),
    "crud": Scenario(
        "HttpArena's profile: 75 % reads of 50,000 items that live for 200 ms, 15 % updates, 5 % lists, 5 % upserts",
        {read_item: 75, update_item: 15, list_items: 5, create_item: 5},
        cached=True,
        length=CRUD_LENGTH,
    ),
}

# HttpArena's other profiles.
ARENA: dict[str, Scenario] = {
    "api-4": Scenario(
        "HttpArena's profile: 3 of 8 requests a sum of two parameters, 3 JSON of 50 items, 2 a query of 50 rows",
        {sum_of_two: 3, all_totals: 3, most_priced: 2},
    ),
    "async-db": Scenario("HttpArena's profile: 5 to 50 of 100,000 rows by price, without an index", {priced: 1}),
    "json": Scenario("HttpArena's profile: 1 to 50 items of a file, each with a total, as JSON", {totals: 1}),
}

# In the order in which their answers are compared, and after everything else: a cache does not see what another
# service writes.
WRITES: Sequence[Make] = (write, update_item, create_item)

# Paths that must be answered alike as well, where a kind of request is measured: nothing found, and other numbers.
EDGES: Mapping[Make, Sequence[str]] = {
    read_item: ("/crud/items/999999",),
    sum_of_two: ("/baseline11?a=-5&b=900", "/baseline11?a=13"),
    totals: ("/json/12?m=9", "/json/31", "/json/0", "/json/51", "/json/5?m=x"),
    priced: ("/async-db?min=9999&max=9999", "/async-db?min=5&max=80&limit=7", "/async-db?limit=900", "/async-db?min=x"),
}

SCENARIOS = ENDPOINTS | MIXES | FURTHER | ARENA


def asked(make: Make, rng: random.Random, data: Data, choose: Choose) -> Request:
    """A request as one service is asked it."""
    request = make(rng, data, choose)
    return request._replace(path=data.root + request.path)


def stream(scenario: Scenario, data: Data, *, seed: int = 0, length: int | None = None) -> list[Request]:
    """The requests of a scenario, as many as it says unless `length` does; for equal arguments always the same ones."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    makers, weights = list(scenario.parts), list(accumulate(scenario.parts.values()))
    chosen = rng.choices(makers, cum_weights=weights, k=length or scenario.length)
    return [asked(make, rng, data, scenario.choose) for make in chosen]
