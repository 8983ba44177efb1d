"""The search of open sites and the levels, against every choice there is and against a textbook program in SciPy."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

from solvers.linear import INFINITY, LpLimits, Program, TemporaryRow
from solvers.lp_session import Session
from solvers.plan_levels import (
    AtLevels,
    Improved,
    _plan_at_levels,
    _with_own_columns,
    improve_at_levels,
    settle_levels,
)
from solvers.plan_master import NOTHING, Master, Routes
from solvers.plan_model import PlanLimits, plan_sets, solve_plan
from solvers.plan_pricing import Work, price_in, solve_weighted
from solvers.plan_rules import PlanOptions, build
from solvers.plan_search import choose_open_sites
from solvers.problem import Graph, PlacementProblem
from solvers.proof import verify_proof
from solvers.solution import PlanSolution
from solvers.verify import verify_plan
from tests.plan_problems import Town

THOROUGH = PlanLimits(edge_gap_frac=0.0, fleet_gap_frac=0.0, edge_trials=40)


def a_short_town(seed: int, slots: int = 2) -> PlacementProblem:
    """Three edge rooms that may close and a home that stays open; more work than room in some hours."""
    rng = np.random.default_rng(seed)
    town = Town(hours=(12.0 / slots,) * slots)
    town.site("home").group("home/cpu", "home", node_count=2, gpus=0)
    for i in range(3):
        town.site(
            f"e{i}", is_edge=True, may_close=True, fixed_kw=float(rng.uniform(0.3, 1.5)), off_kw=0.05,
            price_yuan_per_kwh=list(rng.uniform(0.4, 1.2, slots)),
        ).group(f"e{i}/l20", f"e{i}", node_count=int(rng.integers(1, 3)))  # fmt: skip
    for c in range(4):
        town.work(
            f"w{c}", demand=list(rng.integers(8, 20, slots)), cpu=float(rng.choice([2, 4])), rank=2,
            gpu={"l20": 1.0} if c % 2 else {}, unserved_yuan=1.0, migration_yuan=0.05,
        )  # fmt: skip
    return town.problem()


def improved_plan(
    problem: PlacementProblem, limits: PlanLimits = THOROUGH
) -> tuple[Improved, AtLevels, Work]:
    """As `solve_plan` does, up to the search at the plan's levels."""
    work = Work(limits, deadline=time.monotonic() + 600)
    model = build(plan_sets(problem, PlanOptions(), limits))
    master = Master(model, model.lp.program())
    work.counts["rows"] = master.base.matrix.shape[0]
    relaxed, bound = price_in(solve_weighted(master, work, None), master, work)
    chosen, master = choose_open_sites(relaxed, bound, model, master, work, None)
    final, master = settle_levels(master, chosen.best, work)
    return improve_at_levels(final, master, work), AtLevels.of(final, master), work


@pytest.mark.parametrize("seed", range(12))
def test_the_search_at_a_plans_levels_finds_the_best_of_all_choices_of_open_sites(seed):
    problem = a_short_town(seed)
    improved, levels, work = improved_plan(problem)
    assert max(levels.level_values) > 0.0, "the town is not short of room"
    count = len(improved.master.model.columns_of("on"))
    every = []
    for choice in itertools.product((0.0, 1.0), repeat=count):
        on = np.array(choice)
        solved = levels.solve(improved.master, work, (on, on), is_guess=True)
        every.append(INFINITY if solved is None else solved.objective_yuan)
    assert improved.bound_yuan <= min(every) + 1e-4
    assert improved.plan.objective_yuan <= min(every) * (1 + 1e-5)
    assert improved.bound_yuan >= improved.plan.objective_yuan * (1 - 1e-4), "the choice is not proven"


def every_route(master: Master) -> Routes:
    """All choices of a unit or nothing in each block, of every class."""
    classes, units = [], []
    for c in master.model.keys["serve"][0]:
        own = np.flatnonzero(master.model.sets.problem.pairs.class_index == c)
        places = [[NOTHING, *master._unit_of[own, b]] for b in range(master.model.sets.block_count)]
        for unit in itertools.product(*places):
            classes.append(c)
            units.append(unit)
    return Routes(np.array(classes), np.array(units))


