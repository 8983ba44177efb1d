"""The arithmetic of `benchmarks.day` and what the clairvoyant plan is told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.day import Paid, edges_of, plan_seconds, room_frac
from cluster_sim.baselines import strategy_of
from cluster_sim.clairvoyant import (
    NoBoundError,
    block_by_block,
    clairvoyant,
    figures_of,
    known_ahead,
    learned_by,
    served_part,
    true_weather,
)
from cluster_sim.day_log import read_columns
from cluster_sim.day_tables import drained_by_site
from cluster_sim.in_process import InProcessGateway
from cluster_sim.play import play_day
from cluster_sim.scenarios.loader import load_scenario
from cluster_sim.world.arrivals import Arrivals, arrivals
from cluster_sim.world.build import weather_of
from cluster_sim.world.demand import Fate
from scheduler.workers import InlineSolverPool
from solvers.plan_model import solve_plan
from solvers.plan_rules import PlanOptions
from solvers.solution import SolveStatus, no_plan
from solvers.verify import verify_plan
from suanli.model import Stage, Workload, WorkloadKind
from suanli.model.units import SECONDS_PER_HOUR, epoch_s
from tests.plan_problems import Town

H = SECONDS_PER_HOUR
SEED = 42


# ---------------------------------------------------------------- the share of the room


def test_room_is_counted_from_least_loaded_down_to_the_bound():
    assert room_frac(1.0, 0.7, 0.6) == (pytest.approx((1.0 - 0.7) / (1.0 - 0.6)), "")
    assert room_frac(1.0, 1.0, 0.6) == (0.0, "")
    assert room_frac(1.0, 0.6, 0.6) == (1.0, "")


def test_a_policy_dearer_than_least_loaded_uses_less_than_nothing():
    frac, why = room_frac(1.0, 1.2, 0.6)
    assert frac == pytest.approx(-0.2 / 0.4)
    assert why == ""


@pytest.mark.parametrize("bound", [1.0, 1.1])
def test_without_room_there_is_no_share_but_a_reason(bound):
    frac, why = room_frac(1.0, 0.9, bound)
    assert frac is None
    assert "no room" in why


@pytest.mark.parametrize("prices", [(None, 0.7, 0.6), (1.0, None, 0.6), (1.0, 0.7, None)])
def test_a_missing_price_gives_no_share_but_a_reason(prices):
    frac, why = room_frac(*prices)
    assert frac is None
    assert why


def test_the_price_of_an_hour_that_was_not_delivered_does_not_exist():
    assert Paid(12.0, 0.0).yuan_per_gpu_h is None
    assert Paid(12.0, 8.0).yuan_per_gpu_h == 12.0 / 8.0


def test_the_first_plan_is_not_counted_as_warm():
    assert plan_seconds([9.0, 1.0, 3.0, 2.0]) == {
        "plan_first_cpu_s": 9.0,
        "plan_warm_median_cpu_s": 2.0,
        "plan_warm_max_cpu_s": 3.0,
    }
    assert plan_seconds([9.0])["plan_warm_max_cpu_s"] is None
    assert plan_seconds([])["plan_first_cpu_s"] is None


# ---------------------------------------------------------------- what is known ahead


def job(name, hours, **fields):
    stage = Stage(
        stage_id="main", cpu_milli=1000, memory_mib=64, duration_s=None if hours is None else hours * H
    )
    return Workload(name=f"tenants/t/workloads/{name}", kind=WorkloadKind.BATCH, stages=(stage,), **fields)


def known(at_s, workload, fate=None, cancelled_s=None, until_s=48 * H):
    submitted = Arrivals(
        items=((at_s, workload),),
        fates={} if fate is None else {workload.name: fate},
        cancellations=() if cancelled_s is None else ((cancelled_s, workload.name),),
        services=(),
    )
    (only,) = known_ahead(submitted, 0, until_s)
    begin_s = None if only.not_before_at is None else epoch_s(only.not_before_at)
    return begin_s, only.stages[0].duration_s


def test_work_may_not_begin_before_it_really_comes():
    assert known(5 * H, job("a", 2)) == (5 * H, 2 * H)
    assert known(0, job("a", 2)) == (None, 2 * H)


def test_work_lasts_as_it_really_will():
    assert known(5 * H, job("a", 2), Fate({"main": 3 * H})) == (5 * H, 3 * H)
    assert known(5 * H, job("a", 2), Fate({"main": 3 * H}, fails_after_s=H)) == (5 * H, H)
    assert known(5 * H, job("a", 9), cancelled_s=7 * H) == (5 * H, 2 * H)
    assert known(5 * H, job("a", 90)) == (5 * H, 43 * H), "longer than the horizon"
    assert known(5 * H, job("a", None)) == (5 * H, None), "a service runs on"


def test_the_weather_told_is_the_true_one():
    scenario = load_scenario("tiny-cloud-edge")
    truth, told = weather_of(scenario, SEED), true_weather(scenario, SEED)
    assert told.from_s == scenario.start_s
    assert list(told.dry_bulb_c) == truth.dry_bulb_c[::60].tolist()
    assert told.from_s + (len(told.dry_bulb_c) - 1) * H <= scenario.drain_end_s


# ---------------------------------------------------------------- the bound


@pytest.fixture(scope="module")
def scenario():
    return load_scenario("tiny-cloud-edge")


@pytest.fixture(scope="module")
def played(scenario):
    gateway = InProcessGateway(strategy_of("least-loaded"), InlineSolverPool())
    return play_day(scenario, SEED, "least-loaded", gateway, "local")


def test_the_clairvoyant_bound_lies_below_its_plan_and_below_a_played_day(scenario, played):
    known = clairvoyant(scenario, SEED, learned_by(played.log), played.window.drained_until_s)
    assert 0.99 * known.fleet.energy_yuan <= known.fleet.bound_yuan <= known.fleet.energy_yuan + 1e-6
    assert known.edge.bound_yuan <= known.edge.energy_yuan
    assert known.fleet.gpu_h == pytest.approx(known.demanded_gpu_h), "nothing is left undone"
    day = played.result(scenario).drained
    assert known.fleet.bound_yuan_per_gpu_h is not None and day.yuan_per_gpu_h is not None
    assert 0 < known.fleet.bound_yuan_per_gpu_h < day.yuan_per_gpu_h


def test_all_work_of_the_day_is_known_to_it(scenario):
    submitted = arrivals(scenario, SEED)
    told = known_ahead(submitted, scenario.start_s, scenario.drain_end_s)
    assert [w.name for w in told] == [w.name for _, w in submitted.items]


def test_sites_add_up_to_the_fleet(scenario, played):
    cost_yuan, gpu_h = drained_by_site(read_columns(played.log, scenario.fleet()), played.window)
    drained = played.result(scenario).drained
    assert math.isclose(cost_yuan.sum(), drained.cost_yuan)
    assert math.isclose(gpu_h.sum(), drained.delivered_gpu_h)
    edges = edges_of(played, scenario)
    at_edge = np.array([s.kind == "edge" for s in scenario.fleet().sites])
    assert 0 < edges.cost_yuan == pytest.approx(cost_yuan[at_edge].sum())
    assert edges.gpu_h < drained.delivered_gpu_h


def test_a_plan_without_proof_bounds_nothing():
    problem = Town().site("s").group("g", "s").work("c").problem()
    with pytest.raises(NoBoundError, match="ran out"):
        figures_of(problem, no_plan(problem, SolveStatus.UNKNOWN, "ran out"), np.zeros(problem.class_count))


def test_demand_without_room_is_taken_out_and_told():
    problem = (
        Town(hours=(1.0, 2.0)).site("s").group("g", "s", node_count=1).work("c", demand=10_000).problem()
    )
    plan = solve_plan(problem)
    unserved_h = float((plan.unserved_count @ problem.slots.hours).sum())
    assert unserved_h > 0
    served, left_h = served_part(problem, plan)
    assert left_h == pytest.approx(unserved_h)
    assert (served.classes.demand_count < problem.classes.demand_count).all()
    assert solve_plan(served).unserved_count.max() == pytest.approx(0.0, abs=1e-6)


def test_divided_block_by_block_the_same_work_costs_the_same():
    town = Town(hours=(1,) * 12)
    for i in range(3):
        prices = [0.4 + 0.2 * ((t // 3 + i) % 4) for t in range(12)]
        town.site(f"s{i}", price_yuan_per_kwh=prices, may_close=i > 0, fixed_kw=0.5).group(f"g{i}", f"s{i}")
    for i in range(4):
        demand = [float((t // 3 + i) % 3 * 2) for t in range(12)]
        town.work(f"web{i}", demand=demand, migration_yuan=0.0, allowed=("s0", "s1", "s2")[: 2 + i % 2])
    town.work("render", work_replica_h=9, max_parallel=3, deadline_slot=10, migration_yuan=0.0)
    whole = town.problem()
    options = PlanOptions(blocks_per_day=8)
    divided, parent = block_by_block(whole, options)
    assert divided.class_count > whole.class_count
    assert [i.partition("@")[0] for i in divided.classes.class_id] == [
        whole.classes.class_id[c] for c in parent
    ]
    one, other = (solve_plan(p, options=options) for p in (whole, divided))
    assert not verify_plan(divided, other)
    assert other.bounds[0].objective_yuan == pytest.approx(one.bounds[0].objective_yuan, rel=1e-4)
    assert (other.it_kw * divided.slots.hours).sum() == pytest.approx(
        (one.it_kw * whole.slots.hours).sum(), rel=1e-3
    )
    summed = np.zeros((whole.class_count, whole.slot_count))
    np.add.at(summed, parent, divided.classes.demand_count)
    assert np.array_equal(summed, whole.classes.demand_count)
