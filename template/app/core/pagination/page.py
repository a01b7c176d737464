"""The page of a list, its query parameters, and the response made of both."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar
from urllib.parse import urlencode

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field
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

    model_config = ConfigDict(extra="forbid")
    position: ClassVar[str]

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Maximum number of items.")

    def links(self, page: Page[Any]) -> dict[str, str]:
        """Return the `Link` header (RFC 8288) with the neighbouring pages, if there are any.

        The links are relative to the URL of the request, so they stay valid behind any proxy.
        """
        if not (page.next or page.prev):
            return {}
        sent = self.model_dump(mode="json", exclude_unset=True, exclude={self.position})
        sent[self.position] = ""
        fields = type(self).model_fields
        # Requests have the aliases of fields.
        aliased = [(str(fields[name].validation_alias or name), sent[name]) for name in sent]
        query = urlencode(aliased, doseq=True)
        links = [
            # A position needs no escaping.
            f'<?{query}{position}>; rel="{relation}"'
            for relation, position in (("next", page.next), ("prev", page.prev))
            if position
        ]
        return {"Link": ", ".join(links)}


def page_response(params: ListParams, page: Page[Any]) -> Response:
    """Return the response of a prepared list: the page as JSON, with its links."""
    body = {"items": page.items, "next": page.next, "prev": page.prev}
    return json_response(body, headers=params.links(page))
