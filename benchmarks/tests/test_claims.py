"""Each claim runs on real servers, and the services do what the claims are about."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from dev.processes import workspace

from benchmarks.claims import __main__ as program
from benchmarks.claims import page
from benchmarks.claims.bench import QUICK, RATE, Bench, RoundFailed, Side
from benchmarks.claims.lab import FEW, Lab, Server, lab
from benchmarks.claims.results import load
from benchmarks.claims.table import BY_NAME, CLAIMS, Claim
from benchmarks.harness import services
from benchmarks.harness.answers import ask
from benchmarks.harness.scenarios import Request


def ignore(_text: str) -> None:
    """Print nothing."""


@pytest.fixture(scope="module")
def prepared() -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch, workspace() as home, lab(home, FEW, ignore) as made:
        patch.setattr(services, "READY_POLL_S", 0.05)
        # Before the claims run side by side.
        assert made.rows
        yield made


@pytest.fixture(scope="module")
def database(prepared: Lab) -> Iterator[Server]:
    with prepared.serve("database", database=True) as server:
        yield server


@pytest.fixture(scope="module")
def lists(prepared: Lab) -> Iterator[Server]:
    with prepared.serve("lists", database=True) as server:
        yield server


@pytest.fixture(scope="module")
def rows(prepared: Lab) -> dict[str, Any]:
    """Measure all claims, several at a time: their figures say nothing here."""
    with ThreadPoolExecutor(3) as pool:
        futures = {claim.name: pool.submit(program.measure, claim, prepared, QUICK, ignore) for claim in CLAIMS}
        return {name: future.result() for name, future in futures.items()}


# First, because a claim with writes follows.
def test_the_sides_of_a_comparison_answer_the_same(prepared: Lab, database: Server, lists: Server) -> None:
    user, rows = prepared.rows.users[0], prepared.rows
    last = f"created_at={rows.last_created_at.isoformat().replace('+00:00', 'Z')}&post_id={rows.last_id}"
    with prepared.serve("serialization") as serialization, prepared.serve("caching", database=True) as caching:
        for server, paths in (
            (serialization, ["/typed", "/typed/orjson", "/untyped", "/untyped/orjson", "/bytes"]),
            (database, [f"/users/{user}/{way}" for way in ("pool", "connection", "sync", "async")]),
            (database, [f"/three/{user}/{way}" for way in ("one-by-one", "gather")]),
            (lists, ["/posts/n-plus-one?limit=20", "/posts/eager?limit=20"]),
            (lists, [f"/pages/offset?offset={rows.depth}", f"/pages/keyset?{last}"]),
            (caching, ["/uncached/posts", "/redis/posts", "/redis/posts", "/local/posts", "/local/posts"]),
            (caching, ["/uncached/report", "/redis/report", "/redis/report"]),
        ):
            answers = [json.dumps(ask(server.port, Request("GET", path))[:2]) for path in paths]
            assert len(set(answers)) == 1, paths
            assert json.loads(answers[0])[0] == 200


def test_every_claim_has_all_its_figures(rows: dict[str, Any], tmp_path: Path) -> None:
    for claim in CLAIMS:
        found = rows[claim.name].figures
        assert list(found) == [figure.key for figure in claim.figures]
        assert all(value > 0 for figure in found.values() for value in figure.values)
        assert set(rows[claim.name].versions) == {"python", *claim.packages}

    data = tmp_path / "claims.json"
    program.write(rows, data)
    assert load(data) == rows
    assert data.with_suffix(".md").read_text(encoding="utf-8") == page.page(rows)
    assert "not measured" not in page.page(rows)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_command_of_a_row_measures_this_row(claim: Claim) -> None:
    session, names = claim.command.split(" -- ")
    assert session == "nox -s claims"
    assert program.parse(names.split()).names == [claim.name]


def test_an_unknown_claim_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.parse(["orjsn"])
    assert "no such claim: orjsn; there are orjson, " in capsys.readouterr().err


def test_a_row_is_replaced_and_the_others_stay(
    rows: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "claims.json"
    program.write({"orjson": rows["orjson"], "uvloop": replace(rows["uvloop"], date="2020-01-31")}, data)
    monkeypatch.setattr(program, "lab", lambda *_: ExitStack())
    monkeypatch.setattr(program, "measure", lambda *_: rows["uvloop"])
    assert program.main(["--quick", "--output", str(data), "uvloop"]) == 0
    assert load(data) == {"orjson": rows["orjson"], "uvloop": rows["uvloop"]}


def test_a_claim_that_cannot_be_measured_keeps_its_row(
    rows: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(claim: Claim, *_: Any) -> Any:
        if claim.name == "orjson":
            raise RoundFailed("no answers")
        return rows[claim.name]

    data = tmp_path / "claims.json"
    program.write({"orjson": rows["orjson"]}, data)
    monkeypatch.setattr(program, "lab", lambda *_: ExitStack())
    monkeypatch.setattr(program, "measure", fail)
    assert program.main(["--output", str(data), "orjson", "uvloop"]) == 1
    assert load(data) == {name: rows[name] for name in ("orjson", "uvloop")}
    assert "not measured: orjson" in capsys.readouterr().err


def test_the_directory_of_the_data_is_made_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    data = tmp_path / "new" / "claims.json"
    monkeypatch.setattr(program, "lab", interrupt)
    assert program.main(["--output", str(data), "uvloop"]) == 130
    assert data.parent.is_dir()


def test_a_failing_request_ends_a_comparison(prepared: Lab) -> None:
    bench = Bench(prepared, BY_NAME["pooling"], QUICK, ignore)
    with prepared.serve("minimal") as server:
        good, bad = (Side(server, [Request("GET", path)]) for path in ("/livez", "/nothing"))
        with pytest.raises(RoundFailed, match="/nothing: 404"):
            bench.compare(good, bad, {"pool": RATE})
        sometimes = Side(server, [Request("GET", "/livez"), Request("GET", "/nothing")])
        with pytest.raises(RoundFailed, match=r"\{'404': "):
            bench.compare(good, sometimes, {"pool": RATE})
    assert bench.found == {}


def test_a_blocking_call_blocks_and_an_awaited_one_does_not() -> None:
    waiting = import_module("benchmarks.claims.services.waiting")

    async def ended(endpoint: Any) -> list[str]:
        """Return the endpoints in the order in which they end; the probe begins in the same turn of the loop."""
        order: list[str] = []

        async def run(each: Any) -> None:
            await each()
            order.append(each.__name__)

        await asyncio.gather(run(endpoint), run(waiting.live))
        return order

    assert asyncio.run(ended(waiting.blocking)) == ["blocking", "live"]
    assert asyncio.run(ended(waiting.awaited)) == ["live", "awaited"]


def test_lazy_loads_make_n_plus_one_statements_and_an_eager_one_two(lists: Server) -> None:
    def statements(path: str) -> tuple[int, int]:
        """Return the number of statements, and of the authors of the posts."""
        before = ask(lists.port, Request("GET", "/statements")).body
        posts = ask(lists.port, Request("GET", path)).body
        authors = {post["author"]["id"] for post in posts}
        return ask(lists.port, Request("GET", "/statements")).body - before, len(authors)

    lazy, authors = statements("/posts/n-plus-one?limit=20")
    assert authors > 15
    # The session loads an author once.
    assert lazy == 1 + authors
    assert statements("/posts/eager?limit=20")[0] == 2


def test_a_pool_opens_its_connections_once(prepared: Lab, database: Server) -> None:
    def opened(way: str) -> int:
        before = ask(database.port, Request("GET", "/connections")).body
        for user in prepared.rows.users[:5]:
            assert ask(database.port, Request("GET", f"/users/{user}/{way}")).body["id"] == str(user)
        return int(ask(database.port, Request("GET", "/connections")).body - before)

    assert opened("pool") == 0
    assert opened("connection") == 5
