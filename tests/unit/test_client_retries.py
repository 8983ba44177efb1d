"""Retries: UNAVAILABLE only, the same request id every time, waits that grow, an end; and a restart is survived."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suanli.client import AsyncClient, Backoff, Client, Waiting
from suanli.client.core import QUIET_S, Patience, Settings, error_of, may_retry
from suanli.model import Conflict, DeadlineExceeded, SuanliError, Unavailable, WatchExpired, Workload
from tests.fake_service import NOON_S, FakeService


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits_s: list[float] = []

    def clock_s(self) -> float:
        return self.now_s

    def sleep(self, wait_s: float) -> None:
        self.waits_s.append(wait_s)
        self.now_s += wait_s


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as fake:
        yield fake


def a_workload() -> Workload:
    return Workload.model_validate(
        {
            "name": "tenants/t/workloads/w",
            "kind": "batch",
            "stages": [{"stage_id": "main", "cpu_milli": 1, "memory_mib": 1}],
        }
    )


def failing(times: int, error: SuanliError) -> Callable[[str], SuanliError | None]:
    left = itertools.chain([error] * times, itertools.repeat(None))
    return lambda method: next(left)


def a_client(
    service: FakeService,
    time: VirtualTime,
    for_s: float = 10.0,
    on_wait: Callable[[Waiting], None] | None = None,
) -> Client:
    ids = (f"00000000-0000-4000-8000-{n:012}" for n in itertools.count())
    return Client(
        service.address,
        retry_unavailable_for_s=for_s,
        request_id=lambda: next(ids),
        sleep=time.sleep,
        uniform=lambda: 0.0,
        clock_s=time.clock_s,
        on_wait=on_wait,
    )


def test_an_absent_service_is_asked_again_with_growing_waits(service: FakeService):
    time = VirtualTime()
    service.faults.before = failing(3, Unavailable("restarting"))
    with a_client(service, time) as client:
        assert client.get_policy().revision == 1
    assert time.waits_s == [0.05, 0.1, 0.2]


def test_a_repeat_carries_the_same_request_id_and_creates_nothing_twice(service: FakeService):
    time = VirtualTime()
    service.faults.before = failing(2, Unavailable("restarting"))
    with a_client(service, time) as client:
        client.create_workload(a_workload())
        assert list(service.answers) == ["00000000-0000-4000-8000-000000000000"]
        assert len(service.records) == 1


@pytest.mark.parametrize("error", [Conflict("x"), DeadlineExceeded("x"), SuanliError("x")])
def test_nothing_else_is_asked_again(service: FakeService, error: SuanliError):
    time = VirtualTime()
    service.faults.before = failing(1, error)
    with a_client(service, time) as client, pytest.raises(type(error)):
        client.get_policy()
    assert time.waits_s == []


def test_patience_ends(service: FakeService):
    time = VirtualTime()
    service.faults.before = lambda method: Unavailable("gone")
    with a_client(service, time, for_s=3.0) as client, pytest.raises(Unavailable):
        client.get_policy()
    assert time.now_s == pytest.approx(3.0)


def test_a_long_wait_is_told_once_with_what_it_is_for_and_how_long_it_may_last(service: FakeService):
    time, told = VirtualTime(), list[Waiting]()
    service.faults.before = lambda method: Unavailable("nobody is there")
    with a_client(service, time, for_s=120.0, on_wait=told.append) as client, pytest.raises(Unavailable):
        client.get_policy()
    (waiting,) = told
    assert QUIET_S <= waiting.waited_s < QUIET_S + 2.0
    assert waiting.left_s == 120.0 - waiting.waited_s
    assert str(waiting) == "waiting for the service since 3 s, for 117 s more: nobody is there"


def test_a_short_wait_is_not_worth_a_word(service: FakeService):
    time, told = VirtualTime(), list[Waiting]()
    service.faults.before = failing(6, Unavailable("restarting"))
    with a_client(service, time, on_wait=told.append) as client:
        client.get_policy()
    assert QUIET_S < time.now_s < QUIET_S + 2.0 and told == []


def test_every_outage_is_told_anew():
    time, told = VirtualTime(), list[Waiting]()
    settings = Settings(
        backoff=Backoff(for_s=60), clock_s=time.clock_s, uniform=lambda: 0.0, on_wait=told.append
    )
    patience = Patience(settings)
    for outage_s in (10.0, 1.0, 10.0):
        back_s = time.now_s + outage_s
        while time.now_s < back_s:
            time.sleep(patience.wait_s(Unavailable("away")) or 0.0)
        patience.well()
    assert len(told) == 2, "two of the three were long"


def test_who_hands_in_nothing_finds_long_waits_in_the_log(
    service: FakeService, caplog: pytest.LogCaptureFixture
):
    service.faults.before = lambda method: Unavailable("nobody is there")
    with a_client(service, VirtualTime()) as client, pytest.raises(Unavailable):
        client.get_policy()
    (line,) = [r for r in caplog.records if r.name == "suanli.client"]
    assert line.levelname == "WARNING" and line.getMessage().endswith("for 7 s more: nobody is there")


def test_what_the_sleep_raises_ends_the_repeats(service: FakeService):
    def given_up(wait_s: float) -> None:
        raise Unavailable("nobody will start it again")

    service.faults.before = lambda method: Unavailable("away")
    with (
        Client(service.address, sleep=given_up) as client,
        pytest.raises(Unavailable, match="nobody will start it again"),
    ):
        client.get_policy()


def test_without_patience_the_first_failure_counts(service: FakeService):
    time = VirtualTime()
    service.faults.before = failing(1, Unavailable("x"))
    with a_client(service, time, for_s=0) as client, pytest.raises(Unavailable):
        client.get_policy()


def test_a_log_goes_on_where_it_was_cut(service: FakeService):
    time = VirtualTime()
    with a_client(service, time) as client:
        client.create_run("day", start_at_s=NOON_S)
        for minute in range(1, 8):
            client.advance_run("runs/day", NOON_S + 60 * minute)
        service.watch_cuts = itertools.chain([2, 0, 3], itertools.repeat(99))
        assert [e.revision for e in client.export_log()] == [1, 2, 3, 4, 5, 6, 7]


def test_commands_go_on_where_they_were_cut(service: FakeService):
    for i in range(5):
        service.order_stop(f"p{i}")
    service.watch_cuts = itertools.chain([1, 2], itertools.repeat(99))
    with a_client(service, VirtualTime()) as client:
        stream = client.watch_commands()
        seen = [c.revision for c in itertools.islice(stream, 5)]
        stream.close()  # type: ignore[attr-defined]
    assert seen == [1, 2, 3, 4, 5]


def test_a_restart_of_the_service_is_survived():
    """Nobody listens for a while; the same address comes back and the call ends well."""
    first = FakeService()
    with first:
        port = first.port
        with Client(first.address, retry_unavailable_for_s=20) as client:
            assert client.get_policy().revision == 1
            first.stop()
            reborn: list[FakeService] = []

            def come_back(wait_s: float) -> None:
                if not reborn:
                    reborn.append(FakeService(port).__enter__())

            client._sleep = come_back
            try:
                assert client.get_policy().revision == 1
            finally:
                for service in reborn:
                    service.stop()


@given(st.integers(0, 60), st.floats(0, 100), st.floats(0, 1, exclude_max=True))
def test_waits_stay_inside_their_bounds(attempt: int, elapsed_s: float, uniform: float):
    backoff = Backoff(for_s=30.0)
    wait_s = backoff.wait_s(attempt, elapsed_s, uniform)
    if elapsed_s >= 30.0:
        assert wait_s is None
    else:
        assert wait_s is not None
        assert 0 < wait_s <= min(backoff.max_s, 30.0 - elapsed_s)


def test_only_the_plain_absence_may_be_repeated():
    assert may_retry(Unavailable("x"))
    # it may have taken effect: the caller decides
    assert not may_retry(DeadlineExceeded("x"))


class CutOff(grpc.RpcError):
    """What a call gets that a stopping server cancels: a status without details."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "CANCELLED"


