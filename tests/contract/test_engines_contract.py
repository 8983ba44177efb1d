"""What every engine of simulated sites promises, played on the local and the Ray engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_sim.engines import ray_engine
from cluster_sim.engines.local import LocalEngine
from cluster_sim.engines.ray_engine import RayEngine, RaySession
from cluster_sim.scenarios import load_scenario
from cluster_sim.world.arrivals import arrivals
from cluster_sim.world.protocol import SiteReport
from suanli.model import ReplicaPhase, StopKind
from tests.support.first_fit import FirstFit, play
from tests.support.sites import a_start, a_stop

SMALL = load_scenario("songjiang-s")
TINY = load_scenario("tiny-cloud-edge")
SEED = 1
EngineFactory = Callable[..., Any]


@pytest.fixture(scope="module")
def ray_session() -> Iterator[RaySession]:
    """One Ray for the whole module: starting it costs seconds."""
    session = RaySession(2)
    yield session
    session.close()


@pytest.fixture(
    params=[
        "local",
        pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.xdist_group("ray")]),
    ]
)
def new_engine(request: pytest.FixtureRequest) -> Iterator[EngineFactory]:
    """Makes engines of the kind under test and closes them."""
    made: list[Any] = []

    def make(scenario=TINY, fates=None, **options):
        if request.param == "local":
            engine: Any = LocalEngine(scenario, SEED, fates or {})
        else:
            session = request.getfixturevalue("ray_session")
            engine = RayEngine(scenario, SEED, fates or {}, session=session, **options)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


def a_tiny_start(placement_id: str = "p1", **fields: Any):
    """A service on a CPU node of the tiny city's first edge room."""
    wanted: dict[str, Any] = {
        "site_id": "e02-jkq",
        "group_id": "cpu_edge",
        "gpu_milli": 0,
        "gpu_ids": (),
        "at_s": TINY.start_s,
    }
    return a_start(placement_id, **(wanted | fields))


def text_of(reports: list[SiteReport]) -> str:
    """Everything an engine said, as one canonical text."""
    lines = [row.model_dump_json() for r in reports for row in (*r.replicas, *r.meters, *r.statuses)]
    return "\n".join(lines)


def local_day(scenario) -> tuple[FirstFit, list[SiteReport]]:
    day = arrivals(scenario, SEED)
    return play(scenario, day, LocalEngine(scenario, SEED, day.fates))


# ---------------------------------------------------------------- every engine
def test_a_start_is_reported_running_and_a_stop_stopped(new_engine):
    engine = new_engine()
    first = engine.step([a_tiny_start()], TINY.start_s + 60)
    assert [(r.placement_id, r.phase) for r in first.replicas] == [("p1", ReplicaPhase.RUNNING)]
    stop = type(a_stop())("p1", "e02-jkq", TINY.start_s + 60, StopKind.CANCELLED, "cancelled")
    second = engine.step([stop], TINY.start_s + 120)
    assert [(r.phase, r.detail) for r in second.replicas] == [(ReplicaPhase.STOPPED, "cancelled")]


def test_every_site_is_metered_over_every_window_without_gaps(new_engine):
    engine = new_engine()
    seen = []
    for i in range(1, 4):
        report = engine.step([], TINY.start_s + 300 * i)
        assert [m.site_id for m in report.meters] == sorted(TINY.sites.rows)
        seen += [(m.from_s - TINY.start_s, m.until_s - TINY.start_s) for m in report.meters[:1]]
    assert seen == [(0, 300), (300, 600), (600, 900)]


def test_a_command_to_an_unknown_site_is_an_error(new_engine):
    engine = new_engine()
    with pytest.raises(KeyError):
        engine.step([a_tiny_start(site_id="nowhere")], TINY.start_s + 60)


def test_a_halted_site_is_silent_and_goes_on_when_resumed(new_engine):
    engine = new_engine()
    engine.stop_site("e02-jkq")
    report = engine.step([a_tiny_start()], TINY.start_s + 3600)
    silent = next(m for m in report.meters if m.site_id == "e02-jkq")
    others = [m for m in report.meters if m.site_id != "e02-jkq"]
    assert report.replicas == () and silent.it_energy_kwh == silent.facility_energy_kwh == 0.0
    assert not silent.up and all(m.it_energy_kwh > 0 for m in others)
    engine.resume_site("e02-jkq")
    report = engine.step([], TINY.start_s + 7200)
    assert [r.phase for r in report.replicas] == [ReplicaPhase.RUNNING]


def test_what_runs_says_what_it_has_delivered(new_engine):
    engine = new_engine()
    engine.step([a_tiny_start(reference_gpu_milli=2000)], TINY.start_s + 30 + 100)
    assert engine.delivered_running() == {"p1": 2.0 * 100}


def test_overcommitment_is_refused_whoever_asks(new_engine):
    engine = new_engine()
    orders = [a_tiny_start(f"p{i}", cpu_milli=40_000) for i in range(2)]
    report = engine.step(orders, TINY.start_s + 60)
    by_phase = Counter(r.phase for r in report.replicas)
    assert by_phase == {ReplicaPhase.RUNNING: 1, ReplicaPhase.FAILED: 1}
    assert next(r.detail for r in report.replicas if r.phase is ReplicaPhase.FAILED).startswith("overcommit")


