"""The first schema: events, documents, requests.

Written out instead of `metadata.create_all`, so that later changes of `schema.py` cannot alter what step 1 did.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_NAME = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the three tables with their indexes."""
    op.create_table(
        "events",
        sa.Column("revision", _BIG, primary_key=True, autoincrement=False),
        sa.Column("at_s", _BIG, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("subject", _NAME, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("events_by_kind", "events", ["kind", "revision"])
    op.create_index("events_by_subject", "events", ["subject", "revision"])
    op.create_table(
        "documents",
        sa.Column("collection", sa.String(32), nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("parent", _NAME, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("revision", _BIG, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("collection", "name", name="documents_key"),
    )
    op.create_index("documents_by_parent", "documents", ["collection", "parent", "name"])
    op.create_table(
        "requests",
        sa.Column("request_id", sa.String(128), primary_key=True),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("at_s", _BIG, nullable=False),
    )
    op.create_index("requests_by_age", "requests", ["at_s"])


def downgrade() -> None:
    """Drop everything; there is nothing below step 1."""
    op.drop_table("requests")
    op.drop_table("documents")
    op.drop_table("events")
