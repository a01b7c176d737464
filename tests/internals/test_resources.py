"""Resources: the order of opening and closing, failures of either, and their values."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

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


class Part:
    """Stands for a part of core, which the application may have open."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.close = _noting(f"{name} closes", events)

    def open(self, *_: object, **__: object) -> Awaitable[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    @asynccontextmanager
    async def opened(self, *_: object, **__: object) -> AsyncIterator[None]:
        yield
        await self.close()

    __call__ = opened


def _noting(event: str, events: list[str]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def note() -> None:
        events.append(event)

    return note


@pytest.fixture(autouse=True)
def core_events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the parts of core, and return their events."""
    core: list[str] = []
    for name in {"cache", "clients", "database", "jobs", "pools", "signer"} & set(vars(lifecycle)):
        monkeypatch.setattr(lifecycle, name, Part(name, core))
    monkeypatch.setattr(lifecycle, "drain", _noting("sessions end", core))
    return core


async def hold(*own: Resource[Any], events: list[str], error: Exception | None = None) -> None:
    async with lifecycle.resources(get_settings(), own, pool_size=1):
        events.append("runs")
        if error:
            raise error


async def test_resources_open_in_order_and_close_in_reverse_between_jobs_and_core(
    make: Callable[..., Resource[str]], events: list[str], core_events: list[str]
) -> None:
    @Resource
    async def last(_: CoreSettings) -> AsyncIterator[None]:
        yield
        events.append(f"last closes after {', '.join(core_events)}")

    await hold(make("a"), make("b"), last, events=events)

    opens = ["a opens", "b opens", "runs"]
    ends = ["last closes after sessions end, jobs closes", "b closes", "a closes"]
    assert events == [*opens, *ends]
    assert core_events[-1] == "database closes"


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
    assert caught.value.__notes__ == [f"{__name__}.b failed to open, or did not within 20 s."]
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
    assert [error.__notes__[0].split(" failed to close, ")[0] for error in errors if error] == [
        f"{__name__}.b",
        hanging.name,
    ]


async def test_a_resource_that_hangs_or_yields_twice_is_named(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @Resource
    async def hanging(_: CoreSettings) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    @Resource
    async def twice(_: CoreSettings) -> AsyncIterator[None]:
        yield
        yield

    monkeypatch.setattr(resource, "OPEN_TIMEOUT_S", 0.01)
    with pytest.raises(TimeoutError) as late:
        await hold(hanging, events=events)
    assert late.value.__notes__ == [f"{hanging.name} failed to open, or did not within 0.01 s."]
    monkeypatch.setattr(resource, "OPEN_TIMEOUT_S", 10)
    with pytest.raises(RuntimeError) as wrong:
        await hold(twice, events=events)
    assert str(wrong.value) == "generator didn't stop"
    assert wrong.value.__notes__[0].startswith(f"{twice.name} failed to close")


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