@pytest.mark.parametrize("seed", range(12))
def test_without_any_branching_a_plan_has_every_column_that_pays_at_its_open_sites(seed):
    little = replace(THOROUGH, edge_trials=0, pricing_rounds=1, bound_rounds=1)
    improved, levels, work = improved_plan(a_short_town(seed, slots=4), little)
    on, whole = improved.plan.fixed_on, improved.master.with_own_columns()
    assert on is not None
    whole.add_routes(every_route(whole))
    best = levels.solve(whole, work, (on, on))
    assert best is not None
    assert best.objective_yuan >= improved.plan.objective_yuan * (1 - 1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_other_open_sites_are_judged_with_columns_of_their_own(seed):
    improved, levels, _ = improved_plan(a_short_town(seed))
    whole = improved.master.with_own_columns()
    whole.add_routes(every_route(whole))
    bare = improved.master.only_used(np.zeros(improved.master.column_count, dtype=bool))
    found = 0
    for choice in itertools.product((0.0, 1.0), repeat=len(whole.model.columns_of("on"))):
        on = np.array(choice)
        best = levels.solve(whole, Work(THOROUGH, deadline=time.monotonic() + 600), (on, on), is_guess=True)
        own, work = bare.with_own_columns(), Work(THOROUGH, deadline=time.monotonic() + 600)
        assert levels.solve(own, work, (on, on), is_guess=True) is None, "nothing serves the levels yet"
        plan = _plan_at_levels(improved.plan, on, levels, own, work)
        assert plan is not None
        plan = _with_own_columns(plan, levels, own, work, may_break=True)
        if plan is not None:
            assert best is not None, "a plan that breaks a level"
            assert plan.objective_yuan == pytest.approx(best.objective_yuan, rel=1e-3)
        found += plan is not None
    assert found, "no choice of open sites holds the levels"


@pytest.mark.parametrize("seed", range(12))
def test_parts_of_the_choices_prove_the_plan_with_numpy_alone(seed):
    problem = a_short_town(seed)
    plan = solve_plan(problem, limits=THOROUGH)
    assert [str(v) for v in verify_plan(problem, plan)] == []
    assert [str(v) for v in verify_proof(problem, plan)] == []
    assert plan.to_bytes() == solve_plan(problem, limits=THOROUGH).to_bytes()


@pytest.mark.parametrize("seed", range(20))
def test_no_more_work_stays_unserved_than_capacity_forces(seed):
    """All sites open, one rank: the least unserved is a small program over shares per block."""
    rng = np.random.default_rng(seed)
    town = Town(hours=(2.0, 2.0, 2.0))
    for i in range(3):
        town.site(f"s{i}", price_yuan_per_kwh=list(rng.uniform(0.4, 1.2, 3)))
        town.group(f"s{i}/cpu", f"s{i}", node_count=int(rng.integers(1, 4)), gpus=int(rng.integers(0, 5)))
    for c in range(5):
        town.work(
            f"w{c}", demand=list(rng.integers(0, 12, 3)), cpu=float(rng.choice([1, 2, 4])), rank=2,
            gpu={"l20": 1.0} if c % 2 else {}, unserved_yuan=float(rng.uniform(0.5, 2)), migration_yuan=2.0,
        )  # fmt: skip
    p = town.problem()
    plan = solve_plan(p, options=PlanOptions(blocks_per_day=12))
    unserved = float(
        (plan.unserved_count * p.slots.hours).sum(axis=1) @ p.classes.unserved_yuan_per_replica_h
    )
    assert unserved == pytest.approx(least_unserved_yuan(p), rel=1e-4, abs=1e-4)


def least_unserved_yuan(p: PlacementProblem) -> float:
    total = 0.0
    c, g = p.pairs.class_index, p.pairs.group_index
    capacity = p.groups.capacity[g]
    fits = np.asarray((p.pairs.need <= capacity).all(axis=1), dtype=bool).tolist()
    share = np.divide(p.pairs.need, capacity, out=np.zeros(capacity.shape), where=capacity > 0)
    for t in range(p.slot_count):
        demand, yuan = p.classes.demand_count[:, t], p.classes.unserved_yuan_per_replica_h * p.slots.hours[t]
        of_group = (g == np.arange(p.group_count)[:, None]).astype(float)
        rows = [of_group * share[:, r] for r in range(share.shape[1])]
        rows.append((c == np.arange(p.class_count)[:, None]).astype(float))
        limits = [*[p.groups.node_count[:, t]] * share.shape[1], demand]
        best = linprog(
            -yuan[c], A_ub=np.vstack(rows), b_ub=np.concatenate(limits),
            bounds=[(0, None if ok else 0) for ok in fits],
        )  # fmt: skip
        assert best.fun is not None
        total += float(demand @ yuan) + best.fun
    return total


NO_TRIALS = PlanLimits(cut_rounds=4, site_trials=0, warm_site_trials=0, edge_trials=0)
"""The bound is the relaxation's; equal rooms are cut one after the other."""


def fleet_gap_frac(plan: PlanSolution) -> float:
    bound = plan.bound("fleet")
    assert bound is not None and bound.gap_frac is not None
    return bound.gap_frac


def three_rooms(**work: object) -> Town:
    town = Town(hours=(6.0, 6.0))
    for i in range(3):
        town.site(f"e{i}", is_edge=True, may_close=True, fixed_kw=3.0, off_kw=0.1, loss_square=0.0)
        town.group(f"e{i}/l20", f"e{i}", node_count=20)
    return town


def test_a_class_that_must_spread_opens_whole_sites_even_in_the_relaxation():
    """Half of it on each of two sites: half-open sites would do without the cut, at a bound far below."""
    problem = three_rooms().work("llm", demand=4, gpu={"l20": 1.0}, spread_sites=2).problem()
    plan = solve_plan(problem, limits=NO_TRIALS)
    assert plan.site_on.sum(axis=0).tolist() == [2, 2]
    assert fleet_gap_frac(plan) < 1e-3
    assert verify_proof(problem, plan) == []


def test_a_twin_opens_a_whole_site_even_in_the_relaxation():
    town = three_rooms().work("sync", cpu=1).work("render", gpu={"l20": 1.0})
    town.graphs.append(Graph("twin", (1.0,) * 2, (0, 1), (1, 1), colocate=((0, 1),)))
    problem = town.problem()
    plan = solve_plan(problem, limits=NO_TRIALS)
    assert plan.site_on.sum(axis=0).tolist() == [1, 1]
    assert fleet_gap_frac(plan) < 1e-3
    assert plan.certificate is not None
    assert plan.certificate.gap_frac < 1e-3
    assert verify_proof(problem, plan) == []


@pytest.mark.parametrize(("price", "expected"), [(1.0, [0.0, 2.0]), (10.0, [2.0, 0.0])])
def test_a_row_may_be_exceeded_where_that_is_cheaper(price, expected):
    """Two units are wanted: the first column costs 5 each, the second nothing, but its row allows none."""
    program = Program(
        matrix=sp.csr_array(np.ones((1, 2))), lower=np.zeros(2), upper=np.full(2, INFINITY),
        cost=np.array([5.0, 0.0]), row_lower=np.array([2.0]), row_upper=np.array([2.0]),
    )  # fmt: skip
    session, key = Session(), np.arange(2)
    hard = program.with_rows([TemporaryRow("limit", np.array([1]), np.ones(1), 0.0, excess_yuan=price)])
    soft = replace(hard, most_excess=(INFINITY,))
    assert session.solve(hard, key, LpLimits()).x == pytest.approx([2.0, 0.0])
    answer = session.solve(soft, key, LpLimits())
    assert answer.x == pytest.approx(expected)
    assert answer.objective == pytest.approx(min(price, 5.0) * 2)
    assert session.solve(hard, key, LpLimits()).x == pytest.approx([2.0, 0.0])
