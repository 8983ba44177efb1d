"""Store in SQL through SQLAlchemy Core: SQLite by default; nothing here but `_tune_sqlite` speaks one dialect alone.

- One writer: a commit of many batches is one transaction and one fsync (group commit). With WAL and
  `synchronous=FULL`, SQLite has the commit on disk before `commit` returns, so an answered submission survives a
  `kill -9` and, as far as the disk keeps its word, a power cut. A store of virtual time need not outlive the machine
  that drives it: without the fsync it survives a `kill -9` all the same.
- Many readers: they see the last commit and never wait for the writer.
- The schema is brought up to date by the packaged migrations whenever a store is opened.
- A lock file beside the SQLite file keeps a second process out; the kernel releases it when the holder dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Dialect, Engine, Table, create_engine, delete, event, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.compiler import SQLCompiler

from scheduler.config import STORES
from scheduler.domain.records import CommitBatch, Document, StoredRequest
from scheduler.store.bodies import encode_body, read_event, stored_event
from scheduler.store.schema import documents, events, requests
from suanli.model import Conflict, Event, EventKind, FieldProblem, InvalidRequest, Unavailable, WatchExpired

MIGRATIONS = Path(__file__).parent / "migrations"
# longest wait for a lock that another connection holds; a checkpoint of our own file takes far less
BUSY_TIMEOUT_MS = 10_000
# pages of 4 KiB in the write-ahead log before they move to the file: 16 MiB keeps checkpoints rare and short
WAL_CHECKPOINT_PAGES = 4_000
# page cache per connection in KiB; the file is read through the page cache of the system anyway
CACHE_KIB = 8_192
READERS = 8
# ids per IN (…) list; SQLite's limit of bound variables is far above, PostgreSQL plans short lists better
NAMES_PER_QUERY = 500

_FIRST = select(func.min(events.c.revision))
_LAST = select(func.max(events.c.revision))


class SqlStore:
    """The event log, documents and requests in one SQL database; thread-safe.

    Raises `Unavailable` from the constructor when another process holds the same SQLite file, InvalidRequest when its
    folder does not exist, ValueError for a URL without a file (use `MemoryStore`).
    """

    def __init__(self, url: str, *, outlives_power_cut: bool = True) -> None:
        self._url = make_url(url)
        if _is_sqlite(self._url) and self._url.database in (None, "", ":memory:"):
            raise ValueError(f"{url} names no file; say `memory` for a store that is not kept")
        self._lock_file = _lock(self._url)
        self._commit_lock = threading.Lock()
        try:
            self._writer = _engine(self._url, writer=True, waits_for_disk=outlives_power_cut)
            _migrate(self._writer)
            self._reader = _engine(self._url, writer=False) if _is_sqlite(self._url) else self._writer
        except BaseException:
            _unlock(self._lock_file)
            raise
        dialect = self._writer.dialect
        self._put_events = _Put(dialect, events, replaces=False)
        self._put_documents = _Put(dialect, documents, replaces=True)
        self._put_requests = _Put(dialect, requests, replaces=True)

    def commit(self, batches: Sequence[CommitBatch], expect_revision: int | None = None) -> list[list[Event]]:
        """See `scheduler.ports.Store.commit`. Bodies are encoded before the transaction begins."""
        encoded = [[(draft, encode_body(draft.body)) for draft in batch.events] for batch in batches]
        with self._commit_lock:
            try:
                with self._writer.begin() as connection:
                    last = connection.execute(_LAST).scalar() or 0
                    if expect_revision is not None and expect_revision != last:
                        raise Conflict(f"the log is at revision {last}, expected {expect_revision}")
                    result, rows, ends = [], [], []
                    for group in encoded:
                        result.append(
                            [stored_event(last + i, draft, raw) for i, (draft, raw) in enumerate(group, 1)]
                        )
                        rows += [
                            (last + i, draft.at_s, draft.kind.value, draft.subject, raw)
                            for i, (draft, raw) in enumerate(group, 1)
                        ]
                        last += len(group)
                        ends.append(last)
                    self._put_events.run(connection, rows)
                    self._write_documents(connection, batches, ends)
                    self._write_requests(connection, [r for batch in batches for r in batch.requests])
            except IntegrityError as error:
                raise Conflict("another writer took these revisions") from error
            except OperationalError as error:
                raise Unavailable(f"the store cannot write: {error.orig}") from error
        return result

    def last_revision(self) -> int:
        """See `scheduler.ports.Store.last_revision`."""
        with self._reader.connect() as connection:
            return connection.execute(_LAST).scalar() or 0

    def events(
        self, after_revision: int, limit: int, kinds: Sequence[EventKind] = (), subject_prefix: str = ""
    ) -> list[Event]:
        """See `scheduler.ports.Store.events`."""
        query = (
            _select_events()
            .where(events.c.revision > after_revision)
            .order_by(events.c.revision)
            .limit(limit)
        )
        if kinds:
            query = query.where(events.c.kind.in_([kind.value for kind in kinds]))
        if subject_prefix:
            # an expression no index serves, on purpose: followers read a few new revisions, and through the index by
            # subject they would sort all old ones of the prefix to find them
            query = query.where(func.substr(events.c.subject, 1, len(subject_prefix)) == subject_prefix)
        with self._reader.connect() as connection:
            self._check_reach(connection, after_revision)
            return [read_event(*row) for row in connection.execute(query)]

    def latest_events(self, kinds: Sequence[EventKind], limit: int, before_revision: int = 0) -> list[Event]:
        """See `scheduler.ports.Store.latest_events`."""
        query = _select_events().where(events.c.kind.in_([kind.value for kind in kinds]))
        if before_revision:
            query = query.where(events.c.revision < before_revision)
        with self._reader.connect() as connection:
            rows = connection.execute(query.order_by(events.c.revision.desc()).limit(limit))
            return [read_event(*row) for row in rows]

    def events_about(self, subjects: Sequence[str], kinds: Sequence[EventKind] = ()) -> list[Event]:
        """See `scheduler.ports.Store.events_about`."""
        found: list[Event] = []
        with self._reader.connect() as connection:
            for part in _parts(subjects):
                query = _select_events().where(events.c.subject.in_(part))
                if kinds:
                    # an expression, so that the index by kind does not tempt the query planner
                    query = query.where((events.c.kind + "").in_([kind.value for kind in kinds]))
                found += [read_event(*row) for row in connection.execute(query)]
        return sorted(found, key=lambda e: e.revision)

    def request(self, request_id: str) -> StoredRequest | None:
        """See `scheduler.ports.Store.request`."""
        return self.requests([request_id]).get(request_id)

    def requests(self, request_ids: Sequence[str]) -> dict[str, StoredRequest]:
        """See `scheduler.ports.Store.requests`."""
        found: dict[str, StoredRequest] = {}
        with self._reader.connect() as connection:
            for part in _parts(request_ids):
                query = select(
                    requests.c.request_id, requests.c.fingerprint, requests.c.response, requests.c.at_s
                ).where(requests.c.request_id.in_(part))
                for row in connection.execute(query):
                    found[row[0]] = StoredRequest(*row)
        return found

    def forget_requests(self, before_s: int) -> int:
        """See `scheduler.ports.Store.forget_requests`."""
        with self._commit_lock, self._writer.begin() as connection:
            return connection.execute(delete(requests).where(requests.c.at_s < before_s)).rowcount

    def document(self, collection: str, name: str) -> Document | None:
        """See `scheduler.ports.Store.document`."""
        query = _select_documents().where(documents.c.collection == collection, documents.c.name == name)
        with self._reader.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else Document(*row)

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
        name = documents.c.name
        query = _select_documents().where(documents.c.collection == collection)
        if after_name:
            query = query.where(name < after_name if descending else name > after_name)
        if parent:
            query = query.where(documents.c.parent == parent)
        if state:
            query = query.where(documents.c.state == state)
        with self._reader.connect() as connection:
            rows = connection.execute(query.order_by(name.desc() if descending else name).limit(limit))
            return [Document(*row) for row in rows]

    def documents_named(self, collection: str, names: Sequence[str]) -> dict[str, Document]:
        """See `scheduler.ports.Store.documents_named`."""
        found: dict[str, Document] = {}
        with self._reader.connect() as connection:
            for part in _parts(names):
                query = _select_documents().where(
                    documents.c.collection == collection, documents.c.name.in_(part)
                )
                for row in connection.execute(query):
                    found[row[1]] = Document(*row)
        return found

    def close(self) -> None:
        """Close all connections (SQLite then folds the write-ahead log into the file) and release the lock."""
        self._reader.dispose()
        self._writer.dispose()
        _unlock(self._lock_file)
        self._lock_file = None

    def _check_reach(self, connection: Connection, after_revision: int) -> None:
        # two queries: SQLite looks up one extreme in the key but scans the table for both at once
        first, last = connection.execute(_FIRST).scalar(), connection.execute(_LAST).scalar()
        if after_revision > (last or 0):
            raise WatchExpired(f"revision {after_revision} is ahead of the log, which is at {last or 0}")
        if first is not None and after_revision < first - 1:
            raise WatchExpired(f"the log begins at revision {first}; list again")

    def _write_documents(
        self, connection: Connection, batches: Sequence[CommitBatch], ends: Sequence[int]
    ) -> None:
        """The last word on each document wins; puts and deletes therefore never touch one name twice."""
        final: dict[tuple[str, str], tuple[Document, int]] = {}
        for batch, end in zip(batches, ends, strict=True):
            for document in batch.documents:
                final[document.collection, document.name] = (document, end)
        puts = [
            (d.collection, d.name, d.parent, d.state, end, d.body)
            for d, end in final.values()
            if d.body is not None
        ]
        gone = [key for key, (d, _) in final.items() if d.body is None]
        self._put_documents.run(connection, puts)
        for part in _parts(gone):
            connection.execute(
                delete(documents).where(tuple_(documents.c.collection, documents.c.name).in_(part))
            )

    def _write_requests(self, connection: Connection, new: Sequence[StoredRequest]) -> None:
        final = {request.request_id: request for request in new}
        rows = [(r.request_id, r.fingerprint, r.response, r.at_s) for r in final.values()]
        self._put_requests.run(connection, rows)


class _Put:
    """Rows into one table, as tuples in the order of its columns.

    They go to the driver as they are: by the thousand they would spend longer inside SQLAlchemy than in the database.
    The statement itself is SQLAlchemy's, compiled once for the dialect.
    """

    def __init__(self, dialect: Dialect, table: Table, *, replaces: bool) -> None:
        make = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
        statement = make(table)
        if replaces:
            keys = [column.name for column in table.primary_key.columns]
            values = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
            statement = statement.on_conflict_do_update(index_elements=keys, set_=values)
        self._names = tuple(column.name for column in table.columns)
        compiled = statement.compile(dialect=dialect, column_keys=list(self._names))
        assert isinstance(compiled, SQLCompiler)
        self.sql = str(compiled)
        self._positional = bool(compiled.positional)
        assert not self._positional or tuple(compiled.positiontup or ()) == self._names

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write the rows, if there are any."""
        if rows:
            connection.exec_driver_sql(self.sql, list(rows) if self._positional else self.named(rows))

    def named(self, rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """The rows for a driver that wants its parameters by name."""
        return [dict(zip(self._names, row, strict=True)) for row in rows]


def _select_events() -> Any:
    """Columns in the order of `read_event`'s arguments."""
    c = events.c
    return select(c.revision, c.at_s, c.kind, c.subject, c.body)


def _select_documents() -> Any:
    """Columns in the order of `Document`'s fields."""
    c = documents.c
    return select(c.collection, c.name, c.body, c.parent, c.state, c.revision)


def _parts(items: Sequence[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(items), NAMES_PER_QUERY):
        yield list(items[start : start + NAMES_PER_QUERY])


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _engine(url: URL, writer: bool, waits_for_disk: bool = True) -> Engine:
    """One connection for the writer, a few for readers; SQLite connections are tuned as they open."""
    if not _is_sqlite(url):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1 if writer else READERS,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
    )
    event.listen(engine, "connect", lambda connection, _: _tune_sqlite(connection, waits_for_disk))
    # the driver's own BEGIN is deferred and comes late; the writer takes its lock first and then reads the revision
    begin = "BEGIN IMMEDIATE" if writer else "BEGIN"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _tune_sqlite(connection: Any, waits_for_disk: bool) -> None:
    connection.isolation_level = None  # transactions begin in the "begin" hook, not inside the driver
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        f"synchronous={'FULL' if waits_for_disk else 'NORMAL'}",
        f"wal_autocheckpoint={WAL_CHECKPOINT_PAGES}",
        f"cache_size=-{CACHE_KIB}",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def refuse_unusable(url: str) -> None:
    """InvalidRequest, and nothing done, when no store can be opened at `url` now: no folder, no driver, in use.

    For a service to know before it listens. The store may still be taken in between; opening it then says so.
    """
    parsed = make_url(url)
    if _is_sqlite(parsed):
        try:
            _unlock(_lock(parsed))
        except Unavailable as error:
            raise InvalidRequest([FieldProblem(field="store", problem=str(error), code="in_use")]) from None
        return
    try:
        parsed.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        problem = f"its driver {error.name} is not installed"
        raise InvalidRequest([FieldProblem(field="store", problem=problem, expected=STORES)]) from None


def _lock(url: URL) -> int | None:
    """Hold `<database>.lock` as long as this process lives; None for databases that are no files."""
    if not _is_sqlite(url) or url.database is None:
        return None
    path = Path(url.database)
    if not path.parent.is_dir():
        # made here, a mistyped folder would silently hold a log of its own
        problem = f"{path}: folder {path.parent} does not exist"
        raise InvalidRequest([FieldProblem(field="store", problem=problem, expected="a folder that exists")])
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise Unavailable(
            f"{path} is in use by another service; stop it or choose another --store"
        ) from error
    return handle


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
