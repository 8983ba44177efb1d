"""A watch, cut anywhere and as often as one likes, tells what a full list tells: nothing missed, nothing twice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from suanli.client import Client
from suanli.client.core import WatchFold
from suanli.model import ChangeType, Workload, WorkloadChange, WorkloadRecord, WorkloadState
from tests.fake_service import FakeService

NAMES = [f"tenants/t/workloads/{c}" for c in "abcd"]
ADDED, MODIFIED, DELETED, BOOKMARK = (
    ChangeType.ADDED,
    ChangeType.MODIFIED,
    ChangeType.DELETED,
    ChangeType.BOOKMARK,
)


class Log:
    """A service's side of a watch: states by revision, and streams that begin anywhere."""

    def __init__(self) -> None:
        self.changes: list[WorkloadChange] = []
        self.state: dict[str, WorkloadRecord] = {}
        self.oldest = 0

    def write(self, name: str, gone: bool) -> None:
        token = str(len(self.changes) + 1)
        if gone:
            if self.state.pop(name, None) is not None:
                self.changes.append(WorkloadChange(type=DELETED, name=name, resume_token=token))
            return
        record = WorkloadRecord(name=name, kind="batch", state=WorkloadState.PENDING, etag=token)  # type: ignore[arg-type]
        kind = MODIFIED if name in self.state else ADDED
        self.state[name] = record
        self.changes.append(WorkloadChange(type=kind, name=name, record=record, resume_token=token))

    def stream(self, resume_token: str) -> list[WorkloadChange] | None:
        """Everything from a token on to now; None: the token is too old."""
        now = str(len(self.changes))
        if not resume_token:
            existing = [
                WorkloadChange(type=ADDED, name=r.name, record=r, resume_token=now)
                for r in self.state.values()
            ]
            return [*existing, WorkloadChange(type=BOOKMARK, resume_token=now)]
        return None if int(resume_token) < self.oldest else self.changes[int(resume_token) :]


class Seen:
    """What a caller believes after the changes it was told."""

    def __init__(self) -> None:
        self.etags: dict[str, str] = {}

    def take(self, change: WorkloadChange) -> None:
        if change.type is ADDED:
            assert change.name not in self.etags, "told twice that it is new"
        if change.type is MODIFIED:
            assert change.name in self.etags, "changed before it was there"
        if change.type is DELETED:
            assert self.etags.pop(change.name, None) is not None, "gone before it was there"
        elif change.record is not None:
            assert self.etags.get(change.name) != change.record.etag, "told twice"
            self.etags[change.name] = change.record.etag


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(NAMES), st.booleans()),
        st.tuples(st.just("read"), st.integers(0, 6)),
        st.tuples(st.just("expire")),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(STEPS)
# cut inside the first dump, and what it had told of is gone before the second
@example([("write", NAMES[0], False), ("write", NAMES[1], False), ("read", 1), ("write", NAMES[0], True)])
# expired while something came, something changed and something went
@example(
    [
        *(("write", name, False) for name in NAMES[:3]),
        ("read", 9),
        ("write", NAMES[3], False),
        ("write", NAMES[1], False),
        ("write", NAMES[2], True),
        ("expire",),
    ]
)
def test_a_watch_with_random_cuts_equals_a_full_list(steps: list[tuple[Any, ...]]):
    log, fold, seen = Log(), WatchFold(), Seen()

    def read(limit: int) -> None:
        messages = log.stream(fold.resume_token)
        if messages is None:
            fold.start_over()
            messages = log.stream("")
        assert messages is not None
        for message in messages[:limit]:
            for change in fold.feed(message):
                seen.take(change)
        fold.cut()

    for step in steps:
        if step[0] == "write":
            log.write(step[1], step[2])
        elif step[0] == "expire":
            log.oldest = len(log.changes)
        else:
            read(step[1])
    read(1_000_000)
    assert seen.etags == {name: record.etag for name, record in log.state.items()}


def a_workload(name: str) -> Workload:
    return Workload.model_validate(
        {"name": name, "kind": "batch", "stages": [{"stage_id": "main", "cpu_milli": 1, "memory_mib": 1}]}
    )


@pytest.mark.parametrize("cuts", [[], [0, 0, 1], [2, 1, 3], [1] * 6])
def test_through_a_real_server_too(cuts: list[int]):
    """Cut by the server in the middle of the first dump and of the changes; once the token expires as well."""
    with FakeService() as service, Client(service.address, sleep=lambda wait_s: None) as client:
        for name in NAMES:
            client.create_workload(a_workload(name))
        service.watch_cuts = itertools.chain(cuts, itertools.repeat(1000))
        seen = Seen()
        stream = client.watch_workloads()
        for change in stream:
            seen.take(change)
            if change.type is BOOKMARK:
                break
        service.place(NAMES[1])
        service.watch_cuts = itertools.chain(cuts, itertools.repeat(1000))
        service.expire()
        service.forget(NAMES[0])
        for change in stream:
            seen.take(change)
            if change.type is DELETED:
                break
        stream.close()  # type: ignore[attr-defined]
        assert seen.etags == {n: r.etag for n, r in service.records.items()}
