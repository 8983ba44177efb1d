"""Suanli (算力): placement of AI jobs and digital twins under latency and PUE limits.

`from suanli import Client, AsyncClient` is loaded when asked for, so that importing `suanli` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suanli.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in ("Client", "AsyncClient"):
        from suanli import client

        return getattr(client, name)
    raise AttributeError(f"module 'suanli' has no attribute {name!r}")
