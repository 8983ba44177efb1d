"""Records that cross the store port: drafts of events, documents, and one atomic batch of both.

The log is the truth: every change of state is an event. Documents are the serialised bodies that are too large or too
many to keep in memory (workloads, plans, rounds, policies, the fleet); they change in the same transaction as the
events that changed them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from suanli.model import EventKind

GC_THRESHOLD = (50_000, 20, 50)
"""For `gc` where records are kept: they come by the ten thousand and hold no cycles; at Python's default the collector
took half of the time of a batch looking for some."""


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event before the store gives it a revision. `body` is plain JSON: str, int, float, bool, list, dict."""

    at_s: int
    kind: EventKind
    subject: str
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """A serialised body at (`collection`, `name`); `body` None deletes it.

    `parent` and `state` are indexed for lists; `revision` is set by the store to the batch's last revision and serves
    as the etag.
    """

    collection: str
    name: str
    body: bytes | None
    parent: str = ""
    state: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """Answer kept under a request id: the same id with the same fingerprint gets the same answer again."""

    request_id: str
    fingerprint: str
    response: bytes
    at_s: int


@dataclass(frozen=True, slots=True)
class CommitBatch:
    """Everything one decision changes, applied in one transaction or not at all."""

    events: tuple[EventDraft, ...] = ()
    documents: tuple[Document, ...] = ()
    requests: tuple[StoredRequest, ...] = ()


COLLECTION_WORKLOADS = "workloads"
COLLECTION_FLEET = "fleet"
COLLECTION_POLICIES = "policies"
COLLECTION_PLANS = "plans"
COLLECTION_RUNS = "runs"
COLLECTION_OPERATIONS = "operations"
