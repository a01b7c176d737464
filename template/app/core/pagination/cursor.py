"""Keyset pagination: a page starts after the last row of the page before, so writes shift nothing.

A cursor is opaque, signed and versioned: clients cannot forge one.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, TypeVar, TypeVarTuple

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from sqlalchemy import ColumnElement, Integer, Select, bindparam, literal

from app.core.database import PreparedRead, ReadSession, Row
from app.core.http.problems import BadRequest
from app.core.pagination.keyset import Keyset
from app.core.pagination.page import DEFAULT_LIMIT, ListParams, OrderBy, Page
from app.core.pagination.settings import PaginationSettings

VERSION = 2
SIGNATURE_BYTES = 16

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Item = TypeVar("Item")
Values = tuple[Any, ...]


class PageParams(ListParams):
    """The query parameters of a list: `Annotated[PageParams, Query()]`."""

    position: ClassVar[str] = "cursor"

    cursor: str | None = Field(
        None,
        max_length=1000,
        description="`next` or `prev` of another page; absent for the first page.",
    )


class Signer:
    """Signs cursors with the secret of the settings."""

    def __init__(self) -> None:
        self._key: bytes | None = None

    def open(self, settings: PaginationSettings) -> None:
        """Use the secret of these settings."""
        self._key = settings.cursor_secret.get_secret_value().encode()

    def sign(self, payload: bytes) -> bytes:
        """Return the first `SIGNATURE_BYTES` of the payload's HMAC-SHA256."""
        if self._key is None:
            raise RuntimeError("Cursors have no secret: use `async with lifecycle.resources(...)`.")
        return hmac.digest(self._key, payload, hashlib.sha256)[:SIGNATURE_BYTES]


signer = Signer()


class Cursor(NamedTuple):
    """The position after the row with these values, or before it if `backward`."""

    values: Values
    backward: bool


async def paginate(
    session: ReadSession,
    statement: Select[T],
    params: PageParams,
    *,
    order_by: OrderBy,
    convert: Callable[[T], Item],
) -> Page[Item]:
    """Return a page of `statement`, a `select(Model)` without ORDER BY and LIMIT.

    Args:
        order_by: columns of the model that are unique together: end with the primary key. With an
            index on them, in these directions, every page costs the same.
        convert: makes an item of the page from an entity, such as `BookRead.model_validate`.

    Raises:
        BadRequest: when the cursor is invalid, or belongs to another list.
    """
    keyset = Keyset.of(order_by)

    def values_of(row: T) -> Values:
        return tuple(getattr(row, key.column.key) for key in keyset.keys)

    cursor = decode(params.cursor, keyset)
    statements = _selects(statement.limit(params.limit + 1), keyset, cursor)
    rows = await _read(statements, session.scalars, params.limit + 1)
    page = _page(rows, params.limit, cursor, keyset, values_of)
    return Page(items=[convert(row) for row in page.items], next=page.next, prev=page.prev)


