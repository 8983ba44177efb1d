"""Filters, page tokens and the feed: the small parts under lists and watches."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.domain.records import COLLECTION_WORKLOADS, CommitBatch, Document, EventDraft
from scheduler.domain.shapes import shape_document, template_of
from scheduler.service.feed import Feed
from scheduler.service.filters import parse_filter
from scheduler.service.history import History, workload_of
from scheduler.service.paging import page_size, read_token, write_token
from scheduler.service.workloads import _question
from scheduler.store import MemoryStore
from suanli.model import (
    AlreadyExists,
    Event,
    EventKind,
    InvalidRequest,
    NotFound,
    WatchExpired,
    WorkloadRecord,
    WorkloadState,
)
from tests.service_worlds import a_fleet, a_service, a_site, a_workload, running

# ---------------------------------------------------------------- filters


def a_record(**fields) -> WorkloadRecord:
    status = {"state": WorkloadState.PENDING, "site_ids": ("e01", "cloud")}
    given_status = {k: fields.pop(k) for k in list(fields) if k in status}
    return WorkloadRecord.of(a_workload(**fields), **{**status, **given_status})


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("state = PENDING", True),
        ("state = pending", True),
        ("state = WORKLOAD_STATE_PENDING", True),
        ("state != PENDING", False),
        ("state = RUNNING", False),
        ('workload_class = "W9"', True),
        ("workload_class = w9", False),
        ("kind = BATCH AND priority_class = batch", True),
        ("kind = BATCH AND state = RUNNING", False),
        ('labels.team = "a \\"b\\""', True),
        ("labels.team = x", False),
        ("labels.absent = x", False),
        ("labels.absent != x", True),
        ("placed_sites : e01", True),
        ('placed_sites:"sites/cloud"', True),
        ("placed_sites : e02", False),
        ("placed_sites != e01", False),
    ],
)
def test_a_filter_says_what_it_says(text, matches):
    record = a_record(workload_class="W9", labels={"team": 'a "b"'})
    assert parse_filter(text).matches(record) is matches


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colour = red", "no field 'colour'"),
        ("labels. = x", "no field"),
        ("state", "not a comparison"),
        ("state =", "not a comparison"),
        ("= PENDING", "not a comparison"),
        ("state = failed state = running", "AND"),
        ("state = failed OR state = running", "'OR'"),
        ("state = failed AND", "not a comparison"),
        ("state ~ A", "'~ A'"),
        ('state = "open', '"open'),
        ("x" * 3000, "3000 characters"),
    ],
)
def test_a_senseless_filter_is_refused_with_what_was_expected(text, complaint):
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(text)
    (problem,) = caught.value.problems
    assert problem.field == "filter"
    assert complaint in problem.problem + problem.expected
    assert problem.expected


def test_every_unknown_word_of_a_question_is_named_in_one_answer():
    with pytest.raises(InvalidRequest) as caught:
        _question("state = foo AND kind = bar AND colour = red AND state = running", "baz")
    assert [(p.field, p.problem) for p in caught.value.problems] == [
        ("filter", "no state 'foo'"),
        ("filter", "no kind 'bar'"),
        ("filter", "no field 'colour'"),
        ("order_by", "cannot order by 'baz'"),
    ]
    assert all(p.expected for p in caught.value.problems)
    with pytest.raises(InvalidRequest) as caught:
        _question("", "creat_time desc")
    assert [p.nearest for p in caught.value.problems] == ["create_time"]


def test_placements_of_a_site_that_is_not_there_are_not_found():
    with running(a_service(), a_fleet()) as service:
        assert service.plans.placement_page(filter_text='site = "sites/edge"').items == ()
        with pytest.raises(NotFound, match="no site edgy; did you mean edge"):
            service.plans.placement_page(filter_text='site = "sites/edgy"')


@pytest.mark.parametrize("ask", ["create", "check", "plan"])
def test_a_taken_name_is_refused_alike_by_whatever_asks(ask):
    with running(a_service(), a_fleet()) as service:
        workloads = service.workloads

        def asked(*names: str, cpu_milli: int = 1000) -> None:
            given_ones = [a_workload(name, cpu_milli=cpu_milli) for name in names]
            if ask == "plan":
                workloads.plan(given_ones).result(10)
            else:
                workloads.batch_create(given_ones, validate_only=ask == "check").result(10)

        workloads.batch_create([a_workload("chat"), a_workload("chat-2"), a_workload("run-9")]).result(10)
        workloads.cancel(a_workload("chat").name).result(10)
        with pytest.raises(AlreadyExists) as caught:
            asked("chat", "run-9", "new")
        chat, run_9 = str(caught.value).splitlines()
        assert chat.startswith(f"{a_workload('chat').name} is taken by a cancelled workload of ")
        assert chat.endswith("+08:00; names are not used twice, nearest free chat-3")
        assert run_9.endswith("nearest free run-10")
        with pytest.raises(InvalidRequest) as both:
            asked("chat", cpu_milli=10**7)
        assert {p.code for p in both.value.problems} > {"already_exists"}
        assert [p.field for p in both.value.problems if p.code == "already_exists"] == ["workloads[0].name"]


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text):
    try:
        parse_filter(text).matches(a_record())
    except InvalidRequest as error:
        assert error.problems


@given(st.text(min_size=1, max_size=20), st.booleans())
def test_any_quoted_value_can_be_asked_for(value, equal):
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    wanted = parse_filter(f"labels.team {'=' if equal else '!='} {quoted}")
    assert wanted.comparisons[0].value == value


# ---------------------------------------------------------------- pages


def test_page_sizes_have_a_default_and_a_limit():
    assert [page_size(n) for n in (0, 1, 1000, 5000)] == [100, 1, 1000, 1000]
    with pytest.raises(InvalidRequest):
        page_size(-1)


def test_a_token_is_good_for_its_own_question_only():
    token = write_token(["name", 7], ["tenants/a", "state = PENDING"])
    assert read_token(token, ["tenants/a", "state = PENDING"]) == ["name", 7]
    assert read_token("", ["anything"]) is None
    for question in (["tenants/b", "state = PENDING"], ["tenants/a"], ["tenants/a", "state = PENDING", ""]):
        with pytest.raises(InvalidRequest, match="page_token"):
            read_token(token, question)


@given(st.text(max_size=40))
def test_no_token_breaks_the_reader(token):
    try:
        assert read_token(token, ["q"]) is None
        assert token == ""
    except InvalidRequest as error:
        assert [p.field for p in error.problems] == ["page_token"]


# ---------------------------------------------------------------- the feed


def drafts(first: int, count: int) -> tuple[EventDraft, ...]:
    kinds = (EventKind.WORKLOAD_SUBMITTED, EventKind.WORKLOAD_STATE, EventKind.ROUND_COMMITTED)
    return tuple(
        EventDraft(i, kinds[i % 3], f"tenants/{'ab'[i % 2]}/workloads/w{i}")
        for i in range(first, first + count)
    )


def publish(store: MemoryStore, feed: Feed, first: int, count: int) -> None:
    (events,) = store.commit([CommitBatch(drafts(first, count))])
    feed.publish(events)


@given(
    st.lists(st.integers(1, 9), max_size=12),
    st.integers(1, 7),
    st.integers(1, 6),
    st.sampled_from([(), (EventKind.WORKLOAD_STATE,), (EventKind.WORKLOAD_STATE, EventKind.ROUND_COMMITTED)]),
    st.sampled_from(["", "tenants/a/"]),
)
def test_a_follower_sees_every_matching_event_once_and_in_order(commits, ring, limit, kinds, prefix):
    """Whatever lies in the ring and whatever must come from the store."""
    store = MemoryStore()
    feed = Feed(store, ring_events=ring)
    seen: list[Event] = []
    cursor, total = 0, 0
    for turn, count in enumerate(commits):
        publish(store, feed, total, count)
        total += count
        if turn % 3 == 0:
            found, cursor = feed.read(cursor, limit, kinds, prefix)
            seen += found
    while cursor < feed.last_revision:
        found, cursor = feed.read(cursor, limit, kinds, prefix)
        seen += found
    assert seen == (store.events(0, total, kinds, prefix) if total else [])


def test_a_cursor_moves_past_what_does_not_match():
    store = MemoryStore()
    feed = Feed(store, ring_events=2)
    publish(store, feed, 0, 30)
    assert feed.read(0, 10, (EventKind.SITE_UP,)) == ([], 30)


def test_a_cursor_ahead_of_the_log_is_expired():
    with pytest.raises(WatchExpired):
        Feed(MemoryStore()).read(1, 10)


def test_committed_events_are_not_shown_before_they_are_published():
    store = MemoryStore()
    feed = Feed(store)
    publish(store, feed, 0, 2)
    store.commit([CommitBatch(drafts(2, 3))])
    assert [e.revision for e in feed.read(0, 10)[0]] == [1, 2]


def test_waiting_ends_with_news_or_with_the_time():
    store = MemoryStore()
    feed = Feed(store)
    assert feed.wait(0, 0.01) is False
    heard = threading.Event()

    def listen() -> None:
        if feed.wait(0, 5):
            heard.set()

    waiting = threading.Thread(target=listen)
    waiting.start()
    publish(store, feed, 0, 1)
    waiting.join(5)
    assert heard.is_set()


def test_a_listener_hears_every_commit_until_it_stops():
    store = MemoryStore()
    feed = Feed(store)
    heard: list[int] = []
    stop = feed.listen(heard.append)
    publish(store, feed, 0, 2)
    publish(store, feed, 2, 1)
    stop()
    publish(store, feed, 3, 1)
    assert heard == [2, 3]


# ---------------------------------------------------------------- history


def test_history_knows_when_a_workload_came_and_last_changed():
    name = "tenants/a/workloads/w"
    events = [
        Event(revision=1, at_s=10, kind=EventKind.WORKLOAD_SUBMITTED, subject=name),
        Event(revision=2, at_s=11, kind=EventKind.ROUND_COMMITTED, subject="rounds/1"),
        Event(revision=3, at_s=12, kind=EventKind.REPLICA_RUNNING, subject=f"{name}/main/0#0"),
    ]
    history = History()
    history.apply(events)
    assert history.created(name) == (1, 10)
    assert history.changed(name) == (3, 12)
    assert [workload_of(e) for e in events] == [name, None, name]


# ---------------------------------------------------------------- what an old version stored


def test_texts_with_control_characters_from_an_old_store_are_shown_escaped():
    store, old = MemoryStore(), a_workload("w", workload_class="W9", display_name="Film")
    with running(a_service(store), a_fleet(a_site("e01"))) as service:
        service.workloads.create(old).result(10)
    kept = store.document(COLLECTION_WORKLOADS, old.name)
    assert kept is not None and kept.body is not None
    body = kept.body.replace(b'"Film"', b'"Film\\u001b[2J\\npark"').replace(b'"W9"', b'"W\\t9"')
    store.commit([CommitBatch((), (Document(COLLECTION_WORKLOADS, old.name, body, parent=kept.parent),))])
    with running(a_service(store)) as service:
        (listed,) = service.workloads.page().records
        assert (listed.display_name, listed.workload_class) == ("Film\\x1b[2J\\x0apark", "W\\x099")
        assert service.workloads.get(old.name).display_name == listed.display_name


def test_a_shape_from_an_old_store_is_read_with_its_control_characters_escaped():
    document = shape_document(a_workload("w", workload_class="W9")) | {"workload_class": "W\t9"}
    assert template_of(document).workload_class == "W\\x099"
