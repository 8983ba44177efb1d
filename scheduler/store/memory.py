"""Store in memory: the contract of the SQL store without durability, for baselines in process and for tests."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import replace

from scheduler.domain.records import CommitBatch, Document, EventDraft, StoredRequest
from scheduler.store.bodies import encode_body, read_event, stored_event
from suanli.model import Conflict, Event, EventKind, WatchExpired


class MemoryStore:
    """Append-only log, documents and requests in lists and dicts; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._log: list[tuple[int, EventKind, str, bytes]] = []
        self._documents: dict[str, dict[str, Document]] = {}
        self._names: dict[str, list[str]] = {}
        self._requests: dict[str, StoredRequest] = {}

    def commit(self, batches: Sequence[CommitBatch], expect_revision: int | None = None) -> list[list[Event]]:
        """See `scheduler.ports.Store.commit`; "durable" here means: until the process ends."""
        encoded = [[(draft, encode_body(draft.body)) for draft in batch.events] for batch in batches]
        with self._lock:
            if expect_revision is not None and expect_revision != len(self._log):
                raise Conflict(f"the log is at revision {len(self._log)}, expected {expect_revision}")
            return [self._write(batch, events) for batch, events in zip(batches, encoded, strict=True)]

    def last_revision(self) -> int:
        """See `scheduler.ports.Store.last_revision`."""
        with self._lock:
            return len(self._log)

    def events(
        self, after_revision: int, limit: int, kinds: Sequence[EventKind] = (), subject_prefix: str = ""
    ) -> list[Event]:
        """See `scheduler.ports.Store.events`."""
        with self._lock:
            last = len(self._log)
            if after_revision > last:
                raise WatchExpired(f"revision {after_revision} is ahead of the log, which is at {last}")
            found: list[Event] = []
            for index in range(after_revision, last):
                at_s, kind, subject, raw = self._log[index]
                if (kinds and kind not in kinds) or not subject.startswith(subject_prefix):
                    continue
                if len(found) == limit:
                    break
                found.append(read_event(index + 1, at_s, kind.value, subject, raw))
            return found

    def latest_events(self, kinds: Sequence[EventKind], limit: int, before_revision: int = 0) -> list[Event]:
        """See `scheduler.ports.Store.latest_events`."""
        with self._lock:
            found: list[Event] = []
            for index in range((before_revision or len(self._log) + 1) - 2, -1, -1):
                if len(found) == limit:
                    break
                at_s, kind, subject, raw = self._log[index]
                if kind in kinds:
                    found.append(read_event(index + 1, at_s, kind.value, subject, raw))
            return found

    def events_about(self, subjects: Sequence[str], kinds: Sequence[EventKind] = ()) -> list[Event]:
        """See `scheduler.ports.Store.events_about`."""
        wanted = set(subjects)
        with self._lock:
            return [
                read_event(index + 1, at_s, kind.value, subject, raw)
                for index, (at_s, kind, subject, raw) in enumerate(self._log)
                if subject in wanted and (not kinds or kind in kinds)
            ]

    def request(self, request_id: str) -> StoredRequest | None:
        """See `scheduler.ports.Store.request`."""
        return self.requests([request_id]).get(request_id)

    def requests(self, request_ids: Sequence[str]) -> dict[str, StoredRequest]:
        """See `scheduler.ports.Store.requests`."""
        with self._lock:
            return {i: self._requests[i] for i in request_ids if i in self._requests}

    def forget_requests(self, before_s: int) -> int:
        """See `scheduler.ports.Store.forget_requests`."""
        with self._lock:
            old = [i for i, request in self._requests.items() if request.at_s < before_s]
            for request_id in old:
                del self._requests[request_id]
            return len(old)

    def document(self, collection: str, name: str) -> Document | None:
        """See `scheduler.ports.Store.document`."""
        with self._lock:
            return self._documents.get(collection, {}).get(name)

    def documents(
        self,
        collection: str,
        parent: str = "",
        state: str = "",
        after_name: str = "",
        limit: int = 1000,
        descending: bool = False,
    ) -> list[Document]:
        """See `scheduler.ports.Store.documents`."""
        with self._lock:
            names = self._names.get(collection, [])
            here = self._documents.get(collection, {})
            found: list[Document] = []
            for index in _page(names, after_name, descending):
                document = here[names[index]]
                if (parent and document.parent != parent) or (state and document.state != state):
                    continue
                if len(found) == limit:
                    break
                found.append(document)
            return found

    def documents_named(self, collection: str, names: Sequence[str]) -> dict[str, Document]:
        """See `scheduler.ports.Store.documents_named`."""
        with self._lock:
            here = self._documents.get(collection, {})
            return {name: here[name] for name in names if name in here}

    def close(self) -> None:
        """Nothing to release."""

    def _write(self, batch: CommitBatch, encoded: Sequence[tuple[EventDraft, bytes]]) -> list[Event]:
        written: list[Event] = []
        for draft, raw in encoded:
            self._log.append((draft.at_s, draft.kind, draft.subject, raw))
            written.append(stored_event(len(self._log), draft, raw))
        for document in batch.documents:
            self._put(replace(document, revision=len(self._log)))
        for request in batch.requests:
            self._requests[request.request_id] = request
        return written

    def _put(self, document: Document) -> None:
        here = self._documents.setdefault(document.collection, {})
        names = self._names.setdefault(document.collection, [])
        known = document.name in here
        if document.body is None:
            if known:
                del here[document.name]
                names.remove(document.name)
            return
        if not known:
            insort(names, document.name)
        here[document.name] = document


def _page(names: list[str], after_name: str, descending: bool) -> range:
    """Indices of a sorted list behind `after_name` ("": from the end in question)."""
    if descending:
        return range((bisect_left(names, after_name) if after_name else len(names)) - 1, -1, -1)
    return range(bisect_right(names, after_name) if after_name else 0, len(names))
