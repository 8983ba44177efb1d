"""`kill -9` of the real service at random moments: nothing accepted is lost, nothing happens twice.

The first test hammers a service in real time from several clients; the second plays a virtual day whose log must come
out byte for byte as if nobody had been killed.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from scheduler.domain.state import ClusterState
from scheduler.store import SqlStore
from suanli.client import Client
from suanli.model import EventKind, ReplicaPhase, ReplicaReport, SuanliError, TelemetryReport, Unavailable
from tests.served import Served, a_free_port
from tests.service_worlds import START_S, a_fleet, a_site, a_workload

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

PATIENCE_S = 60.0


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[Served]:
    folder.mkdir(exist_ok=True)
    service = Served(folder, "--log-level", "warning", *flags).start()
    try:
        yield service
    finally:
        service.kill()


@contextmanager
def killed_at_random(service: Served, seed: int, least_s: float, most_s: float) -> Iterator[None]:
    """Meanwhile the service is killed and started again, over and over, at moments that the seed names."""
    chance, over = random.Random(seed), threading.Event()

    def work() -> None:
        while not over.wait(chance.uniform(least_s, most_s)):
            service.kill()
            # not waited for: the next blow may fall while the log is folded
            service.start(wait=chance.random() < 0.7)

    killer = threading.Thread(target=work)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def a_large_fleet():
    return a_fleet(a_site("cloud", nodes=64), a_site("edge", nodes=64))


def folded(store: SqlStore) -> ClusterState:
    """The state from the log alone."""
    state, revision = ClusterState.empty(), 0
    while events := store.events(revision, 10_000):
        state.apply(events)
        revision = events[-1].revision
    return state


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_accepted_is_lost_and_nothing_is_there_twice(tmp_path, seed):
    accepted: list[str] = []
    failures: list[BaseException] = []

    with served(tmp_path / "s") as service:

        def submit(worker: int, over: threading.Event) -> None:
            try:
                with Client(service.address, retry_unavailable_for_s=PATIENCE_S, timeout_s=20) as client:
                    for i in range(10_000):
                        if over.is_set():
                            return
                        if i % 5 == 4:
                            batch = [
                                a_workload(f"b{worker}-{i}-{j}", cpu_milli=100, memory_mib=64)
                                for j in range(20)
                            ]
                            accepted.extend(r.name for r in client.batch_create_workloads(batch))
                        else:
                            single = a_workload(f"s{worker}-{i}", cpu_milli=100, memory_mib=64)
                            accepted.append(client.create_workload(single).name)
            except BaseException as error:
                failures.append(error)

        with Client(service.address) as client:
            client.register_fleet(a_large_fleet())
        over = threading.Event()
        workers = [threading.Thread(target=submit, args=(w, over)) for w in range(3)]
        with killed_at_random(service, seed, 0.3, 2.5):
            for worker in workers:
                worker.start()
            # how long a start takes is the machine's business; three deaths amid submissions are the test's
            give_up = time.monotonic() + 60
            while service.kills < 3 and time.monotonic() < give_up:
                time.sleep(0.5)
        over.set()
        for worker in workers:
            worker.join()
        assert not failures, failures
        assert service.kills >= 3
        with Client(service.address, retry_unavailable_for_s=PATIENCE_S) as client:
            listed = {r.name: r.state for r in client.list_workloads()}

    assert len(accepted) > 100, "too little was submitted to prove anything"
    store = SqlStore(service.store_url)
    try:
        events = store.events(0, 10**9)
        state = folded(store)
    finally:
        store.close()
    assert [e.revision for e in events] == list(range(1, len(events) + 1))
    submitted = Counter(e.subject for e in events if e.kind is EventKind.WORKLOAD_SUBMITTED)
    assert set(submitted.values()) == {1}, "a workload was accepted twice"
    assert set(accepted) == set(submitted), "what was answered and what is in the log differ"
    ordered = Counter(e.subject for e in events if e.kind is EventKind.REPLICA_START_ORDERED)
    assert set(ordered.values()) == {1}, "a replica was placed twice"
    assert set(listed) == set(submitted)
    assert all(not state.workload_state(name).is_final for name in listed)  # type: ignore[union-attr]


# ---------------------------------------------------------------- a virtual day


class Driver:
    """A tiny world: every replica runs a minute after its order and ends after ten; all ids follow from the seed."""

    def __init__(self, address: str, seed: int) -> None:
        self._chance = random.Random(seed)
        self._ids = random.Random(seed + 1)
        self.client = Client(
            address,
            retry_unavailable_for_s=PATIENCE_S,
            timeout_s=20,
            request_id=lambda: str(uuid.UUID(int=self._ids.getrandbits(128), version=4)),
        )
        self._token = ""
        self._due: list[tuple[int, int, str]] = []

    def play(self, steps: int) -> None:
        client, now_s = self.client, START_S
        client.create_run("day", start_at_s=START_S, seed=1)
        client.register_fleet(a_large_fleet())
        for step in range(steps):
            count = self._chance.randrange(1, 5)
            batch = [
                a_workload(
                    f"w{step}-{i}", cpu_milli=self._chance.choice([500, 4000]), stage={"duration_s": 600}
                )
                for i in range(count)
            ]
            client.batch_create_workloads(batch)
            if step % 7 == 6:
                client.cancel_workload(batch[0].name)
            now_s += 60
            report = self._report(now_s)
            if report.replicas:
                client.report_telemetry(report)
            client.advance_run("runs/day", now_s)
            self._read_orders(now_s)
        client.close_run("runs/day")

    def _read_orders(self, now_s: int) -> None:
        page = self.client.list_commands(resume_token=self._token)
        self._token = page.resume_token
        for command in page.items:
            if command.start is not None:
                self._due += [
                    (now_s + 60, 0, command.start.placement_id),
                    (now_s + 660, 1, command.start.placement_id),
                ]

    def _report(self, now_s: int) -> TelemetryReport:
        due = sorted(d for d in self._due if d[0] <= now_s)
        self._due = [d for d in self._due if d[0] > now_s]
        phases = (ReplicaPhase.RUNNING, ReplicaPhase.SUCCEEDED)
        return TelemetryReport(
            at_s=now_s,
            replicas=tuple(ReplicaReport(placement_id=p, phase=phases[k], at_s=at) for at, k, p in due),
        )


def the_log(service: Served) -> bytes:
    with Client(service.address, retry_unavailable_for_s=PATIENCE_S) as client:
        return b"\n".join(
            orjson.dumps(event.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
            for event in client.export_log("runs/day")
        )


def test_a_virtual_day_with_kills_leaves_the_same_log(tmp_path):
    steps = 80
    with served(tmp_path / "calm", "--virtual") as calm:
        Driver(calm.address, seed=3).play(steps)
        expected = the_log(calm)
    with served(tmp_path / "wild", "--virtual") as wild:
        with killed_at_random(wild, 5, 0.2, 1.5):
            Driver(wild.address, seed=3).play(steps)
        assert wild.kills >= 3, "the day was over before anybody was killed"
        found = the_log(wild)
    assert expected.count(b"\n") > 3 * steps
    assert found == expected


# ---------------------------------------------------------------- neighbours and the end


def test_a_second_service_on_the_same_store_is_turned_away(tmp_path):
    with served(tmp_path / "s") as first:
        second = Served(first.folder)
        with pytest.raises(AssertionError, match="in use"):
            second.start()
        with Client(first.address) as client:
            client.register_fleet(a_fleet())


def test_sigterm_answers_what_is_in_flight_and_ends_with_0(tmp_path):
    answers: list[str] = []
    with served(tmp_path / "s") as service, Client(service.address, retry_unavailable_for_s=0) as client:
        client.register_fleet(a_fleet())

        def submit() -> None:
            try:
                for i in range(10_000):
                    record = client.create_workload(a_workload(f"w{i}", cpu_milli=10))
                    # seen by the other thread while this one goes on
                    answers.append(record.name)
            except Unavailable:
                return

        submitting = threading.Thread(target=submit)
        submitting.start()
        while len(answers) < 20:
            time.sleep(0.01)
        assert service.stop() == 0
        submitting.join()
    store = SqlStore(service.store_url)
    try:
        stored = {d.name for d in store.documents("workloads", limit=100_000)}
    finally:
        store.close()
    # the last one may have been written while its answer was cut off
    assert set(answers) <= stored
    assert len(stored) <= len(answers) + 1
    with pytest.raises(SuanliError), Client(service.address, retry_unavailable_for_s=0) as client:
        client.get_fleet()


def test_the_port_file_and_first_line_name_the_port(tmp_path):
    port_file = tmp_path / "port"
    service = Served(tmp_path, "--port-file", str(port_file))
    service.start()
    try:
        assert port_file.read_text() == f"{service.port}\n"
        assert service.output().splitlines()[0] == f"listening on 127.0.0.1:{service.port}"
        assert not list(tmp_path.glob("*.tmp"))
    finally:
        service.kill()


def test_a_killed_simulation_leaves_no_service_behind(tmp_path):
    port = a_free_port()
    command = [sys.executable, "-m", "suanli.cli.main", "dev", "tiny-cloud-edge"]
    dev = subprocess.Popen(
        [*command, "--port", str(port), "--out", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: _listens(port), "the service listens")
    finally:
        dev.kill()
        dev.wait()
    _until(lambda: not _listens(port), "its port is free again")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.1)
