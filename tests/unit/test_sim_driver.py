"""The driver: who is called when, in which order, and under which request ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster_sim.driver import DayPlan, Driver, request_id_of
from cluster_sim.world.protocol import Command, SiteReport, StopReplica
from suanli.model import (
    Fleet,
    Network,
    Policy,
    PriorityClass,
    Stage,
    StopKind,
    TelemetryReport,
    Workload,
    WorkloadKind,
)

START_S, WINDOW_S = 1000 * 3600, 300
FLEET = Fleet.model_construct(sites=(), zones=(), network=Network(hubs={}, links=(), access=()), tariffs=())


def a_job(name: str, duration_s: int | None = 600) -> Workload:
    return Workload(
        name=f"tenants/t/workloads/{name}",
        kind=WorkloadKind.BATCH,
        priority_class=PriorityClass.BATCH,
        stages=(Stage(stage_id="main", cpu_milli=1000, memory_mib=1, duration_s=duration_s),),
    )


def a_day(arrivals: Sequence[tuple[int, Workload]], **more: Any) -> DayPlan:
    fields: dict[str, Any] = {
        "run_id": "r",
        "seed": 1,
        "start_s": START_S,
        "day_end_s": START_S + 2 * WINDOW_S,
        "drain_until_s": START_S + 6 * WINDOW_S,
        "window_s": WINDOW_S,
        "fleet": FLEET,
        "policy": Policy(),
        "arrivals": arrivals,
    }
    return DayPlan(**{**fields, **more})


class Recorder:
    """Gateway and engine in one, so that the order of all calls is one list."""

    def __init__(self, ends_at_s: int = 10**12) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.ids: list[str] = []
        self._ends_at_s = ends_at_s

    def open_run(self, run_id: str, seed: int, start_s: int, fleet: Fleet, policy: Policy) -> None:
        self.calls.append(("open", start_s))

    def submit(self, workloads: Sequence[Workload], request_id: str) -> None:
        self.calls.append(("submit", [w.workload_id for w in workloads]))
        self.ids.append(request_id)

    def cancel(self, name: str, request_id: str) -> None:
        self.calls.append(("cancel", name.rpartition("/")[2]))
        self.ids.append(request_id)

    def report(self, report: TelemetryReport, request_id: str) -> None:
        self.calls.append(("report", report.at_s - START_S))
        self.ids.append(request_id)

    def advance(self, run_id: str, until_s: int, request_id: str) -> dict[str, int]:
        self.calls.append(("advance", until_s - START_S))
        self.ids.append(request_id)
        return {"succeeded": 1 if until_s >= self._ends_at_s else 0}

    def commands(self) -> list[Command]:
        return [StopReplica("p", "e01", START_S, StopKind.MOVED, "test")]

    def close_run(self, run_id: str) -> None:
        self.calls.append(("close", run_id))

    def step(self, commands: Sequence[Command], until_s: int) -> SiteReport:
        self.calls.append(("step", until_s - START_S))
        assert [c.placement_id for c in commands] == ["p"]
        return SiteReport((), (), ())

    def stop_site(self, site_id: str) -> None: ...

    def close(self) -> None: ...


def played(day: DayPlan, ends_at_s: int = 10**12) -> Recorder:
    recorder = Recorder(ends_at_s)
    Driver(recorder, recorder, day).play()
    return recorder


def test_a_window_steps_the_sites_then_submits_reports_and_advances() -> None:
    calls = played(a_day([(START_S, a_job("a")), (START_S + 10, a_job("b"))])).calls
    first = [("open", START_S), ("submit", ["a"]), ("report", 0), ("advance", 0)]
    second = [("step", WINDOW_S), ("submit", ["b"]), ("report", WINDOW_S), ("advance", WINDOW_S)]
    assert calls[:8] == first + second


def test_failures_cut_windows_so_that_they_are_seen_at_once() -> None:
    calls = played(a_day([], instants_s=[START_S + 40])).calls
    assert [at for verb, at in calls if verb == "step"][:2] == [40, WINDOW_S]


def test_the_drain_ends_when_everything_finite_has_ended() -> None:
    day = a_day([(START_S, a_job("job")), (START_S, a_job("service", None))])
    calls = played(day, ends_at_s=START_S + 4 * WINDOW_S).calls
    assert calls[-2:] == [("advance", 4 * WINDOW_S), ("close", "r")]


def test_the_drain_ends_at_its_limit_when_work_is_left() -> None:
    calls = played(a_day([(START_S, a_job("job"))])).calls
    assert calls[-2:] == [("advance", 6 * WINDOW_S), ("close", "r")]


def test_nothing_is_submitted_after_the_day() -> None:
    calls = played(a_day([(START_S + 5 * WINDOW_S, a_job("late"))])).calls
    assert not [c for c in calls if c[0] == "submit"]


def test_tenants_take_work_back_when_their_time_comes() -> None:
    day = a_day([(START_S, a_job("a"))], cancellations=[(START_S + WINDOW_S + 1, "tenants/t/workloads/a")])
    calls = played(day).calls
    assert ("cancel", "a") in calls[calls.index(("step", 2 * WINDOW_S)) :]


def test_request_ids_are_equal_for_equal_runs_and_differ_between_steps() -> None:
    first, second = (played(a_day([(START_S, a_job("a"))])).ids for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first)
    assert request_id_of("r", "x") != request_id_of("other", "x")
