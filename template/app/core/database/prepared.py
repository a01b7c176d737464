"""The prepared lane: statements that are compiled once and run directly on the driver.

It is for hot endpoints. Rows are dicts and not entities, no change is tracked, and each statement
is declared once, at import.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import (
    BindParameter,
    Boolean,
    ClauseElement,
    Delete,
    Insert,
    Integer,
    Select,
    String,
    Update,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler

from app.core.database.errors import is_refusal

Row = dict[str, Any]
Processor = Callable[[Any], Any]

# Compiles like the dialect of an engine that has connected; this engine never connects.
DIALECT: Any = create_async_engine("postgresql+asyncpg://").dialect
DIALECT._backslash_escapes = False  # `standard_conforming_strings` is on by default.


class Prepared:
    """A statement of SQLAlchemy Core, declared and compiled once, at import.

    Values that change from call to call are `bindparam`s. Other values must never come from a
    request: integers, booleans, texts and enums become constants in the SQL, so that PostgreSQL
    can plan with them. A row has a key for each column. Dots in labels nest:
    `User.id.label("author.id")` becomes `{"author": {"id": ...}}`, and an object whose columns are
    all NULL becomes None.

    Attributes:
        sql: the statement as the server receives it.
        placeholders: the names of the values of `$1`, `$2` and so on.
        parameters: the names of the `bindparam`s, whose values each call passes.

    Raises:
        ValueError: when a column has no name, two have the same, `IN` has a parameter, or loader
            options or `text()` add columns.
        SQLAlchemyError: when the statement cannot be compiled.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]] | Insert | Update | Delete) -> None:
        columns = list(statement.exported_columns)
        if any(not isinstance(column.key, str) for column in columns):
            raise ValueError("a column has no name: label it")
        self._names = [str(column.key) for column in columns]
        if twice := {name for name in self._names if self._names.count(name) > 1}:
            raise ValueError(f"two columns are called {', '.join(sorted(twice))}: label one")
        # Raises for invalid names, here and not at the first call.
        _rows_maker(self._names, [None] * len(columns))
        self._types = [column.type.dialect_impl(DIALECT) for column in columns]
        self._make_rows: Callable[[Sequence[Sequence[Any]]], list[Row]] | None = None

        with_literals: Any = visitors.replacement_traverse(statement, {}, _as_literal)
        compiled = with_literals.compile(dialect=DIALECT)
        assert isinstance(compiled, SQLCompiler)
        if len(compiled._result_columns) != len(columns):
            raise ValueError("no loader options and no text() among the columns: use labels")
        self.parameters = frozenset(b.key for b in compiled.binds.values() if b.required)
        # Write the literals into the SQL; all other values stay placeholders.
        state = compiled.construct_expanded_state(dict.fromkeys(self.parameters))
        self.sql = state.statement
        self.placeholders = state.positiontup or ()
        self._processors: Mapping[str, Any] = {**compiled._bind_processors, **state.processors}
        # The values that no call passes: constants, and the defaults of columns in Python.
        defaults: dict[str, Any] = {c.key: c.default for c in compiled.insert_prefetch}
        defaults |= {c.key: c.onupdate for c in compiled.update_prefetch}
        self._others = {
            name: defaults[name].arg if name in defaults else state.parameters[name]
            for name in {*self.placeholders} - self.parameters
        }

    async def fetch(
        self, driver: asyncpg.Connection, values: Mapping[str, Any], timeout_s: float | None = None
    ) -> list[Row]:
        """Run the statement, return its rows; TypeError for a missing or unknown parameter."""
        arguments = self._arguments(values)
        records: Sequence[Sequence[Any]]
        try:
            if self._make_rows is None:
                # The first call asks the server for the types: some processors depend on them.
                statement = await driver.prepare(self.sql, timeout=timeout_s)
                records = await statement.fetch(*arguments, timeout=timeout_s)
                kinds = zip(self._types, statement.get_attributes(), strict=True)
                processors = [each.result_processor(DIALECT, sent.type.oid) for each, sent in kinds]
                self._make_rows = _rows_maker(self._names, processors)
            else:
                records = await driver.fetch(self.sql, *arguments, timeout=timeout_s)
        except asyncpg.DataError as error:
            # An error without a severity is the driver's, which refused an argument. By then, the
            # server has parsed the statement, and holds its locks until the next statement.
            if error.severity is None:
                await driver.execute("SELECT")
            raise
        return self._make_rows(records)

    def _arguments(self, values: Mapping[str, Any]) -> list[Any]:
        if values.keys() != self.parameters:
            missing, unknown = self.parameters - values.keys(), values.keys() - self.parameters
            raise TypeError(f"parameters: missing {sorted(missing)}, unknown {sorted(unknown)}")
        if self._others:
            others = {
                name: value(None) if callable(value) else value
                for name, value in self._others.items()
            }
            values = {**values, **others}
        arguments = []
        for number, name in enumerate(self.placeholders, 1):
            process = self._processors.get(name)
            try:
                arguments.append(process(values[name]) if process else values[name])
            except (LookupError, ValueError) as error:
                if not is_refusal(error):
                    raise
                refusal = f"invalid input for query argument ${number}: {error}"
                raise asyncpg.DataError(refusal) from error
        return arguments


