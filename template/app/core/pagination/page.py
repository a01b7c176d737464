"""The page of a list, its query parameters, and the response made of both."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar
from urllib.parse import urlencode

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import UnaryExpression

from app.core.http.serialization import json_response

DEFAULT_LIMIT = 20
MAX_LIMIT = 100

Item = TypeVar("Item")
OrderBy: TypeAlias = Sequence[InstrumentedAttribute[Any] | UnaryExpression[Any]]


class Page(BaseModel, Generic[Item]):
    """`next` and `prev` are the positions of the neighbouring pages, or null at an end."""

    items: list[Item]
    next: str | None = None
    prev: str | None = None


class ListParams(BaseModel):
    """The query parameters of every list; `position` names the one that selects the page."""

    # Links repeat an infinite number, which is `null` in JSON otherwise.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")
    position: ClassVar[str]

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Maximum number of items.")

    def links(self, page: Page[Any]) -> dict[str, str]:
        """Return the `Link` header (RFC 8288) with the neighbouring pages, if there are any.

        The links are relative to the URL of the request, so they stay valid behind any proxy.
        """
        if not (page.next or page.prev):
            return {}
        sent = self.model_dump_json(exclude_unset=True, exclude={self.position})
        query = _query(type(self), sent)
        links = [
            # A position needs no escaping.
            f'<?{query}{position}>; rel="{relation}"'
            for relation, position in (("next", page.next), ("prev", page.prev))
            if position
        ]
        return {"Link": ", ".join(links)}


@lru_cache
def _query(params: type[ListParams], sent: str) -> str:
    """Return the query of a link, up to its position; `sent` are the other parameters as JSON.

    Most requests send the same few, and `urlencode` takes 7 us.
    """
    fields = params.model_fields
    values = from_json(sent) | {params.position: ""}
    # Requests have the aliases of fields.
    aliased = [(str(fields[name].validation_alias or name), values[name]) for name in values]
    return urlencode(aliased, doseq=True)


def page_response(params: ListParams, page: Page[Any]) -> Response:
    """Return the response of a prepared list: the page as JSON, with its links."""
    body = {"items": page.items, "next": page.next, "prev": page.prev}
    return json_response(body, headers=params.links(page))
