"""Resources: the order of opening and closing, failures of either, and their values."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from app.core import jobs
from app.core.database import database
from app.core.operations import lifecycle, resource
from app.core.operations.resource import Resource
from app.core.settings import CoreSettings
from app.settings import get_settings


@pytest.fixture
def events() -> list[str]:
    """What happened, in order."""
    return []


@pytest.fixture
def make(events: list[str]) -> Callable[..., Resource[str]]:
    """Makes a resource that notes its events; it can fail to open or to close."""

    def make(
        name: str, *, opens: BaseException | None = None, closes: BaseException | None = None
    ) -> Resource[str]:
        async def function(_: CoreSettings) -> AsyncIterator[str]:
            if opens:
                raise opens
            events.append(f"{name} opens")
            yield name
            if closes:
                raise closes
            events.append(f"{name} closes")

        function.__qualname__ = name
        return Resource(function)

    return make


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the resources of the application as they are, and use none of them."""
    for part in (database, jobs):
        monkeypatch.setattr(part, "open", lambda *_, **__: None)
    for part in (lifecycle, database, jobs):
        for name in {"drain", "close"} & set(dir(part)):
            monkeypatch.setattr(part, name, _nothing)
    if cache := getattr(lifecycle, "cache", None):
        monkeypatch.setattr(cache, "open", _nothing)
        monkeypatch.setattr(cache, "close", _nothing)


async def _nothing(*_: object) -> None: ...


async def hold(*own: Resource[Any], events: list[str], error: Exception | None = None) -> None:
    async with lifecycle.resources(get_settings(), own, pool_size=1):
        events.append("runs")
        if error:
            raise error


async def test_resources_open_in_order_and_close_in_reverse_after_sessions_and_jobs(
    make: Callable[..., Resource[str]], events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noting(event: str) -> Callable[..., Any]:
        async def note() -> None:
            events.append(event)

        return note

    monkeypatch.setattr(lifecycle, "drain", noting("sessions end"))
    monkeypatch.setattr(jobs, "close", noting("jobs end"))
    monkeypatch.setattr(database, "close", noting("database closes"))

    await hold(make("a"), make("b"), events=events)

    ends = ["sessions end", "jobs end", "b closes", "a closes", "database closes"]
    assert events == ["a opens", "b opens", "runs", *ends]


async def test_the_code_after_yield_runs_after_an_error_of_the_process(
    make: Callable[..., Resource[str]], events: list[str]
) -> None:
    with pytest.raises(LookupError) as caught:
        await hold(make("a"), events=events, error=LookupError())

    assert events == ["a opens", "runs", "a closes"]
    assert not hasattr(caught.value, "__notes__"), "no error of the resource"


async def test_a_resource_that_does_not_open_closes_those_before_it_and_is_named(
    make: Callable[..., Resource[str]], events: list[str]
) -> None:
    broken = make("b", opens=ConnectionError("no route"))

    with pytest.raises(ConnectionError) as caught:
        await hold(make("a"), broken, make("c"), events=events)

    assert events == ["a opens", "a closes"]
    assert caught.value.__notes__ == [f"The resource {__name__}.b did not open."]
    with pytest.raises(RuntimeError, match=r"\.b is not open\. List it in RESOURCES of app/res"):
        broken.get()


async def test_a_resource_that_does_not_close_keeps_no_other_open(
    make: Callable[..., Resource[str]], events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "CLOSE_TIMEOUT_S", 0.01)

    @Resource
    async def hanging(_: CoreSettings) -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    with pytest.raises(ConnectionError) as caught:
        await hold(
            make("a"), make("b", closes=ConnectionError()), hanging, make("d"), events=events
        )

    assert events == ["a opens", "b opens", "d opens", "runs", "d closes", "a closes"]
    errors = [caught.value, caught.value.__context__]
    assert [error.__notes__[0].split(" did ")[0] for error in errors if error] == [
        f"The resource {__name__}.b",
        f"The resource {hanging.name}",
    ]


async def test_a_value_is_there_while_it_is_open_and_may_be_replaced(
    make: Callable[..., Resource[str]],
) -> None:
    a = make("a")
    async with lifecycle.resources(get_settings(), [a], pool_size=1):
        assert a.get() == "a"
        with a.replaced("other"):
            assert a.get() == "other"
        assert a.get() == "a"
    with a.replaced("without the process"):
        assert a.get() == "without the process"
    with pytest.raises(RuntimeError, match="is not open"):
        a.get()


def test_a_function_of_another_kind_is_refused_where_it_is_declared() -> None:
    async def client(_: CoreSettings) -> str:
        return ""

    with pytest.raises(TypeError, match=r"client is no resource: expected `async def` with one"):
        Resource(client)  # type: ignore[arg-type]
