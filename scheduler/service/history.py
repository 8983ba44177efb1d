"""What lists and watches need beside the planner's state: when each workload came and last changed.

A fold of the same log, kept apart because no decision reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.domain.columns import Columns
from suanli.model import Event, EventKind

# kinds whose subject is a workload, and kinds whose subject is a placement `{workload}/{stage}/{replica}#{incarnation}`
OF_WORKLOAD = (EventKind.WORKLOAD_SUBMITTED, EventKind.WORKLOAD_STATE, EventKind.WORKLOAD_CANCELLED)
OF_PLACEMENT = (
    EventKind.REPLICA_START_ORDERED,
    EventKind.REPLICA_STOP_ORDERED,
    EventKind.REPLICA_RUNNING,
    EventKind.REPLICA_ENDED,
    EventKind.REPLICA_MOVED,
    EventKind.REPLICA_PREEMPTED,
    EventKind.REPLICA_PAUSED,
)
CHANGES_WORKLOAD = OF_WORKLOAD + OF_PLACEMENT
_OF_WORKLOAD, _CHANGES = frozenset(OF_WORKLOAD), frozenset(CHANGES_WORKLOAD)
PLACEMENT_PARTS = 2
"""Parts of a placement's name behind its workload's."""


def workload_of(event: Event) -> str | None:
    """Name of the workload that the event is about, None if it is about none."""
    if event.kind in _OF_WORKLOAD:
        return event.subject
    if event.kind in _CHANGES:
        return event.subject.rsplit("/", PLACEMENT_PARTS)[0]
    return None


class History:
    """Per workload: revision and instant of its submission and of its last change; 32 bytes each."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}
        self._rows = Columns(created=np.int64, created_s=np.int64, changed=np.int64, changed_s=np.int64)

    def __len__(self) -> int:
        return len(self._index)

    def apply(self, events: Sequence[Event]) -> None:
        """Fold events in order."""
        rows, about, born = [], [], []
        for event in events:
            name = workload_of(event)
            if name is None:
                continue
            row = self._index.get(name)
            if row is None:
                row = self._index[name] = len(self._index)
                born.append(event)
            rows.append(row)
            about.append(event)
        if born:
            self._rows.append(len(born), created=[e.revision for e in born], created_s=[e.at_s for e in born])
        if rows:
            # of several changes of one workload the last one stands
            self._rows["changed"][rows] = [e.revision for e in about]
            self._rows["changed_s"][rows] = [e.at_s for e in about]

    def created(self, name: str) -> tuple[int, int]:
        """(revision, instant) of the submission; KeyError for an unknown name."""
        row = self._index[name]
        return int(self._rows["created"][row]), int(self._rows["created_s"][row])

    def changed(self, name: str) -> tuple[int, int]:
        """(revision, instant) of the last change; KeyError for an unknown name."""
        row = self._index[name]
        return int(self._rows["changed"][row]), int(self._rows["changed_s"][row])

    def instants(self, names: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
        """(instant of submission, revision and instant of the last change) of each; KeyError for an unknown name."""
        rows = [self._index[name] for name in names]
        created_s, changed, changed_s = (
            self._rows[k][rows].tolist() for k in ("created_s", "changed", "changed_s")
        )
        return created_s, changed, changed_s
