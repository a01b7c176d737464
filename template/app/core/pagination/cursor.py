"""Keyset pagination: a page starts behind the last row of the one before, come or go what may.

The index that serves the ORDER BY finds the start of any page directly, so that page 10,000 costs
what page 1 does. A cursor is opaque and signed: a client cannot make one up.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from app.core.database import ReadSession
from app.core.pagination.page import DEFAULT_LIMIT, MAX_LIMIT, Page
from app.core.problems import BadRequest
from app.settings import get_settings

VERSION = 1
SIGNATURE_BYTES = 16

T = TypeVar("T")
Item = TypeVar("Item")


class PageParams(BaseModel):
    """The query parameters of a list: `Annotated[PageParams, Query()]`."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Most items on the page.")
    cursor: str | None = Field(
        None,
        max_length=1000,
        description="`next` or `prev` of another page; none for the first page.",
    )


@dataclass(frozen=True)
class Keyset:
    """The columns that order a list; together they are unique and none is ever NULL."""

    columns: tuple[InstrumentedAttribute[Any], ...]
    descending: bool

    @classmethod
    def of(cls, order_by: Sequence[InstrumentedAttribute[Any] | UnaryExpression[Any]]) -> "Keyset":
        """Read `(Model.a.desc(), Model.b.desc())`.

        Raises:
            ValueError: when some columns ascend and others descend.
        """
        columns: list[Any] = []
        directions = set()
        for item in order_by:
            descends = isinstance(item, UnaryExpression) and item.modifier is operators.desc_op
            columns.append(item.element if isinstance(item, UnaryExpression) else item)
            directions.add(descends)
        if len(directions) != 1:
            raise ValueError("order_by needs at least one column, all ascending or all descending")
        return cls(tuple(columns), directions.pop())

    @property
    def fingerprint(self) -> str:
        """Tells one list's cursors from another's."""
        columns = ",".join(str(column) for column in self.columns)
        return f"{'-' if self.descending else '+'}{columns}"

    def ordered(self, *, backward: bool) -> list[ColumnElement[Any]]:
        descending = self.descending != backward
        return [column.desc() if descending else column.asc() for column in self.columns]

    def beyond(self, values: Sequence[Any], *, backward: bool) -> ColumnElement[bool]:
        """One row-value comparison, which PostgreSQL answers from a single index range."""
        here = tuple_(*self.columns)
        there = tuple_(*values, types=[column.type for column in self.columns])
        return here < there if self.descending != backward else here > there


async def paginate(
    session: ReadSession,
    statement: Select[T],
    params: PageParams,
    *,
    order_by: Sequence[InstrumentedAttribute[Any] | UnaryExpression[Any]],
    convert: Callable[[T], Item],
) -> Page[Item]:
    """One page of `statement`, a `select(Model)` without ORDER BY and LIMIT.

    Args:
        order_by: columns of the model, all ascending or all descending, unique together (end with
            the primary key), never NULL, and covered by an index in this order.
        convert: makes an item of the page from a row, such as `BookRead.model_validate`.

    Raises:
        BadRequest: when the cursor is not one that this list gave out.
    """
    keyset = Keyset.of(order_by)
    backward = False
    if params.cursor is not None:
        backward, values = decode(params.cursor, keyset)
        statement = statement.where(keyset.beyond(values, backward=backward))
    # One row more than asked tells whether there is another page, without counting.
    rows = await session.scalars(
        statement.order_by(*keyset.ordered(backward=backward)).limit(params.limit + 1)
    )
    more = len(rows) > params.limit
    rows = rows[: params.limit]
    if backward:
        rows = rows[::-1]
    # Whence we came, there is a page; where we go, there is one if there was a row too many.
    before, after = (more, True) if backward else (params.cursor is not None, more)
    return Page(
        items=[convert(row) for row in rows],
        next=encode(rows[-1], keyset, backward=False) if rows and after else None,
        prev=encode(rows[0], keyset, backward=True) if rows and before else None,
    )


def encode(row: object, keyset: Keyset, *, backward: bool) -> str:
    """The cursor to the page behind (or, backward, before) `row`."""
    values = [getattr(row, column.key) for column in keyset.columns]
    # `default=str` because asyncpg's UUID is a subclass, which orjson refuses.
    payload = orjson.dumps([VERSION, keyset.fingerprint, backward, values], default=str)
    return base64.urlsafe_b64encode(_sign(payload) + payload).rstrip(b"=").decode()


def decode(cursor: str, keyset: Keyset) -> tuple[bool, list[Any]]:
    """Whether the cursor leads backward, and the values of the row that it stands on.

    Raises:
        BadRequest: when it is garbage, tampered with, of another list or of another version.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        signature, payload = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _sign(payload)):
            raise ValueError("signature")
        version, fingerprint, backward, values = orjson.loads(payload)
        if (version, fingerprint) != (VERSION, keyset.fingerprint):
            raise ValueError("another list")
        return backward, [
            _adapter(column.type.python_type).validate_python(value)
            for column, value in zip(keyset.columns, values, strict=True)
        ]
    except (ValueError, binascii.Error, ValidationError) as error:
        raise BadRequest(
            "The cursor is not valid for this list; start again without one."
        ) from error


@lru_cache
def _adapter(python_type: type[Any]) -> TypeAdapter[Any]:
    # Building one costs more than using it.
    return TypeAdapter(python_type)


def _sign(payload: bytes) -> bytes:
    key = get_settings().cursor_secret.get_secret_value().encode()
    return hmac.digest(key, payload, hashlib.sha256)[:SIGNATURE_BYTES]
