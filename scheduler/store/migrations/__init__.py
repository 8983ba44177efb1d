"""Alembic migrations of the SQL store, packaged with it and run whenever a store is opened."""
