"""What a response allows caches to do with it: declared at the route, said in headers.

    @router.get("/{user_id}", response_model=UserRead)
    @public(ttl_s=60, tags=("user:{user_id}",))
    async def read_user(user_id: UUID, ...)

Who declares nothing is `never_stored`.
"""

from app.core.http_caching.middleware import HttpCaching
from app.core.http_caching.policy import Policy, never_stored, private, public
from app.core.http_caching.routes import Routes
from app.core.http_caching.tags import tag

__all__ = ["HttpCaching", "Policy", "Routes", "never_stored", "private", "public", "tag"]