def test_a_call_that_a_stopping_service_cancels_may_be_repeated():
    error = error_of(CutOff())
    assert may_retry(error)
    assert "stopped during the call" in str(error)


def test_a_first_expired_token_costs_no_wait_a_second_one_does():
    patience = Patience(Settings(clock_s=lambda: 0.0, uniform=lambda: 0.0))
    assert patience.wait_s(WatchExpired("x")) == 0.0
    assert patience.wait_s(WatchExpired("x")) == 0.1
    patience.well()
    assert patience.wait_s(WatchExpired("x")) == 0.0


class Held:
    """Calls that reach the service wait there until the test lets them go."""

    def __init__(self, service: FakeService) -> None:
        self.reached, self.release, self.count = threading.Event(), threading.Event(), 0
        service.faults.before = self._before

    def _before(self, method: str) -> None:
        self.count += 1
        self.reached.set()
        self.release.wait(10)


CALLS: dict[str, Callable[[Client], object]] = {
    "one answer": lambda client: client.get_policy(),
    "pages": lambda client: list(client.list_sites()),
    "a log": lambda client: list(client.export_log()),
    "a watch": lambda client: list(client.watch_workloads()),
}


@pytest.mark.parametrize("what", CALLS)
def test_closing_from_another_thread_ends_a_call_for_good(service: FakeService, what: str):
    held = Held(service)
    client = Client(service.address)
    with ThreadPoolExecutor(1) as other:
        call = other.submit(CALLS[what], client)
        assert held.reached.wait(10)
        client.close()
        failure = call.exception(timeout=10)
        held.release.set()
    assert type(failure) is SuanliError and "closed" in str(failure)
    assert held.count == 1


