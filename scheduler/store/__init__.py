"""Stores: SQL (SQLite by default) and memory, both behind `scheduler.ports.Store`."""

from __future__ import annotations

from scheduler.store.memory import MemoryStore
from scheduler.store.sql import SqlStore, refuse_unusable

__all__ = ["MemoryStore", "SqlStore", "open_store", "refuse_unusable_store"]


def refuse_unusable_store(url: str) -> None:
    """InvalidRequest with the cause when `open_store` would refuse `url` now: no folder, no driver, in use."""
    if url != "memory":
        refuse_unusable(url)


def open_store(url: str, *, outlives_power_cut: bool = True) -> MemoryStore | SqlStore:
    """The store that `url` names: `memory`, or an SQLAlchemy URL such as `sqlite:///suanli.db`."""
    return MemoryStore() if url == "memory" else SqlStore(url, outlives_power_cut=outlives_power_cut)
