"""What lists share: the shape of a page, its query parameters, and the answer made of both."""

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
    """`next` and `prev` are what to send for the neighbouring pages; null where there is none."""

    items: list[Item]
    next: str | None = None
    prev: str | None = None


class ListParams(BaseModel):
    """The query parameters of every list; what tells one page from another is `position`."""

    model_config = ConfigDict(extra="forbid")
    position: ClassVar[str]

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Most items on the page.")

    def links(self, page: Page[Any]) -> dict[str, str]:
        """The neighbouring pages as a `Link` header (RFC 8288), if there are any.

        They are relative to the request's own URL, so that no proxy can make them wrong.
        """
        if not (page.next or page.prev):
            return {}
        sent = self.model_dump(mode="json", exclude_unset=True, exclude={self.position})
        query = urlencode([*sent.items(), (self.position, "")], doseq=True)
        links = [
            # A position is safe in a URL as it is.
            f'<?{query}{position}>; rel="{relation}"'
            for relation, position in (("next", page.next), ("prev", page.prev))
            if position
        ]
        return {"Link": ", ".join(links)}


def page_response(params: ListParams, page: Page[Any]) -> Response:
    """The answer of a list: the page as JSON, and its neighbours as links."""
    body = {"items": page.items, "next": page.next, "prev": page.prev}
    return json_response(body, headers=params.links(page))