def test_a_day_plays_to_equal_reports_byte_for_byte(new_engine):
    day = arrivals(TINY, SEED)
    policy, reports = play(TINY, day, new_engine(TINY, day.fates))
    reference, expected = local_day(TINY)
    assert text_of(reports) == text_of(expected)
    assert policy.ended == reference.ended


# ---------------------------------------------------------------- the day of the small city
def test_the_small_city_plays_its_day_with_its_failures():
    policy, reports = local_day(SMALL)
    phases = Counter(phase for _, phase, _ in policy.ended)
    details = Counter(detail.split(":")[0] for _, _, detail in policy.ended)
    assert phases[ReplicaPhase.SUCCEEDED] > 2000
    assert details["failed by itself"] > 5 and details["site down"] > 5 and details["replica crashed"] > 0
    assert "overcommit" not in details
    downs = [(s.site_id, s.up, s.at_s) for r in reports for s in r.statuses]
    assert downs == [
        ("e01-hub", False, SMALL.clock_s("09:40")),
        ("e01-hub", True, SMALL.clock_s("11:10")),
    ]


def test_facility_energy_is_never_below_it_energy_and_useful_energy_never_above():
    _, reports = local_day(SMALL)
    for meter in (m for r in reports for m in r.meters):
        assert meter.facility_energy_kwh >= meter.it_energy_kwh >= meter.useful_it_energy_kwh - 1e-12
        is_dark = meter.site_id == "e01-hub" and (
            SMALL.clock_s("09:40") <= meter.from_s and meter.until_s <= SMALL.clock_s("11:10")
        )
        assert not is_dark or meter.facility_energy_kwh == 0.0
        assert meter.up or meter.site_id == "e01-hub"


# ---------------------------------------------------------------- Ray alone
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_the_small_city_is_equal_on_ray_with_any_number_of_shards(ray_session):
    day = arrivals(SMALL, SEED)
    expected = text_of(play(SMALL, day, LocalEngine(SMALL, SEED, day.fates))[1])
    for shards in (1, 2):
        engine = RayEngine(SMALL, SEED, day.fates, session=ray_session, shard_count=shards)
        try:
            assert text_of(play(SMALL, day, engine)[1]) == expected
        finally:
            engine.close()


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_names_that_ray_does_not_know_are_left_alone(monkeypatch):
    """A later Ray may have other private names: it then starts more than is needed, and starts."""
    from ray._private.node import Node

    known, *_ = ray_engine.UNUSED_PROCESSES
    before = dict(vars(Node))
    monkeypatch.setattr(ray_engine, "UNUSED_PROCESSES", (known, "start_what_no_ray_knows"))
    with ray_engine._only_what_actors_need():
        assert getattr(Node, known) is ray_engine._start_nothing
        assert not hasattr(Node, "start_what_no_ray_knows")
    assert dict(vars(Node)) == before


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_ray_starts_nothing_but_what_actors_need(ray_session):
    """Its dashboard, autoscaler and log collector cost seconds of start, and the dashboard fails now and then."""
    from ray._private.worker import _global_node

    assert _global_node is not None
    started = set(_global_node.all_processes)
    assert started - {"reaper"} == {"gcs_server", "raylet"}  # a reaper where the kernel does not do its work


SECOND_RAY = """
from cluster_sim.engines.ray_engine import RayEngine
from cluster_sim.scenarios import load_scenario
scenario = load_scenario("tiny-cloud-edge")
engine = RayEngine(scenario, 1, {}, shard_count=1)
report = engine.step([], scenario.start_s + 300)
folder = engine._session._folder
engine.close()
print(len(report.meters), folder.exists())
"""


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_a_second_ray_beside_the_first_does_not_collide_and_leaves_nothing(ray_session):
    day = arrivals(TINY, SEED)
    first = RayEngine(TINY, SEED, day.fates, session=ray_session)
    try:
        first.step([], TINY.start_s + 300)
        root = Path(__file__).resolve().parents[2]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-c", SECOND_RAY],
            cwd=root,
            env=environment | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.stdout.split() == ["3", "False"], done.stderr[-2000:]
        assert len(first.step([], TINY.start_s + 600).meters) == 3
    finally:
        first.close()


ONE_AFTER_THE_OTHER = """
from cluster_sim.engines.ray_engine import RayEngine
from cluster_sim.scenarios import load_scenario
from solvers.decompose import RayRunner

tiny = load_scenario("tiny-cloud-edge")
for _ in range(2):
    engine = RayEngine(tiny, 1, {}, shard_count=1)
    print(len(engine.step([], tiny.start_s + 300).meters))
    engine.close()
with RayRunner(1) as runner:
    print(*runner.map(lambda x: -x, [-7]))
"""


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_one_process_may_start_several_rays_one_after_the_other():
    """Ray keeps the first token of a process: a second engine, or a solver's Ray after it, has to use the same."""
    root = Path(__file__).resolve().parents[2]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER],
        cwd=root,
        env=environment | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.split() == ["3", "3", "7"], done.stderr[-2000:]
