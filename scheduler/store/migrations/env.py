"""Alembic environment: runs on the connection that `scheduler.store.sql` hands over, never on one of its own."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
