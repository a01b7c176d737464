"""Declared jobs: typed, versioned arguments, and errors that name the wrong one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field, SecretStr

from app.core.jobs import Job, enqueue, every, import_jobs, job
from app.core.jobs.declaration import declared


class Address(BaseModel):
    street: str
    zip: int


@dataclass
class Plain:
    value: int


class Named(BaseModel):
    value: int = Field(alias="theValue")


class Partial(BaseModel):
    value: str = Field("none", exclude=True)


class Opaque:
    pass


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = dict(declared)
    yield
    declared.clear()
    declared.update(before)


def declare(function: Callable[..., Any]) -> Job[Any]:
    made: Job[Any] = job(function)
    return made


async def many(
    one: UUID, two: datetime, *, three: Decimal = Decimal(3), four: Address | None = None
) -> None: ...


async def anything(first: int, second: Any) -> None: ...


def test_arguments_come_back_as_they_were() -> None:
    values: dict[str, Any] = {
        "one": uuid4(),
        "two": datetime(2026, 11, 28, 23, 59, tzinfo=UTC),
        "three": Decimal("0.10"),
        "four": Address(street="a", zip=1),
    }
    made = declare(many)

    assert made.load(made.dump(**values)) == values
    assert made.load(made.dump(values["one"], values["two"])) == {
        key: values[key] for key in ("one", "two")
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"one": uuid4()}, "'two'"),
        ({"one": "nonsense", "two": datetime.now(UTC)}, "argument one: "),
        ({"one": uuid4(), "two": datetime.now(UTC), "five": 5}, "'five'"),
        ({"one": uuid4(), "two": datetime.now(UTC), "four": {"street": "a"}}, "argument four.zip"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(TypeError, match=named) as caught:
        declare(many).dump(**arguments)

    assert "test_declaration.many" in str(caught.value)
    assert "nonsense" not in str(caught.value)


@pytest.mark.parametrize("value", [Opaque(), {1: Opaque()}, "\ud800"])
def test_an_argument_that_does_not_serialise_is_named(value: object) -> None:
    with pytest.raises(TypeError, match="argument second"):
        declare(anything).dump(1, value)


def test_a_number_that_json_lacks_is_named() -> None:
    async def numbers(first: float, second: float) -> None: ...

    with pytest.raises(TypeError, match="argument second"):
        declare(numbers).dump(1.0, float("nan"))


@pytest.mark.parametrize(
    "value", [SecretStr("s"), Partial(value="s"), [SecretStr("s")], (1, 2), float("inf")]
)
def test_an_argument_that_changes_on_its_way_is_named(value: object) -> None:
    async def take(first: int, second: SecretStr | Partial | list[SecretStr] | Any) -> None: ...

    with pytest.raises(TypeError, match="argument second: JSON does not keep it") as caught:
        declare(take).dump(1, value)
    assert "'s'" not in str(caught.value)


def test_a_model_with_an_alias_is_an_argument() -> None:
    async def take(value: Named) -> None: ...

    made = declare(take)
    assert made.load(made.dump(Named(theValue=3))) == {"value": Named(theValue=3)}


@pytest.mark.parametrize(
    "options",
    [{"delay_s": value} for value in (-1, float("inf"), float("nan"), 1e12)]
    + [{"key": value} for value in ("a\0", "\ud800", "k" * 1001)],
)
def test_options_that_the_queue_cannot_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"delay_s|key|surrogates"):
        declare(anything).options(**options)


@pytest.mark.parametrize("deadline_s", [0, -1, float("inf"), float("nan")])
def test_a_deadline_that_cannot_be_kept_is_refused(deadline_s: float) -> None:
    with pytest.raises(ValueError, match="deadline_s"):
        job(deadline_s=deadline_s)


@pytest.mark.parametrize(("text", "is_stored"), [("a\x00", False), (r"a\u0000 \\u0000", True)])
def test_text_that_the_database_refuses_is_refused(text: str, is_stored: bool) -> None:
    if is_stored:
        assert declare(anything).load(declare(anything).dump(1, text))["second"] == text
    else:
        with pytest.raises(TypeError, match=r"U\+0000"):
            declare(anything).dump(1, text)


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ("[]", "argument all"),
        ('{"first": "x", "second": 1}', "argument first"),
        ('{"first": 1}', "argument second"),
        ('{"first": 1, "second": 1, "third": 1}', "argument third"),
    ],
)
def test_wrong_stored_arguments_are_named(stored: str, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        declare(anything).load(stored)


def test_functions_that_cannot_be_jobs_are_refused() -> None:
    async def opaque(value: Opaque) -> None: ...
    async def several(*values: int) -> None: ...
    async def untyped(value) -> None: ...  # type: ignore[no-untyped-def]
    def blocking() -> None: ...

    refusals: dict[Callable[..., Any], str] = {
        opaque: "'value': JSON cannot carry",
        several: "'values'",
        untyped: "'value': give it a type",
        blocking: "async def",
    }
    for function, message in refusals.items():
        with pytest.raises(TypeError, match=message):
            declare(function)


def test_a_dataclass_is_an_argument() -> None:
    async def take(value: Plain) -> None: ...

    made = declare(take)
    assert made.load(made.dump(Plain(3))) == {"value": Plain(3)}


async def test_a_call_runs_the_function() -> None:
    seen = []

    @job(retries=0, deadline_s=1, version=2)
    async def note(value: int) -> None:
        seen.append(value)

    await note(3)
    await note.options(key="a")(4)
    assert seen == [3, 4]
    assert (note.retries, note.deadline_s, note.version) == (0, 1, 2)
    assert declared[note.name] is note


async def test_calls_are_checked_by_types() -> None:
    """mypy refuses each of these lines, so that `type: ignore` has a use."""

    @job
    async def note(value: int) -> None: ...

    with pytest.raises(TypeError, match="'value'"):
        await enqueue(None, note)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="argument value"):
        await enqueue(None, note, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not declared with @job"):
        await enqueue(None, note.function, 1)  # type: ignore[arg-type]


def test_a_periodic_job_has_no_arguments_and_an_interval() -> None:
    @every(timedelta(hours=1))
    @job(retries=2)
    async def purge(days: int = 30) -> None: ...

    assert declared[purge.name].every == timedelta(hours=1)
    assert declared[purge.name].retries == 2

    async def needs(days: int) -> None: ...
    async def fast() -> None: ...

    with pytest.raises(TypeError, match="'days'"):
        every(timedelta(hours=1))(declare(needs))
    with pytest.raises(TypeError, match="with @job first"):
        every(timedelta(hours=1))(fast)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="a second"):
        every(timedelta(milliseconds=1))(declare(fast))


def test_a_job_that_no_router_imports_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for domain in ("reports", "pages"):
        (tmp_path / "team" / domain).mkdir(parents=True)
    source = "from app.core.jobs import job\n\n@job\nasync def report() -> None: ...\n"
    (tmp_path / "team" / "reports" / "jobs.py").write_text(source)
    for package in ("team", "team/reports", "team/pages"):
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    import_jobs("team")

    assert declared.pop("team.reports.jobs.report").name == "team.reports.jobs.report"
