"""What only the SQL store does: it lasts, migrates, keeps others out, and syncs once per group."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.dialects import postgresql

from scheduler.domain.records import CommitBatch, Document, EventDraft
from scheduler.store import MemoryStore, SqlStore, open_store
from scheduler.store.schema import metadata
from scheduler.store.sql import _Put
from suanli.model import Conflict, EventKind, Unavailable, WatchExpired


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/log.sqlite"


def drafts(count: int) -> tuple[EventDraft, ...]:
    return tuple(EventDraft(i, EventKind.WORKLOAD_SUBMITTED, f"w{i}", {"i": i}) for i in range(count))


def test_a_closed_store_opens_again_with_everything(url):
    first = SqlStore(url)
    (events,) = first.commit([CommitBatch(drafts(3), (Document("plans", "p", b"{}"),))])
    first.close()
    again = SqlStore(url)
    assert again.events(0, 10) == events
    assert again.document("plans", "p") == Document("plans", "p", b"{}", revision=3)
    again.close()


def test_a_commit_is_in_the_file_before_it_returns(url, tmp_path):
    store = SqlStore(url)
    store.commit([CommitBatch(drafts(2))])
    with sqlite3.connect(tmp_path / "log.sqlite") as other:
        assert other.execute("select count(*) from events").fetchone() == (2,)
        assert other.execute("pragma journal_mode").fetchone() == ("wal",)
    other.close()
    store.close()


@pytest.mark.parametrize(("outlives_power_cut", "level"), [(True, "FULL"), (False, "NORMAL")])
def test_sqlite_syncs_every_commit_that_has_to_outlive_a_power_cut(url, outlives_power_cut, level):
    store = open_store(url, outlives_power_cut=outlives_power_cut)
    assert isinstance(store, SqlStore)
    with store._writer.connect() as connection:
        synchronous = {"NORMAL": 1, "FULL": 2}  # as SQLite numbers them
        assert connection.exec_driver_sql("pragma synchronous").scalar() == synchronous[level]
    store.close()


def test_stores_wait_for_the_disk_unless_told_otherwise(url):
    store = SqlStore(url)
    with store._writer.connect() as connection:
        full = 2
        assert connection.exec_driver_sql("pragma synchronous").scalar() == full
    store.close()


def test_a_second_service_is_kept_out_until_the_first_ends(url):
    first = SqlStore(url)
    with pytest.raises(Unavailable, match="in use"):
        SqlStore(url)
    first.close()
    SqlStore(url).close()


def test_migrations_make_what_the_code_expects(url, tmp_path):
    SqlStore(url).close()
    with sqlite3.connect(tmp_path / "log.sqlite") as made:
        tables = {
            table.name: [row[1] for row in made.execute(f"pragma table_info({table.name})")]
            for table in metadata.sorted_tables
        }
        indexes = {row[0] for row in made.execute("select name from sqlite_master where type = 'index'")}
    made.close()
    assert tables == {t.name: [c.name for c in t.columns] for t in metadata.sorted_tables}
    assert {i.name for t in metadata.sorted_tables for i in t.indexes} <= indexes


def test_a_foreign_write_is_a_conflict_for_a_writer_that_expects_its_own(url, tmp_path):
    store = SqlStore(url)
    store.commit([CommitBatch(drafts(1))])
    with sqlite3.connect(tmp_path / "log.sqlite") as other:
        other.execute("insert into events values (2, 0, 'site.up', 's', x'7b7d')")
    other.close()
    with pytest.raises(Conflict):
        store.commit([CommitBatch(drafts(1))], expect_revision=1)
    assert [e.revision for e in store.events(0, 9)] == [1, 2]
    store.close()


def test_a_log_whose_beginning_was_archived_says_so(url, tmp_path):
    store = SqlStore(url)
    store.commit([CommitBatch(drafts(5))])
    with sqlite3.connect(tmp_path / "log.sqlite") as operator:
        operator.execute("delete from events where revision <= 3")
    operator.close()
    assert [e.revision for e in store.events(3, 9)] == [4, 5]
    with pytest.raises(WatchExpired):
        store.events(2, 9)
    store.close()


def test_bodies_are_canonical_bytes(url, tmp_path):
    store = SqlStore(url)
    store.commit([CommitBatch((EventDraft(0, EventKind.SITE_UP, "s", {"b": 1, "a": 0.1}),))])
    with sqlite3.connect(tmp_path / "log.sqlite") as other:
        assert other.execute("select body from events").fetchone() == (b'{"a":0.1,"b":1}',)
    other.close()
    store.close()


def test_a_store_without_a_file_is_refused_by_name():
    with pytest.raises(ValueError, match="memory"):
        SqlStore("sqlite://")
    assert isinstance(open_store("memory"), MemoryStore)


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
@pytest.mark.parametrize("replaces", [True, False])
def test_a_driver_that_wants_names_gets_every_column_by_its_name(table, replaces):
    """PostgreSQL's: the statement names each column once, and the rows carry the same names."""
    put = _Put(postgresql.dialect(), table, replaces=replaces)
    names = [column.name for column in table.columns]
    (row,) = put.named([tuple(range(len(names)))])
    assert row == {name: i for i, name in enumerate(names)}
    assert [put.sql.count(f"%({name})s") for name in names] == [1] * len(names)
    assert ("ON CONFLICT" in put.sql) == replaces
