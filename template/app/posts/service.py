"""What can be done with posts, without HTTP."""

from uuid import UUID

from sqlalchemy import Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload

from app.core.database import ReadSession, WriteSession, violated_constraint
from app.core.pagination import Page, PageParams, paginate
from app.core.problems import Conflict, NotFound
from app.posts.models import Post
from app.posts.schemas import PostCreate, PostRead, PostUpdate


def with_author() -> Select[Post]:
    """Posts and authors in one statement: a post has exactly one, so a JOIN repeats nothing."""
    return select(Post).options(joinedload(Post.author, innerjoin=True))


async def publish(session: WriteSession, data: PostCreate) -> PostRead:
    """Create a post.

    Raises:
        Conflict: when there is no such author.
    """
    post = Post(**data.model_dump())
    session.add(post)
    try:
        await session.flush()
    except IntegrityError as error:
        if violated_constraint(error) == "fk_posts_author_id":
            raise Conflict(f"There is no user {data.author_id} to be the author.") from error
        raise
    return await get_post(session, post.id)


async def get_post(session: ReadSession, post_id: UUID) -> PostRead:
    """A post with its author.

    Raises:
        NotFound: when there is no such post.
    """
    post = await session.scalar(with_author().where(Post.id == post_id))
    if post is None:
        raise NotFound(f"There is no post {post_id}.")
    return PostRead.model_validate(post)


async def list_posts(
    session: ReadSession, params: PageParams, *, author_id: UUID | None = None
) -> Page[PostRead]:
    """Posts with their authors, the newest first; all, or one author's."""
    statement = with_author()
    if author_id is not None:
        statement = statement.where(Post.author_id == author_id)
    return await paginate(
        session,
        statement,
        params,
        order_by=(Post.created_at.desc(), Post.id.desc()),
        convert=PostRead.model_validate,
    )


async def change(session: WriteSession, post_id: UUID, data: PostUpdate) -> PostRead:
    """Change the fields that `data` sets.

    Raises:
        NotFound: when there is no such post.
    """
    if changes := data.sent():
        await session.execute(update(Post).where(Post.id == post_id).values(changes))
    return await get_post(session, post_id)