class PreparedRead(Prepared):
    """A SELECT for `session.fetch` and `session.fetch_one`."""

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        super().__init__(statement)


class PreparedWrite(Prepared):
    """An INSERT, UPDATE or DELETE for `session.write` and `session.autocommit`.

    A `default` or `onupdate` that is a function in Python gets None as its context.
    """

    def __init__(self, statement: Insert | Update | Delete) -> None:
        super().__init__(statement)


def _as_literal(element: ClauseElement, **_: Any) -> ClauseElement | None:
    """Replace an integer, boolean or text by a literal; other literals would need a cast."""
    if not isinstance(element, BindParameter):
        return None
    if element.required and element.expanding:
        raise ValueError(f"IN {element.key}: write `column == any_(bindparam(...))` instead")
    is_plain = isinstance(element.type, (Integer, Boolean, String))
    if element.required or not is_plain or element.effective_value is None:
        return None
    return element.render_literal_execute()


def _rows_maker(
    names: Sequence[str], processors: Sequence[Processor | None]
) -> Callable[[Sequence[Sequence[Any]]], list[Row]]:
    """Return a function that turns records into dicts, nested by the dots in the names.

    It is generated as a dict display, which takes a third of the time of `dict(zip(names, row))`.
    """
    if not names:
        return lambda _: []  # A write without RETURNING.
    variables = [f"v{index}" for index in range(len(names))]
    functions = {f"process_{each}": p for each, p in zip(variables, processors, strict=True) if p}
    values = [f"process_{v}({v})" if f"process_{v}" in functions else v for v in variables]
    row = _display(list(zip(names, variables, values, strict=True)))
    source = f"lambda records: [{row} for {', '.join(variables)}, in records]"
    # The source contains the names of columns only, quoted.
    make: Callable[[Sequence[Sequence[Any]]], list[Row]] = eval(source, functions)  # noqa: S307
    return make


def _display(fields: Sequence[tuple[str, str, str]]) -> str:
    """Return the source of a dict; a field is its name, variable and value expression."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, variable, value in fields:
        group, _, inner = name.partition(".")
        groups.setdefault(group, []).append((inner, variable, value))
    items = []
    for group, parts in groups.items():
        if parts[0][0] == "" and len(parts) == 1:
            items.append(f"{group!r}: {parts[0][2]}")
            continue
        if any(inner == "" for inner, _, _ in parts):
            raise ValueError(f"{group} is both a column and an object")
        is_null = " and ".join(f"{variable} is None" for _, variable, _ in parts)
        items.append(f"{group!r}: None if {is_null} else {_display(parts)}")
    return "{" + ", ".join(items) + "}"
