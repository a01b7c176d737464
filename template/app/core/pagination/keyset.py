"""The conditions that select the rows after a given row of a sorted list.

Pure: columns and values in, conditions out. A condition is a range of the index that serves the
ORDER BY, so page 10,000 costs the same as page 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from decimal import Decimal
from functools import cached_property
from itertools import takewhile
from typing import Any, TypeAlias
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID
from sqlalchemy import ColumnElement, TypeDecorator, and_, bindparam, cast, or_, tuple_, types
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from app.core.database.prepared import DIALECT
from app.core.pagination.page import OrderBy

# The value of a column in the row before the page; None is NULL.
Value: TypeAlias = ColumnElement[Any] | None

_NULLS = {operators.nulls_first_op, operators.nulls_last_op}
_MODIFIERS = {operators.desc_op, operators.asc_op, *_NULLS}

# What makes a value of its `str`, or of the hexadecimal digits of bytes, by the type in Python. No
# timedelta: PostgreSQL compares a year as 360 days, and the driver makes 365 of it.
_LOADERS: dict[type, Callable[[str], Any]] = {
    bool: "True".__eq__,
    int: int,
    float: float,
    Decimal: Decimal,
    str: str,
    bytes: bytes.fromhex,
    UUID: DriverUUID,
    date: date.fromisoformat,
    datetime: datetime.fromisoformat,
    time: time.fromisoformat,
}


@dataclass(frozen=True)
class Key:
    """One column of an ORDER BY; its values go to cursors and back as the driver sends them.

    Attributes:
        type: the type of the column without decorators.
        load: makes the value that the driver sends of a text of `dump`.
    """

    column: Any
    descending: bool
    nulls_first: bool
    type: types.TypeEngine[Any]
    load: Callable[[str], Any]

    @classmethod
    def of(cls, item: Any) -> "Key":
        """Read `column`, `column.desc()` or `column.desc().nulls_last()`."""
        modifiers = set()
        while isinstance(item, UnaryExpression) and item.modifier in _MODIFIERS:
            modifiers.add(item.modifier)
            item = item.element
        descending = operators.desc_op in modifiers
        # In PostgreSQL, NULL sorts as larger than every value.
        nulls_first = operators.nulls_first_op in modifiers or (
            descending and operators.nulls_last_op not in modifiers
        )
        column = item.expression
        type_ = column.type
        # SQLAlchemy's own Interval is a decorator as well.
        while isinstance(type_, TypeDecorator) and not isinstance(type_, types.Interval):
            type_ = type_.load_dialect_impl(DIALECT)
        load: Callable[[str], Any] | None
        match type_:
            case types.Numeric(asdecimal=False) | types.Float(asdecimal=True):
                load = None  # SQLAlchemy rounds these values.
            case types.Enum():
                load = str
            case _:
                load = _LOADERS.get(type_.python_type)
        if load is None:
            raise ValueError(f"order_by has {column}: no cursor can carry {type_!r} without a loss")
        return cls(column, descending, nulls_first, type_, load)

    @cached_property
    def _process(self) -> Callable[[Any], Any] | None:
        """Makes the value that the driver sends of a value of the column."""
        process: Callable[[Any], Any] | None
        process = self.column.type.dialect_impl(DIALECT).bind_processor(DIALECT)
        return process

    def dump(self, value: Any) -> str | None:
        """Return the text of a value of the column; None for NULL."""
        sent = self._process(value) if self._process else value
        if sent is None:
            return None
        return sent.hex() if isinstance(sent, bytes) else str(sent)

    def parameter(self, name: str, value: Any) -> ColumnElement[Any]:
        """Return a value to compare with the column; `...` stands for one that each call passes.

        CHAR and enums are texts to the driver, which PostgreSQL compares otherwise.
        """
        type_ = types.String() if isinstance(self.type, types.CHAR | types.Enum) else self.type
        parameter: ColumnElement[Any] = bindparam(name, value, type_, required=value is ...)
        return parameter if type_ is self.type else cast(parameter, self.type)

    @property
    def nullable(self) -> bool:
        # An expression may be NULL.
        return bool(getattr(self.column, "nullable", True))

    def reversed(self) -> "Key":
        return replace(self, descending=not self.descending, nulls_first=not self.nulls_first)

    def ordering(self) -> ColumnElement[Any]:
        ordering: ColumnElement[Any] = self.column.desc() if self.descending else self.column.asc()
        if not self.nullable or self.nulls_first == self.descending:
            return ordering
        return ordering.nulls_first() if self.nulls_first else ordering.nulls_last()


@dataclass(frozen=True)
class Keyset:
    """The columns that sort a list; together they are unique, and the last one is never NULL."""

    keys: tuple[Key, ...]

    @classmethod
    def of(cls, order_by: OrderBy) -> "Keyset":
        """Read columns such as `User.id.desc()`.

        Raises:
            ValueError: when the last column may be NULL, or a cursor cannot carry a type.
        """
        keys = tuple(Key.of(item) for item in order_by)
        if not keys or keys[-1].nullable:
            raise ValueError("order_by ends with a column that is never NULL: the primary key")
        return cls(keys)

    @cached_property
    def fingerprint(self) -> str:
        """The identity of the order, which tells the cursors of lists apart."""
        return ",".join(
            f"{'-' if key.descending else '+'}{key.column}{'^' if key.nulls_first else ''}"
            f" {type(key.type).__name__}"
            for key in self.keys
        )


def ranges(keys: Sequence[Key], values: Sequence[Value]) -> list[ColumnElement[bool]]:
    """Return the conditions for the rows after the row with these values, in order: one or two.

    A nullable column has two ranges in the index: its NULLs and its other values.
    """
    key, value = keys[0], values[0]
    if value is None:
        nulls = and_(key.column.is_(None), or_(*ranges(keys[1:], values[1:])))
        return [nulls, key.column.is_not(None)] if key.nulls_first else [nulls]
    # Columns in the same direction are compared as one row, which is one range of the index.
    way = key.descending
    alike = list(takewhile(lambda each: not each.nullable and each.descending == way, keys))
    here, there, n = key.column, value, max(1, len(alike))
    if n > 1:
        here = tuple_(*(each.column for each in alike))
        there = tuple_(*values[:n], types=[each.type for each in alike])
    strictly = here < there if key.descending else here > there
    if n == len(keys):
        return [strictly]
    # The first condition is the range of the index; the second excludes the start of the range.
    range_ = here <= there if key.descending else here >= there
    behind = and_(here == there, or_(*ranges(keys[n:], values[n:])))
    others = and_(range_, or_(strictly, behind))
    nulls_follow = key.nullable and not key.nulls_first
    return [others, key.column.is_(None)] if nulls_follow else [others]