def test_a_call_on_a_closed_client_says_so(service: FakeService):
    client = Client(service.address)
    client.close()
    with pytest.raises(SuanliError, match="closed"):
        client.get_policy()
    with pytest.raises(SuanliError, match="closed"):
        list(client.export_log())


def test_closing_while_a_repeat_is_awaited_ends_it_too(service: FakeService):
    service.faults.before = lambda method: Unavailable("away")
    client = Client(service.address, sleep=lambda wait_s: client.close())
    with pytest.raises(SuanliError, match="closed"):
        client.get_policy()


async def _all(stream: AsyncIterator[object]) -> list[object]:
    return [item async for item in stream]


ASYNC_CALLS: dict[str, Callable[[AsyncClient], Coroutine[object, object, object]]] = {
    "one answer": lambda client: client.get_policy(),
    "pages": lambda client: _all(client.list_sites()),
    "a log": lambda client: _all(client.export_log()),
    "a watch": lambda client: _all(client.watch_workloads()),
}


@pytest.mark.parametrize("what", ASYNC_CALLS)
def test_closing_from_another_task_ends_a_call_for_good(service: FakeService, what: str):
    held = Held(service)

    async def run() -> BaseException | None:
        client = AsyncClient(service.address)
        call = asyncio.ensure_future(ASYNC_CALLS[what](client))
        while not held.reached.is_set():
            await asyncio.sleep(0.005)
        await client.close()
        await asyncio.wait([call], timeout=10)
        held.release.set()
        return call.exception()

    failure = asyncio.run(run())
    assert type(failure) is SuanliError and "closed" in str(failure)
    assert held.count == 1


def test_a_cancelled_task_stays_cancelled(service: FakeService):
    held = Held(service)

    async def run() -> bool:
        client = AsyncClient(service.address)
        call = asyncio.ensure_future(client.get_policy())
        while not held.reached.is_set():
            await asyncio.sleep(0.005)
        call.cancel()
        await client.close()
        await asyncio.wait([call], timeout=10)
        held.release.set()
        return call.cancelled()

    assert asyncio.run(run())
