"""The conditions that select the rows after a given row of a sorted list.

Pure: columns and values in, conditions out. A condition is a range of the index that serves the
ORDER BY, so page 10,000 costs the same as page 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, and_, or_, tuple_
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from app.core.pagination.page import OrderBy

# The value of a column in the row before the page; None is NULL.
Value: TypeAlias = ColumnElement[Any] | None

_NULLS = {operators.nulls_first_op, operators.nulls_last_op}
_MODIFIERS = {operators.desc_op, operators.asc_op, *_NULLS}


@dataclass(frozen=True)
class Key:
    """One column of an ORDER BY."""

    column: Any
    descending: bool
    nulls_first: bool

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
        return cls(item, descending, nulls_first)

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
        """Read columns such as `User.id.desc()`; ValueError when the last one may be NULL."""
        keys = tuple(Key.of(item) for item in order_by)
        if not keys or keys[-1].nullable:
            raise ValueError("order_by ends with a column that is never NULL: the primary key")
        return cls(keys)

    @cached_property
    def fingerprint(self) -> str:
        """The identity of the order, which tells the cursors of lists apart."""
        return ",".join(
            f"{'-' if key.descending else '+'}{key.column}{'^' if key.nulls_first else ''}"
            for key in self.keys
        )

    def reversed(self) -> "Keyset":
        return Keyset(tuple(key.reversed() for key in self.keys))

    def ordering(self) -> list[ColumnElement[Any]]:
        return [key.ordering() for key in self.keys]

    def ranges(self, values: Sequence[Value]) -> list[ColumnElement[bool]]:
        """Return the conditions for the rows after the row with these values, in order: one or two.

        A nullable column has two ranges in the index: its NULLs and its other values.
        """
        return _ranges(self.keys, values)


def _ranges(keys: Sequence[Key], values: Sequence[Value]) -> list[ColumnElement[bool]]:
    if keys[0].nullable:
        return _ranges_with_nulls(keys, values)
    # Columns in the same direction are compared as one row, which is one range of the index.
    descending = keys[0].descending
    alike = list(takewhile(lambda key: not key.nullable and key.descending == descending, keys))
    n = len(alike)
    here: Any = tuple_(*(key.column for key in alike)) if n > 1 else keys[0].column
    there: Any = (
        tuple_(*values[:n], types=[key.column.type for key in alike]) if n > 1 else values[0]
    )
    strictly = here < there if descending else here > there
    if n == len(keys):
        return [strictly]
    same = and_(*(key.column == value for key, value in zip(alike, values, strict=False)))
    behind = or_(*_ranges(keys[n:], values[n:]))
    # The first condition is the range of the index; the second excludes the start of that range.
    return [and_(here <= there if descending else here >= there, or_(strictly, and_(same, behind)))]


def _ranges_with_nulls(keys: Sequence[Key], values: Sequence[Value]) -> list[ColumnElement[bool]]:
    key, value = keys[0], values[0]
    behind = or_(*_ranges(keys[1:], values[1:]))
    if value is None:
        nulls = and_(key.column.is_(None), behind)
        return [nulls, key.column.is_not(None)] if key.nulls_first else [nulls]
    strictly = key.column < value if key.descending else key.column > value
    range_ = key.column <= value if key.descending else key.column >= value
    others = and_(range_, or_(strictly, and_(key.column == value, behind)))
    return [others] if key.nulls_first else [others, key.column.is_(None)]
