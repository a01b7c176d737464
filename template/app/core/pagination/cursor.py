"""Keyset pagination: a page starts after the last row of the page before, so writes shift nothing.

A cursor is opaque and signed: clients cannot forge one, nor use that of another list.
"""

import base64
import hmac
from collections.abc import Awaitable, Callable, Sequence
from functools import reduce
from itertools import product
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, TypeVar, TypeVarTuple

import orjson
from pydantic import Field
from sqlalchemy import Integer, Select, bindparam, inspect

from app.core.database import PreparedRead, ReadSession, Row
from app.core.http.problems import BadRequest
from app.core.pagination.keyset import Keyset, ranges
from app.core.pagination.page import DEFAULT_LIMIT, ListParams, OrderBy, Page
from app.core.settings.pagination import PaginationSettings

VERSION = 3
SIGNATURE_BYTES = 16

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Item = TypeVar("Item")


class PageParams(ListParams):
    """The query parameters of a list: `Annotated[PageParams, Query()]`."""

    position: ClassVar[str] = "cursor"

    cursor: str | None = Field(
        None,
        # The largest values of an index, 2,704 bytes, make cursors of 3,700 characters.
        max_length=4000,
        description="`next` or `prev` of another page; absent for the first page.",
    )


class Signer:
    """Signs cursors with the secret of the settings, which the lifespan passes to `open`."""

    _keyed: hmac.HMAC | None = None

    def open(self, settings: PaginationSettings) -> None:
        # To copy this state takes a quarter of the time of a new one.
        self._keyed = hmac.new(settings.cursor_secret.get_secret_value().encode(), None, "sha256")

    def sign(self, payload: bytes, keyset: Keyset) -> bytes:
        """Return the first bytes of an HMAC-SHA256, which is valid for lists in this order only."""
        if self._keyed is None:
            raise RuntimeError("Cursors have no secret: use `async with lifecycle.resources(...)`.")
        signature = self._keyed.copy()
        signature.update(f"{VERSION} {keyset.fingerprint} ".encode() + payload)
        return signature.digest()[:SIGNATURE_BYTES]


signer = Signer()


class Cursor(NamedTuple):
    """The position after the row with these values, or before it if `backward`; None is NULL."""

    backward: bool
    values: Sequence[Any]

    @property
    def shape(self) -> tuple[bool, ...]:
        """The direction and which values are NULL: all that a statement depends on."""
        return (self.backward, *(value is None for value in self.values))


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
        ValueError: when `Keyset.of` refuses the order.
        UnmappedColumnError: when it has a column of another model.
    """
    keyset = Keyset.of(order_by)
    mapper = inspect(statement.column_descriptions[0]["entity"]).mapper
    names = [mapper.get_property_by_column(key.column).key for key in keyset.keys]
    cursor = decode(params.cursor, keyset)
    selects = _selects(statement.limit(params.limit + 1), keyset, cursor)
    getters = [attrgetter(name) for name in names]
    page = await _page(selects, session.scalars, params.limit, cursor, keyset, getters)
    return Page(items=[convert(row) for row in page.items], next=page.next, prev=page.prev)


class PreparedList:
    """A list in the prepared lane, declared and compiled once, at import; its items are rows.

    Raises:
        ValueError: when a column of `order_by` is not selected, `Keyset.of` refuses it, or the
            statement cannot be prepared.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]], *, order_by: OrderBy) -> None:
        """Take `statement` and `order_by` as for `paginate`; parameters are `bindparam`s."""
        self._keyset = Keyset.of(order_by)
        self._getters = [_getter(statement, key.column) for key in self._keyset.keys]
        values: list[Any] = [(..., None) if key.nullable else (...,) for key in self._keyset.keys]
        cursors = [
            Cursor(backward, each) for backward in (False, True) for each in product(*values)
        ]
        # PostgreSQL plans a LIMIT that is a parameter at every call: the default is a constant.
        usual = statement.limit(DEFAULT_LIMIT + 1)
        other = statement.limit(bindparam("page_rows", type_=Integer))
        self._reads = {
            (limited is usual, cursor and cursor.shape): [
                PreparedRead(select) for select in _selects(limited, self._keyset, cursor)
            ]
            for limited, cursor in product((usual, other), (None, *cursors))
        }

    async def page(self, session: ReadSession, params: PageParams, **values: Any) -> Page[Row]:
        """Return a page; `values` are the parameters; BadRequest as from `paginate`."""
        cursor = decode(params.cursor, self._keyset)
        if cursor:
            values |= {f"page_{number}": value for number, value in enumerate(cursor.values)}
        values["page_rows"] = params.limit + 1

        def fetch(read: PreparedRead) -> Awaitable[list[Row]]:
            # Each range has only some of the parameters.
            names = read.parameters & values.keys()
            return session.fetch(read, **{name: values[name] for name in names})

        reads = self._reads[params.limit == DEFAULT_LIMIT, cursor and cursor.shape]
        return await _page(reads, fetch, params.limit, cursor, self._keyset, self._getters)


