"""Long-running operations: what was asked for is a document, how far it is follows from the state.

Nothing runs in the background for an operation, so none can be lost by a restart: a drain is done when nothing is left
on its site, whoever moved it.
"""

from __future__ import annotations

from typing import Any

import orjson

from scheduler.domain.records import COLLECTION_OPERATIONS, CommitBatch, Document
from scheduler.domain.state import ClusterState
from scheduler.service.answers import Answer
from scheduler.service.filters import parse_filter
from scheduler.service.paging import Page, page_size, read_token, write_token
from scheduler.service.views import placed_rows
from scheduler.service.workloads import ServiceCore, request_key
from suanli.model import NotFound, Operation

CANCELLED = "cancelled by request"


def drain_document(operation_id: str, site_id: str, node: str, now_s: int, replica_count: int) -> Document:
    """The record of a drain that begins now with so many replicas to move."""
    body = {
        "verb": "drain", "site_id": site_id, "node": node, "created_at_s": now_s,
        "replica_count": replica_count, "error": "", "ended_at_s": 0,
    }  # fmt: skip
    return Document(COLLECTION_OPERATIONS, f"operations/{operation_id}", orjson.dumps(body))


class Operations:
    """See the module."""

    def __init__(self, core: ServiceCore) -> None:
        self._core = core

    def get(self, name: str) -> Operation:
        """One operation as it stands; NotFound."""
        return self._operation(name, self._body(name))

    def page(self, *, size: int = 0, token: str = "", filter_text: str = "") -> Page[Operation]:
        """Operations, newest first; `done = true` and `done = false` filter."""
        size = page_size(size)
        wanted = [c.value.lower() for c in parse_filter(filter_text, ("done",), labels=False).comparisons]
        question = ("operations", filter_text)
        documents = self._core.store.documents(COLLECTION_OPERATIONS, limit=10_000)
        found = [self._operation(d.name, orjson.loads(d.body or b"{}")) for d in documents]
        found = [o for o in found if all(str(o.done).lower() == value for value in wanted)]
        found.sort(key=lambda o: (o.created_at_s or 0, o.name), reverse=True)
        start = read_token(token, question) or 0
        more = start + size < len(found)
        return Page(
            tuple(found[start : start + size]),
            write_token(start + size, question) if more else "",
            len(found),
        )

    def cancel(self, name: str, *, request_id: str = "") -> Answer[Operation]:
        """End an operation early; what it did so far, the cordon included, stays."""

        def decide(state: ClusterState, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            body = self._body(name)
            if self._operation(name, body).done:
                return CommitBatch(), {}
            body = {**body, "error": CANCELLED, "ended_at_s": now_s}
            return CommitBatch((), (Document(COLLECTION_OPERATIONS, name, orjson.dumps(body)),)), {}

        future = self._core.act(decide, request_key(request_id, "operations.cancel", name))
        return Answer(future, lambda _: self.get(name))

    def _body(self, name: str) -> dict[str, Any]:
        document = self._core.store.document(COLLECTION_OPERATIONS, name)
        if document is None or document.body is None:
            raise NotFound(f"no operation {name}")
        body: dict[str, Any] = orjson.loads(document.body)
        return body

    def _operation(self, name: str, body: dict[str, Any]) -> Operation:
        site_id, node = body["site_id"], body["node"]
        left = self._core.read(lambda s: len(list(placed_rows(s, "", site_id, node))))
        asked, error = max(body["replica_count"], left), body["error"]
        done = not left or bool(error)
        return Operation(
            name=name,
            done=done,
            progress_frac=1.0 if not asked else 1.0 - left / asked,
            message=f"{left} of {asked} replicas left" if left else "empty",
            error=error,
            target=f"sites/{site_id}" + (f"/nodes/{node}" if node else ""),
            verb=body["verb"],
            created_at_s=body["created_at_s"],
            ended_at_s=body["ended_at_s"] or None,
        )