class PreparedList:
    """A list in the prepared lane, declared once at import; its items are rows.

    Raises:
        ValueError: when a column of `order_by` is not selected, or the SQL cannot be prepared.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]], *, order_by: OrderBy) -> None:
        """Take `statement` and `order_by` as for `paginate`; parameters are `bindparam`s."""
        self._statement = statement
        self._keyset = Keyset.of(order_by)
        names = [_name(statement, key.column) for key in self._keyset.keys]
        self._values_of: Callable[[Row], Values] = (
            itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
        )
        # The key: backward, which values are NULL, default limit.
        self._prepared: dict[tuple[bool, tuple[bool, ...], bool], list[PreparedRead]] = {}
        self._reads(None, usual_limit=True)

    async def page(self, session: ReadSession, params: PageParams, **values: Any) -> Page[Row]:
        """Return a page; `values` are the parameters; BadRequest as from `paginate`."""
        cursor = decode(params.cursor, self._keyset)
        usual_limit = params.limit == DEFAULT_LIMIT
        if not usual_limit:
            values["page_rows"] = params.limit + 1
        if cursor:
            for number, value in enumerate(cursor.values):
                if value is not None:
                    values[f"page_{number}"] = value

        async def fetch(read: PreparedRead) -> list[Row]:
            # Each range has only some of the parameters.
            return await session.fetch(
                read, **{name: values[name] for name in values if name in read.parameters}
            )

        reads = self._reads(cursor, usual_limit=usual_limit)
        rows = await _read(reads, fetch, params.limit + 1)
        return _page(rows, params.limit, cursor, self._keyset, self._values_of)

    def _reads(self, cursor: Cursor | None, *, usual_limit: bool) -> list[PreparedRead]:
        backward = cursor is not None and cursor.backward
        nulls = tuple(value is None for value in cursor.values) if cursor else ()
        key = (backward, nulls, usual_limit)
        if key not in self._prepared:
            # PostgreSQL plans a LIMIT that is a parameter at every call: the default is a constant.
            limit = DEFAULT_LIMIT + 1 if usual_limit else bindparam("page_rows", type_=Integer)
            selects = _selects(self._statement.limit(limit), self._keyset, cursor, prepared=True)
            self._prepared[key] = [PreparedRead(select) for select in selects]
        return self._prepared[key]


def _selects(
    statement: Select[*Ts], keyset: Keyset, cursor: Cursor | None, *, prepared: bool = False
) -> list[Select[*Ts]]:
    """Return a SELECT for each range of the page; `prepared` makes parameters of the values."""
    if cursor is None:
        return [statement.order_by(*keyset.ordering())]
    values: list[ColumnElement[Any] | None] = [None] * len(keyset.keys)
    for number, (key, value) in enumerate(zip(keyset.keys, cursor.values, strict=True)):
        if value is not None and prepared:
            values[number] = bindparam(f"page_{number}", type_=key.column.type)
        elif value is not None:
            values[number] = literal(value, key.column.type)
    directed = keyset.reversed() if cursor.backward else keyset
    statement = statement.order_by(*directed.ordering())
    return [statement.where(condition) for condition in directed.ranges(values)]


async def _read(
    statements: Sequence[T], read: Callable[[T], Awaitable[Sequence[Item]]], enough: int
) -> Sequence[Item]:
    rows = await read(statements[0])
    for statement in statements[1:]:
        if len(rows) < enough:
            rows = [*rows, *await read(statement)]
    return rows[:enough]


def _page(
    rows: Sequence[T],
    limit: int,
    cursor: Cursor | None,
    keyset: Keyset,
    values_of: Callable[[T], Values],
) -> Page[T]:
    """Return the page of `rows`; a row more than `limit` shows that another page follows."""
    more = len(rows) > limit
    items = list(rows[:limit])
    backward = cursor is not None and cursor.backward
    if backward:
        items.reverse()
    # The page that the cursor came from exists; the next one in this direction exists if `more`.
    before, after = (more, True) if backward else (cursor is not None, more)
    return Page(
        items=items,
        next=encode(values_of(items[-1]), keyset, backward=False) if items and after else None,
        prev=encode(values_of(items[0]), keyset, backward=True) if items and before else None,
    )


def encode(values: Values, keyset: Keyset, *, backward: bool) -> str:
    """Return the cursor of the page after the row with these values; before it if `backward`."""
    payload = to_json([VERSION, keyset.fingerprint, backward, values], inf_nan_mode="strings")
    return base64.urlsafe_b64encode(signer.sign(payload) + payload).rstrip(b"=").decode()


def decode(cursor: str | None, keyset: Keyset) -> Cursor | None:
    """Return the position; BadRequest for a cursor that is malformed, forged or of another list."""
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        signature, payload = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, signer.sign(payload)):
            raise ValueError("signature")
        version, fingerprint, backward, values = orjson.loads(payload)
        if (version, fingerprint) != (VERSION, keyset.fingerprint):
            raise ValueError("another list")
        return Cursor(
            tuple(
                None
                if value is None
                else _adapter(key.column.type.python_type).validate_python(value)
                for key, value in zip(keyset.keys, values, strict=True)
            ),
            backward,
        )
    except (ValueError, binascii.Error, ValidationError) as error:
        raise BadRequest(
            "The cursor is not valid for this list: start again without a cursor."
        ) from error


def _name(statement: Select[*tuple[Any, ...]], column: Any) -> str:
    """Return the key of the column in the rows of the statement."""
    for selected in statement.exported_columns:
        if selected.shares_lineage(column):
            return str(selected.key)
    raise ValueError(f"order_by has {column}, which is not selected")


@lru_cache
def _adapter(python_type: type[Any]) -> TypeAdapter[Any]:
    # Building an adapter costs more than using it.
    return TypeAdapter(python_type)
