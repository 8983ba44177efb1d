"""What every store promises, run against the memory store and the SQL store on a file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from scheduler.domain.records import CommitBatch, Document, EventDraft, StoredRequest
from scheduler.store import MemoryStore, SqlStore
from suanli.model import Conflict, Event, EventKind, WatchExpired

AnyStore = MemoryStore | SqlStore
MAKERS: dict[str, Callable[..., AnyStore]] = {
    "memory": lambda path: MemoryStore(),
    "sqlite": lambda path: SqlStore(f"sqlite:///{path}/log.sqlite"),
}


@pytest.fixture(params=sorted(MAKERS))
def store(request, tmp_path) -> Iterator[AnyStore]:
    store = MAKERS[request.param](tmp_path)
    yield store
    store.close()


def submitted(name: str, at_s: int = 10, **body) -> EventDraft:
    return EventDraft(at_s, EventKind.WORKLOAD_SUBMITTED, name, body)


def workload(name: str, body: bytes | None = b"{}", **where) -> Document:
    return Document("workloads", name, body, **where)


def test_an_empty_log_is_at_revision_0(store):
    assert store.last_revision() == 0
    assert store.events(0, 10) == []


def test_revisions_are_consecutive_over_batches_and_commits(store):
    first = store.commit(
        [CommitBatch((submitted("a"), submitted("b"))), CommitBatch(), CommitBatch((submitted("c"),))]
    )
    second = store.commit([CommitBatch((submitted("d"),))])
    assert [[e.revision for e in batch] for batch in first + second] == [[1, 2], [], [3], [4]]
    assert store.last_revision() == 2 + 0 + 1 + 1


def test_what_commit_returns_is_what_a_later_reader_gets(store):
    body = {"z": [1, 2.5, "算力"], "a": {"nested": True, "none": None}}
    (returned,) = store.commit([CommitBatch((submitted("a", 7, **body),))])
    assert store.events(0, 10) == returned
    assert returned[0].body == body
    assert (returned[0].at_s, returned[0].kind, returned[0].subject) == (7, EventKind.WORKLOAD_SUBMITTED, "a")


def test_events_are_whole_values_as_if_validated(store):
    (returned,) = store.commit([CommitBatch((submitted("a", 7, x=1),))])
    made = Event(revision=1, at_s=7, kind=EventKind.WORKLOAD_SUBMITTED, subject="a", body={"x": 1})
    for event in (*returned, *store.events(0, 1)):
        assert event == made
        assert event.model_dump_json() == made.model_dump_json()
        assert event.model_copy(update={"at_s": 8}).at_s == 8


def test_a_tuple_in_a_body_is_a_list_live_as_on_replay(store):
    (returned,) = store.commit([CommitBatch((submitted("a", ids=(1, 2)),))])
    assert returned[0].body == {"ids": [1, 2]} == store.events(0, 1)[0].body


def test_a_body_that_is_not_plain_json_is_refused_and_writes_nothing(store):
    with pytest.raises(TypeError):
        store.commit([CommitBatch((submitted("ok"), submitted("bad", what={1, 2})))])
    assert store.last_revision() == 0


def test_a_stale_revision_writes_nothing(store):
    store.commit([CommitBatch((submitted("a"),))])
    with pytest.raises(Conflict):
        store.commit([CommitBatch((submitted("b"),), (workload("b"),))], expect_revision=0)
    assert store.last_revision() == 1
    assert store.document("workloads", "b") is None
    store.commit([CommitBatch((submitted("b"),))], expect_revision=1)
    assert store.last_revision() == 2


def test_events_are_read_in_order_after_a_revision_up_to_a_limit(store):
    store.commit([CommitBatch(tuple(submitted(f"w{i}") for i in range(10)))])
    assert [e.subject for e in store.events(3, 4)] == ["w3", "w4", "w5", "w6"]
    assert store.events(10, 4) == []


def test_events_are_filtered_by_kind_and_subject_before_the_limit(store):
    kinds = (EventKind.WORKLOAD_SUBMITTED, EventKind.WORKLOAD_STATE)
    drafts = [EventDraft(1, kinds[i % 2], f"tenants/{'ab'[i % 4 // 2]}/workloads/w{i}") for i in range(12)]
    store.commit([CommitBatch(tuple(drafts))])
    states = store.events(0, 2, kinds=[EventKind.WORKLOAD_STATE])
    assert [e.revision for e in states] == [2, 4]
    of_b = store.events(0, 99, subject_prefix="tenants/b/")
    assert [e.subject for e in of_b] == [d.subject for d in drafts if "/b/" in d.subject]
    both = store.events(2, 99, kinds=[EventKind.WORKLOAD_STATE], subject_prefix="tenants/b/")
    assert [e.revision for e in both] == [4, 8, 12]


def test_a_prefix_is_text_and_no_pattern(store):
    store.commit([CommitBatch((submitted("a_b"), submitted("axb"), submitted("A_b")))])
    assert [e.subject for e in store.events(0, 9, subject_prefix="a_")] == ["a_b"]


def test_the_newest_events_of_some_kinds_come_newest_first_in_pages(store):
    kinds = (EventKind.ROUND_COMMITTED, EventKind.WORKLOAD_STATE)
    store.commit([CommitBatch(tuple(EventDraft(i, kinds[i % 2], f"s{i}") for i in range(7)))])
    page = store.latest_events([EventKind.ROUND_COMMITTED], 2)
    assert [e.subject for e in page] == ["s6", "s4"]
    rest = store.latest_events([EventKind.ROUND_COMMITTED], 9, before_revision=page[-1].revision)
    assert [e.subject for e in rest] == ["s2", "s0"]
    assert store.latest_events([EventKind.SITE_UP], 9) == []


def test_events_about_subjects_are_found_by_exact_name(store):
    store.commit(
        [
            CommitBatch(
                (submitted("a"), submitted("a/b"), EventDraft(1, EventKind.SITE_UP, "a"), submitted("c"))
            )
        ]
    )
    assert [e.revision for e in store.events_about(["c", "a"])] == [1, 3, 4]
    assert [e.revision for e in store.events_about(["a"], [EventKind.SITE_UP])] == [3]


def test_a_token_from_another_log_is_expired(store):
    store.commit([CommitBatch((submitted("a"),))])
    with pytest.raises(WatchExpired):
        store.events(2, 10)


def test_a_document_carries_the_revision_of_its_batch(store):
    store.commit(
        [CommitBatch((submitted("a"),)), CommitBatch((submitted("b"), submitted("b")), (workload("b"),))]
    )
    assert store.document("workloads", "b") == workload("b", revision=3)
    assert store.document("workloads", "c") is None
    assert store.document("plans", "b") is None


def test_the_last_word_on_a_document_wins_within_and_over_commits(store):
    one, two, three = (workload("a", b"%d" % i) for i in (1, 2, 3))
    store.commit([CommitBatch((submitted("a"),), (one, two))])
    assert store.document("workloads", "a") == workload("a", b"2", revision=1)
    store.commit([CommitBatch((), (three,)), CommitBatch((), (workload("a", None),))])
    assert store.document("workloads", "a") is None
    store.commit([CommitBatch((), (workload("a", None), three))])
    assert store.document("workloads", "a") == workload("a", b"3", revision=1)


def test_documents_are_listed_by_name_in_pages(store):
    names = ["b", "a-1", "c", "a", "B", "a.1"]
    store.commit([CommitBatch((), tuple(workload(n) for n in names))])
    listed: list[str] = []
    while page := store.documents("workloads", after_name=listed[-1] if listed else "", limit=2):
        listed += [d.name for d in page]
    assert listed == sorted(names)


def test_documents_are_listed_backwards_in_pages(store):
    names = [f"plans/{i:03d}" for i in range(7)]
    store.commit([CommitBatch((), tuple(workload(n) for n in names))])
    listed: list[str] = []
    while page := store.documents(
        "workloads", after_name=listed[-1] if listed else "", limit=3, descending=True
    ):
        listed += [d.name for d in page]
    assert listed == names[::-1]


def test_documents_are_fetched_by_name(store):
    store.commit([CommitBatch((), (workload("a"), workload("b", b"1")))])
    assert store.documents_named("workloads", ["b", "nobody"]) == {"b": workload("b", b"1")}


def test_documents_are_filtered_by_parent_and_state(store):
    store.commit(
        [
            CommitBatch(
                (),
                (
                    workload("a", parent="p", state="pending"),
                    workload("b", parent="p", state="running"),
                    workload("c", parent="q", state="running"),
                ),
            )
        ]
    )
    assert [d.name for d in store.documents("workloads", parent="p")] == ["a", "b"]
    assert [d.name for d in store.documents("workloads", state="running")] == ["b", "c"]
    assert [d.name for d in store.documents("workloads", parent="p", state="running")] == ["b"]


def test_requests_are_kept_and_forgotten_by_age(store):
    old, new = StoredRequest("r1", "f1", b"one", 100), StoredRequest("r2", "f2", b"two", 200)
    store.commit([CommitBatch((), (), (old, new))])
    assert store.request("r1") == old
    assert store.requests(["r2", "nobody", "r1"]) == {"r1": old, "r2": new}
    assert store.forget_requests(before_s=200) == 1
    assert store.request("r1") is None
    assert store.request("r2") == new


def test_many_names_are_looked_up_at_once(store):
    many = tuple(StoredRequest(f"r{i}", "f", b"", 1) for i in range(1200))
    store.commit([CommitBatch((), tuple(workload(f"w{i}") for i in range(1200)), many)])
    assert set(store.requests([r.request_id for r in many])) == {r.request_id for r in many}
    store.commit([CommitBatch((), tuple(workload(f"w{i}", None) for i in range(1200)))])
    assert store.documents("workloads") == []


def test_writers_in_many_threads_get_different_revisions(store):
    seen: list[int] = []

    def write(name: str) -> None:
        for _ in range(20):
            (events,) = store.commit([CommitBatch((submitted(name), submitted(name)))])
            assert events[1].revision == events[0].revision + 1
            seen.extend(e.revision for e in events)

    threads = [threading.Thread(target=write, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(1, 4 * 20 * 2 + 1))
