"""A service beside a simulation that keeps dying, or lives and says nothing: it is given up, and why is told."""

from __future__ import annotations

import sys
import time
from contextlib import closing

import pytest

from cluster_sim import service_process
from cluster_sim.client_gateway import ClientGateway
from cluster_sim.service_process import MAX_RESTARTS, ServiceError, ServiceProcess
from suanli.model import Unavailable

PATIENCE_S = 30.0
KILLED = "import os, signal; print('dying', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
REFUSING = "import sys; sys.exit('the store is of a later version')"
MUTE = "import sys; sys.stdin.read()"


def killed_listening(port_file: str) -> str:
    return f"open({port_file!r}, 'w').write('4711'); {KILLED}"


@pytest.fixture
def lives(monkeypatch):
    """What each launch runs instead of the service, one after the other; the last one from then on."""

    def set_up(*programs: str) -> list[str]:
        launched: list[str] = []

        def command(_: ServiceProcess) -> list[str]:
            launched.append(programs[min(len(launched), len(programs) - 1)])
            return [sys.executable, "-I", "-S", "-c", launched[-1]]

        monkeypatch.setattr(ServiceProcess, "_command", command)
        return launched

    return set_up


def failure_of(service: ServiceProcess) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not service.failure:
        assert time.monotonic() < deadline, "it was not given up"
        time.sleep(0.01)
    return service.failure


def test_deaths_before_the_port_are_counted_and_the_last_one_is_told(tmp_path, lives):
    launched = lives(KILLED)
    with ServiceProcess(tmp_path) as service:
        with pytest.raises(
            ServiceError, match=f"died {MAX_RESTARTS + 1} times, the last time killed by signal 9"
        ):
            service.await_address()
        assert service.restart_count == MAX_RESTARTS and len(launched) == MAX_RESTARTS + 1
        assert service.failure.endswith("dying\n"), "the end of its log is not told"


def test_a_service_that_was_up_may_refuse_to_start_and_is_tried_again(tmp_path, lives):
    launched = lives(killed_listening(str(tmp_path / "port")), REFUSING)
    with ServiceProcess(tmp_path) as service:
        assert service.await_address() == "127.0.0.1:4711"
        failure = failure_of(service)
    assert f"died {MAX_RESTARTS + 1} times, the last time exit code 1" in failure
    assert "the store is of a later version" in failure and len(launched) == MAX_RESTARTS + 1


def test_a_service_that_refuses_its_first_start_is_not_tried_again(tmp_path, lives):
    launched = lives(REFUSING)
    with ServiceProcess(tmp_path) as service:
        with pytest.raises(ServiceError, match=r"did not start \(exit code 1\):\nthe store is of"):
            service.await_address()
        assert launched == [REFUSING]


def test_the_port_file_of_the_dead_is_not_taken_for_that_of_the_living(tmp_path, lives, monkeypatch):
    monkeypatch.setattr(service_process, "START_TIMEOUT_S", 0.3)
    lives(killed_listening(str(tmp_path / "port")), MUTE)
    with ServiceProcess(tmp_path) as service:
        assert failure_of(service).startswith("the service did not start in")
        assert service.restart_count == 1


def test_who_finds_nobody_after_it_was_given_up_is_told_why(tmp_path, lives):
    lives(killed_listening(str(tmp_path / "port")), KILLED)
    with (
        pytest.raises(ServiceError, match=f"died {MAX_RESTARTS + 1} times"),
        ServiceProcess(tmp_path) as service,
    ):
        failure_of(service)
        raise Unavailable("nothing answers at 127.0.0.1:4711")


def test_who_waits_for_its_answer_hears_at_once_that_it_is_given_up(tmp_path, lives):
    lives(killed_listening(str(tmp_path / "port")), KILLED)
    with ServiceProcess(tmp_path) as service:
        gateway = ClientGateway(service.await_address(), retry_unavailable_for_s=3600.0, sleep=service.sleep)
        with closing(gateway.client), pytest.raises(ServiceError, match=f"died {MAX_RESTARTS + 1} times"):
            gateway.commands()


def test_another_error_stays_what_it_is(tmp_path, lives):
    lives(MUTE)
    with pytest.raises(Unavailable, match="busy") as told, ServiceProcess(tmp_path):
        raise Unavailable("busy")
    assert not isinstance(told.value, ServiceError)
