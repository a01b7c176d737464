"""The prepared lane: statements that are compiled once and run directly on the driver.

For hot endpoints. A service answers three times as many requests for one row as with the ORM, five
times as many for a list, and four times as many with a single write. In exchange, rows are dicts
and not entities, no change is tracked, and each statement is declared once, at import.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import BindParameter, ClauseElement, Delete, Dialect, Insert, Select, Update
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler

Row = dict[str, Any]
Processor = Callable[[Any], Any]


class Prepared:
    """A statement of SQLAlchemy Core, declared once at import.

    Values that change from call to call are `bindparam`s. Every other value becomes a constant in
    the SQL, so that PostgreSQL can plan with it: it must never come from a request. A row has a key
    for each column. Dots in labels nest: `User.id.label("author.id")` becomes
    `{"author": {"id": ...}}`, and an object whose columns are all NULL becomes None.

    Raises:
        ValueError: when a column has no name, two have the same, or `IN` has a parameter.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]] | Insert | Update | Delete) -> None:
        self._columns = list(statement.exported_columns)
        if any(not isinstance(column.key, str) for column in self._columns):
            raise ValueError("a column has no name: label it")
        self._names = [str(column.key) for column in self._columns]
        if twice := {name for name in self._names if self._names.count(name) > 1}:
            raise ValueError(f"two columns are called {', '.join(sorted(twice))}: label one")
        _rows_maker(self._names, {})  # Raises for invalid names, here and not at the first call.
        self._statement: Any = visitors.replacement_traverse(statement, {}, _constant_as_literal)
        # The names of the values that each call passes.
        self.parameters = frozenset(
            element.key
            for element in visitors.iterate(self._statement)
            if isinstance(element, BindParameter) and element.required
        )
        self._compiled: WeakKeyDictionary[Dialect, _Compiled] = WeakKeyDictionary()

    def compiled(self, dialect: Dialect) -> "_Compiled":
        """Return the statement compiled for one engine; the first call compiles it."""
        compiled = self._compiled.get(dialect)
        if compiled is None:
            compiled = self._compiled[dialect] = _Compiled(self, dialect)
        return compiled


class _Compiled:
    def __init__(self, prepared: Prepared, dialect: Dialect) -> None:
        compiled = prepared._statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        self._required = prepared.parameters
        # Write the constants into the SQL; the parameters stay placeholders.
        state = compiled.construct_expanded_state(dict.fromkeys(self._required))
        binds = [compiled.binds[name] for name in state.positiontup or ()]
        self.sql = state.statement
        self._types = [column.type.dialect_impl(dialect) for column in prepared._columns]
        self._dialect = weakref.ref(dialect)
        self._names = prepared._names
        self._parameters = [
            (bind, bind.type.dialect_impl(dialect).bind_processor(dialect)) for bind in binds
        ]
        # The names of the parameters $1, $2 and so on.
        self.names = [bind.key for bind in binds]
        self._make_rows: Callable[[Sequence[Sequence[Any]]], list[Row]] | None = None

    async def fetch(self, driver: asyncpg.Connection, values: Mapping[str, Any]) -> list[Row]:
        """Run the statement, return its rows; TypeError for a missing or unknown parameter."""
        arguments = self._arguments(values)
        records: Sequence[Sequence[Any]]
        try:
            if self._make_rows is None:
                # Some types are decoded by the type that the server reports.
                statement = await driver.prepare(self.sql)
                records = await statement.fetch(*arguments)
                oids = [attribute.type.oid for attribute in statement.get_attributes()]
                self._make_rows = _rows_maker(self._names, self._result_processors(oids))
            else:
                records = await driver.fetch(self.sql, *arguments)
        except asyncpg.DataError as error:
            # No severity: the driver refused an argument. The server has parsed the statement by
            # then, and keeps its locks until the next one.
            if error.severity is None:
                await driver.execute("SELECT")
            raise
        return self._make_rows(records)

    def _arguments(self, values: Mapping[str, Any]) -> list[Any]:
        if values.keys() != self._required:
            missing, unknown = self._required - values.keys(), values.keys() - self._required
            raise TypeError(f"parameters: missing {sorted(missing)}, unknown {sorted(unknown)}")
        arguments = []
        for bind, process in self._parameters:
            value = values[bind.key] if bind.required else bind.effective_value
            arguments.append(process(value) if process else value)
        return arguments

    def _result_processors(self, oids: Sequence[int]) -> dict[int, Processor]:
        if len(oids) != len(self._types):
            raise ValueError("the result and the statement differ in columns: no loader options")
        dialect = self._dialect()
        assert dialect is not None  # Its engine owns the connection in use.
        processors = {
            index: on_driver.result_processor(dialect, oid)
            for index, (on_driver, oid) in enumerate(zip(self._types, oids, strict=True))
        }
        return {index: process for index, process in processors.items() if process}


class PreparedRead(Prepared):
    """A SELECT for `session.fetch` and `session.fetch_one`."""

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        super().__init__(statement)


class PreparedWrite(Prepared):
    """An INSERT, UPDATE or DELETE for `session.write` and `session.autocommit`."""

    def __init__(self, statement: Insert | Update | Delete) -> None:
        super().__init__(statement)


def _constant_as_literal(element: ClauseElement, **_: Any) -> ClauseElement | None:
    if not isinstance(element, BindParameter):
        return None
    if not element.required:
        return element.render_literal_execute()
    if element.expanding:
        raise ValueError(f"IN {element.key}: write `column == any_(bindparam(...))` instead")
    return None


def _rows_maker(
    names: Sequence[str], processors: Mapping[int, Processor]
) -> Callable[[Sequence[Sequence[Any]]], list[Row]]:
    """Return a function that turns records into dicts, nested by the dots in the names.

    It is generated as a dict display, which takes a third of the time of `dict(zip(names, row))`.
    """
    if not names:
        return lambda _: []  # A write without RETURNING.
    variables = [f"v{index}" for index in range(len(names))]
    values = [
        f"p{index}({variable})" if index in processors else variable
        for index, variable in enumerate(variables)
    ]
    row = _display(list(zip(names, variables, values, strict=True)))
    source = f"lambda records: [{row} for {', '.join(variables)}, in records]"
    functions = {f"p{index}": process for index, process in processors.items()}
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
