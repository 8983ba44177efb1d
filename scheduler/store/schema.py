"""Tables of the SQL store, in SQLAlchemy Core; how they came to be lies in `migrations/versions`.

`events` is the truth; `documents` hold bodies that are too many to keep in memory; `requests` the answers kept for
retries. Bodies are JSON bytes with sorted keys, so that equal content is equal bytes.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
)

# SQLite makes the primary key the row id itself only when the type is spelled INTEGER
BIG = BigInteger().with_variant(Integer, "sqlite")
# lists and prefixes go by code point, as SQLite compares anyway
NAME = String(255).with_variant(String(255, collation="C"), "postgresql")

metadata = MetaData()

events = Table(
    "events",
    metadata,
    Column("revision", BIG, primary_key=True, autoincrement=False),
    Column("at_s", BIG, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("subject", NAME, nullable=False),
    # last, so that a scan never touches the overflow pages of long bodies
    Column("body", LargeBinary, nullable=False),
    Index("events_by_kind", "kind", "revision"),
    Index("events_by_subject", "subject", "revision"),
)

documents = Table(
    "documents",
    metadata,
    Column("collection", String(32), nullable=False),
    Column("name", NAME, nullable=False),
    Column("parent", NAME, nullable=False),
    Column("state", String(32), nullable=False),
    Column("revision", BIG, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("collection", "name", name="documents_key"),
    Index("documents_by_parent", "collection", "parent", "name"),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", String(128), primary_key=True),
    Column("fingerprint", String(128), nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("at_s", BIG, nullable=False),
    Index("requests_by_age", "at_s"),
)
