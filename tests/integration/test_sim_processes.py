"""Processes beside a simulation: a service that dies is started again, and results come whole whatever is printed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cluster_sim.client_gateway import ClientGateway
from cluster_sim.commands import _Baselines
from cluster_sim.driver import Progress
from cluster_sim.play import BASELINES, play_day, write_log
from cluster_sim.scenarios import load_scenario
from cluster_sim.service_process import ServiceError, ServiceProcess
from suanli.client import Client

PATIENCE_S = 30.0


def test_a_service_that_dies_before_anybody_asks_for_it_is_started_again(tmp_path):
    with ServiceProcess(tmp_path) as service:
        first, deadline = service.pid, time.monotonic() + PATIENCE_S
        port_file = tmp_path / "port"
        while not port_file.exists() or not port_file.read_text().strip():
            assert time.monotonic() < deadline, service.log_tail()
            time.sleep(0.02)
        os.kill(first, signal.SIGKILL)
        while service.restart_count == 0:
            assert time.monotonic() < deadline, "nobody watched it"
            time.sleep(0.02)
        with Client(service.await_address(), retry_unavailable_for_s=PATIENCE_S) as client:
            assert client.get_policy().policy_id == "default"
        assert service.pid != first and service.failure == ""


def the_log(folder: Path, disturb: Callable[[ServiceProcess, int], None] | None = None) -> bytes:
    """Canonical log of the tiny day through a service, which `disturb` may harm after each window."""
    world = load_scenario("tiny-cloud-edge")
    windows = 0

    with ServiceProcess(folder) as service:
        gateway = ClientGateway(service.await_address(), retry_unavailable_for_s=PATIENCE_S)

        def on_window(_: Progress) -> None:
            nonlocal windows
            windows += 1
            if disturb is not None:
                disturb(service, windows)

        day = play_day(world, 42, "suanli", gateway, "local", on_window=on_window)
        gateway.client.close()
        assert service.failure == ""
    write_log(folder / "day.jsonl", day.log)
    return (folder / "day.jsonl").read_bytes()


def test_a_service_killed_again_while_it_starts_ends_the_day_with_the_same_log(tmp_path):
    kills: list[int] = []

    def kill(service: ServiceProcess) -> None:
        kills.append(service.pid)
        os.kill(service.pid, signal.SIGKILL)

    def kill_twice(service: ServiceProcess, window: int) -> None:
        if window != 10:
            return
        kill(service)
        deadline = time.monotonic() + PATIENCE_S
        while service.pid == kills[0]:
            assert time.monotonic() < deadline, "nobody started it again"
            time.sleep(0.01)
        kill(service)
        assert service.restart_count == 1 and not (tmp_path / "wild" / "port").exists(), "it was up already"

    calm, wild = the_log(tmp_path / "calm"), the_log(tmp_path / "wild", kill_twice)
    assert len(set(kills)) == 2
    assert calm.count(b"\n") > 100
    assert wild == calm


def test_a_service_killed_before_it_ever_listened_is_started_again(tmp_path):
    with ServiceProcess(tmp_path) as service:
        os.kill(service.pid, signal.SIGKILL)
        with Client(service.await_address(), retry_unavailable_for_s=PATIENCE_S) as client:
            assert client.get_policy().policy_id == "default"
        assert service.restart_count == 1 and service.failure == ""


def test_who_asks_for_a_service_that_does_not_come_up_is_told_why(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with ServiceProcess(tmp_path, port=taken.getsockname()[1]) as service:
            with pytest.raises(ServiceError, match="did not start"):
                service.await_address()
            assert service.restart_count == 0


def test_a_service_that_nobody_awaits_ends_at_once(tmp_path):
    with ServiceProcess(tmp_path) as service:
        pid = service.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_results_of_the_baselines_come_whole_whatever_a_library_prints(tmp_path, monkeypatch):
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    (noisy / "sitecustomize.py").write_text("print('a library says hello')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(noisy), os.environ.get("PYTHONPATH", "")]))
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with _Baselines("tiny-cloud-edge", 42, run_dir) as baselines:
        baselines.start()
        results = baselines.results(Console(quiet=True))
    assert [policy for policy, _ in results] == list(BASELINES)
    assert "a library says hello" in (run_dir / "baselines.log").read_text()
    assert sorted(file.name for file in run_dir.iterdir()) == sorted(
        ["baselines.log", *(f"{name}.{end}" for name in BASELINES for end in ("json", "jsonl"))]
    )
