"""The typed SDK: `Client` and `AsyncClient`, taking and returning the values of `suanli.model`."""

from __future__ import annotations

from suanli.client.aio import AsyncClient
from suanli.client.core import ADDRESS_VARIABLE, DEFAULT_ADDRESS, Backoff, Page, Waiting, new_request_id
from suanli.client.sync import Client

__all__ = [
    "ADDRESS_VARIABLE",
    "DEFAULT_ADDRESS",
    "AsyncClient",
    "Backoff",
    "Client",
    "Page",
    "Waiting",
    "new_request_id",
]
