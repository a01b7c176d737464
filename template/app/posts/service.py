"""What can be done with posts, without HTTP."""

from uuid import UUID

from sqlalchemy import bindparam, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload, selectinload

from app.core.database import PreparedRead, ReadSession, Row, WriteSession, violated_constraint
from app.core.pagination import Page, PageParams, PreparedList
from app.core.problems import Conflict, NotFound
from app.posts.models import Post, PostTag
from app.posts.schemas import PostCreate, PostDetail, PostUpdate
from app.users.models import User

# The columns of `PostRead`.
_POSTS = select(
    Post.id,
    User.id.label("author.id"),
    User.name.label("author.name"),
    Post.title,
    Post.body,
    Post.created_at,
).join(Post.author)
_NEWEST_FIRST = (Post.created_at.desc(), Post.id.desc())
POSTS = PreparedList(_POSTS, order_by=_NEWEST_FIRST)
POSTS_OF_AUTHOR = PreparedList(
    _POSTS.where(Post.author_id == bindparam("author_id")), order_by=_NEWEST_FIRST
)
LATEST_POSTS = PreparedRead(_POSTS.order_by(*_NEWEST_FIRST).limit(5))


async def publish(session: WriteSession, data: PostCreate) -> PostDetail:
    """Create a post with its tags.

    Raises:
        Conflict: when there is no such author.
    """
    tags = [PostTag(name=name) for name in sorted(set(data.tags))]
    post = Post(**data.model_dump(exclude={"tags"}), tags=tags)
    session.add(post)
    try:
        await session.flush()
    except IntegrityError as error:
        if violated_constraint(error) == "fk_posts_author_id":
            raise Conflict(f"There is no user {data.author_id} to be the author.") from error
        raise
    return await get_post(session, post.id)


async def get_post(session: ReadSession, post_id: UUID) -> PostDetail:
    """A post with its author and tags.

    Raises:
        NotFound: when there is no such post.
    """
    post = await session.scalar(
        select(Post)
        .where(Post.id == post_id)
        .options(joinedload(Post.author, innerjoin=True), selectinload(Post.tags))
    )
    if post is None:
        raise NotFound(f"There is no post {post_id}.")
    return PostDetail.model_validate(post)


async def list_posts(
    session: ReadSession, params: PageParams, *, author_id: UUID | None = None
) -> Page[Row]:
    """Posts with their authors, the newest first; all, or one author's."""
    if author_id is None:
        return await POSTS.page(session, params)
    return await POSTS_OF_AUTHOR.page(session, params, author_id=author_id)


async def change(session: WriteSession, post_id: UUID, data: PostUpdate) -> PostDetail:
    """Change the fields that `data` sets.

    Raises:
        NotFound: when there is no such post.
    """
    if changes := data.sent():
        await session.execute(update(Post).where(Post.id == post_id).values(changes))
    return await get_post(session, post_id)
