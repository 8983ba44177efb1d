"""Stores: SQL (SQLite by default) and memory, both behind `scheduler.ports.Store`."""

from __future__ import annotations

from scheduler.store.memory import MemoryStore
from scheduler.store.sql import SqlStore

__all__ = ["MemoryStore", "SqlStore", "open_store"]


def open_store(url: str, *, outlives_power_cut: bool = True) -> MemoryStore | SqlStore:
    """The store that `url` names: `memory`, or an SQLAlchemy URL such as `sqlite:///suanli.db`."""
    return MemoryStore() if url == "memory" else SqlStore(url, outlives_power_cut=outlives_power_cut)