def _selects(statement: Select[*Ts], keyset: Keyset, cursor: Cursor | None) -> list[Select[*Ts]]:
    """Return a SELECT for each range of the page."""
    if cursor is None:
        return [statement.order_by(*(key.ordering() for key in keyset.keys))]
    keys = [key.reversed() for key in keyset.keys] if cursor.backward else keyset.keys
    parameters = [
        None if value is None else key.parameter(f"page_{number}", value)
        for number, (key, value) in enumerate(zip(keys, cursor.values, strict=True))
    ]
    statement = statement.order_by(*(key.ordering() for key in keys))
    return [statement.where(condition) for condition in ranges(keys, parameters)]


async def _page(
    statements: Sequence[T],
    read: Callable[[T], Awaitable[Sequence[Item]]],
    limit: int,
    cursor: Cursor | None,
    keyset: Keyset,
    getters: Sequence[Callable[[Item], Any]],
) -> Page[Item]:
    """Read the ranges in turn until there is a row more than `limit`: another page follows."""
    rows = list(await read(statements[0]))
    for statement in statements[1:]:
        if len(rows) <= limit:
            rows += await read(statement)
    more = len(rows) > limit
    items = rows[:limit]
    backward = cursor is not None and cursor.backward
    if backward:
        items.reverse()

    def position(row: Item, *, backward: bool) -> str:
        return encode(Cursor(backward, [get(row) for get in getters]), keyset)

    # The page that the cursor came from exists; the next one in this direction exists if `more`.
    before, after = (more, True) if backward else (cursor is not None, more)
    return Page(
        items=items,
        next=position(items[-1], backward=False) if items and after else None,
        prev=position(items[0], backward=True) if items and before else None,
    )


def encode(cursor: Cursor, keyset: Keyset) -> str:
    """Return the text of a cursor for clients; its values are those of the columns."""
    values = [key.dump(value) for key, value in zip(keyset.keys, cursor.values, strict=True)]
    payload = orjson.dumps([cursor.backward, values])
    return base64.urlsafe_b64encode(signer.sign(payload, keyset) + payload).rstrip(b"=").decode()


def decode(text: str | None, keyset: Keyset) -> Cursor | None:
    """Return the cursor; BadRequest if it is malformed, forged, or that of another list."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        signature, payload = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, signer.sign(payload, keyset)):
            raise ValueError("signature")
    except ValueError as error:
        raise BadRequest(
            "The cursor is not valid for this list: start again without a cursor."
        ) from error
    backward, texts = orjson.loads(payload)
    keys = zip(keyset.keys, texts, strict=True)
    return Cursor(backward, [None if text is None else key.load(text) for key, text in keys])


def _getter(statement: Select[*tuple[Any, ...]], column: Any) -> Callable[[Row], Any]:
    """Return the function that gets the value of the column from a row of the statement."""
    for selected in statement.exported_columns:
        if selected.shares_lineage(column):
            path = str(selected.key).split(".")
            # An object of which all columns are NULL is None.
            return lambda row: reduce(lambda part, name: part and part[name], path, row)
    raise ValueError(f"order_by has {column}, which is not selected")
