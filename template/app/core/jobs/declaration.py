"""Declarations of jobs: async functions with typed arguments, retries and a deadline."""

import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic, NotRequired, ParamSpec, TypeVar, overload

from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from app.core.settings.jobs import JobsSettings

P = ParamSpec("P")
JobT = TypeVar("JobT", bound="Job[[]]")
Function = Callable[P, Coroutine[Any, Any, None]]

_has_null = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search
# Ten years.
LONGEST_S = 10 * 365 * 86_400.0
# An entry of an index in PostgreSQL has at most 2,704 bytes, the name of the job included.
MAX_KEY_BYTES = 1000
# Of JSON. Larger values belong into a row or a file, whose id is the argument.
MAX_ARGUMENT_BYTES = 1024**2

# The declared jobs by name, which the imports of the domains fill.
declared: dict[str, "Job[Any]"] = {}


class BadArguments(TypeError):
    """An argument is no value of its type, or differs from the value that a worker loads."""


@dataclass(frozen=True, eq=False)
class Job(Generic[P]):
    """A declared job; a call of it runs the function, without a queue.

    Attributes:
        name: module and function. Waiting jobs keep the name: they fail if the function is renamed.
        retries: how often a failed job runs again.
        deadline_s: the longest time of one run; None for `JOB_TIME_LIMIT_S`.
        version: version of the arguments; increase it when old releases cannot run the new ones.
        every: the interval of a periodic job.
        key, delay_s, optional: see `options`.
    """

    function: Function[P]
    name: str
    signature: inspect.Signature
    arguments: TypeAdapter[Any]
    retries: int
    deadline_s: float | None
    version: int
    every: timedelta | None = None
    key: str | None = None
    delay_s: float = 0.0
    optional: bool = False

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        await self.function(*args, **kwargs)

    def options(
        self, *, key: str | None = None, delay_s: float = 0.0, optional: bool = False
    ) -> "Job[P]":
        """Return the job with options for one `enqueue`.

        Args:
            key: the idempotency key. `enqueue` does nothing if a job of this name has the same
                key, and waits, runs, is dead, or succeeded within the last day.
            delay_s: the seconds before the job may run.
            optional: whether `enqueue` logs, and does not raise, that the queue is unavailable.

        Raises:
            ValueError: when the key is longer than 1,000 bytes or is no text that PostgreSQL
                stores, or `delay_s` is not from 0 to 10 years.
        """
        if not 0 <= delay_s <= LONGEST_S:
            raise ValueError(f"job {self.name}: delay_s is not from 0 to {LONGEST_S:g}")
        if key is not None and ("\0" in key or len(key.encode()) > MAX_KEY_BYTES):
            raise ValueError(f"job {self.name}: the key is too long, or has U+0000")
        return replace(self, key=key, delay_s=delay_s, optional=optional)

    def dump(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the arguments as a JSON object of up to 1 MiB; BadArguments names a wrong one."""
        try:
            given = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise BadArguments(f"job {self.name}: {error}") from None
        try:
            valid = self.arguments.validate_python(given)
            text = self.arguments.dump_json(valid)
            if len(text) > MAX_ARGUMENT_BYTES:
                size = f"{len(text)} bytes of JSON, more than {MAX_ARGUMENT_BYTES}"
                raise BadArguments(f"job {self.name}: its arguments have {size}: pass an id")
            loaded = self.load(text)
        except ValidationError as error:
            raise self._refusal(error) from None
        except PydanticSerializationError:
            for name, value in valid.items():
                try:
                    self.arguments.dump_json({name: value}, warnings=False)
                except PydanticSerializationError as error:
                    raise BadArguments(f"job {self.name}: argument {name}: {error}") from None
            raise
        # Such as a SecretStr, and a model with a field that is not dumped.
        if changed := [name for name, value in valid.items() if loaded[name] != value]:
            raise BadArguments(f"job {self.name}: argument {changed[0]}: JSON does not keep it")
        if _has_null(text):
            raise BadArguments(f"job {self.name}: PostgreSQL stores no text with U+0000")
        return text.decode()

    def load(self, arguments: str | bytes) -> dict[str, Any]:
        """Return the arguments of a JSON object; BadArguments names a wrong one."""
        try:
            loaded: dict[str, Any] = self.arguments.validate_json(arguments, by_name=True)
        except ValidationError as error:
            raise self._refusal(error) from None
        return loaded

    def _refusal(self, error: ValidationError) -> BadArguments:
        # Without the value, which may be personal data.
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "all"
        return BadArguments(f"job {self.name}: argument {name}: {first['msg']}")


@overload
def job(function: Function[P], /) -> Job[P]: ...
@overload
def job(
    *, retries: int = ..., deadline_s: float | None = ..., version: int = ...
) -> Callable[[Function[P]], Job[P]]: ...
def job(
    function: Function[P] | None = None,
    /,
    *,
    retries: int = 5,
    deadline_s: float | None = None,
    version: int = 1,
) -> Job[P] | Callable[[Function[P]], Job[P]]:
    """Declare an async function as a job, for `enqueue`.

    A job may run twice, so it has to be idempotent. A failed job runs again after 1 s, 2 s, 4 s and
    so on, up to 10 min. A job that raises `Unavailable` runs again as well, and this does not count
    as one of its retries.

    Raises:
        TypeError: when the function is not async, or a parameter has no type that JSON can carry.
        ValueError: when `deadline_s` is not from above 0 to 10 years.
    """
    if deadline_s is not None and not 0 < deadline_s <= LONGEST_S:
        raise ValueError(f"job: deadline_s is not from above 0 to {LONGEST_S:g}")

    def declare(function: Function[P]) -> Job[P]:
        name = f"{function.__module__}.{function.__qualname__}"
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"job {name}: declare it with `async def`")
        signature = inspect.signature(function)
        arguments = _arguments(name, function, signature)
        made = Job(function, name, signature, arguments, retries, deadline_s, version)
        declared[name] = made
        return made

    return declare if function is None else declare(function)


def every(interval: timedelta) -> Callable[[JobT], JobT]:
    """Run a job without arguments once in each interval, in one of all workers.

    Intervals begin at multiples of their length since 1970 (UTC): those of a day at midnight. If
    no worker ran at the beginning, the job runs later within the interval.

    Raises:
        ValueError: when the interval is shorter than a second.
        TypeError: when the job requires an argument, or the function is not declared with `job`.
    """
    if interval < timedelta(seconds=1):
        raise ValueError("every: the shortest interval is a second")

    def declare(job: JobT) -> JobT:
        if not isinstance(job, Job):
            raise TypeError(f"every: declare {job!r} with @job first, on the line below")
        job.dump()
        periodic = replace(job, every=interval)
        declared[job.name] = periodic
        return periodic

    return declare


def deadline_s(name: str, settings: JobsSettings) -> float:
    """Return the longest time of one run of the job with this name."""
    job = declared.get(name)
    return (job and job.deadline_s) or settings.job_time_limit_s


def import_jobs(package: str) -> None:
    """Import `jobs.py` of each package in `package`, which declares the jobs of a domain."""
    for domain in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        if domain.ispkg and find_spec(f"{domain.name}.jobs"):
            import_module(f"{domain.name}.jobs")


def _arguments(
    job: str, function: Callable[..., Any], signature: inspect.Signature
) -> TypeAdapter[Any]:
    """Return the adapter of a dict with the arguments of `function`."""
    types = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        where = f"job {job}: parameter {name!r}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{where}: neither *, ** nor / work: give each argument a name")
        if name not in types:
            raise TypeError(f"{where}: give it a type")
        try:
            TypeAdapter(types[name])
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            reason = error.message.partition(". ")[0]
            raise TypeError(f"{where}: JSON cannot carry its type: {reason}") from None
        is_required = parameter.default is parameter.empty
        fields[name] = types[name] if is_required else NotRequired[types[name]]
    arguments: Any = TypedDict("arguments", fields)  # type: ignore[misc]  # made at run time
    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(arguments))
