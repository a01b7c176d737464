"""The answers of requests with an Idempotency-Key.

This is a line of its own, because the answer `idempotency` of the template decides whether it is
there. docs/configuration.md says how to remove it.
"""

import sqlalchemy as sa
from alembic import op

revision = "core_idempotency"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotent_answer",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("headers", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_idempotent_answer"),
    )
    op.create_index("ix_idempotent_answer_expires_at", "idempotent_answer", ["expires_at"])


def downgrade() -> None:
    op.drop_table("idempotent_answer")
