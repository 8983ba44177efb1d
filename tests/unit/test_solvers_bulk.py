"""Bulk plans against an oracle that places every replica on a node by integer programming, and rule by rule."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from benchmarks.fleet import fleet_problem
from solvers.bulk import completed, counted, drained, filled, greedy_bulk, solve_bulk, weighted
from solvers.bulk_fill import Filling
from solvers.bulk_model import NotBulk, bulk_sets
from solvers.bulk_relax import BulkLimits, Simplex, relax, unpriced
from solvers.bulk_report import node_placements
from solvers.bulk_swaps import swap_for_quotas
from solvers.decompose import solve_large
from solvers.node_fill import FleetState
from solvers.problem import PlacementProblem
from solvers.replan import Inconsistent, NotIncremental, check_nodes, replan
from solvers.verify import verify_placements, verify_plan
from tests.plan_problems import Town


def random_town(seed: int) -> PlacementProblem:
    """Two or three sites that may close, two nodes or three in each group; CPU work and whole GPUs; no square term.

    Some with floors, soft hourly caps and nodes that cost a wake; some work spread over sites, or running where it may
    not be any more.
    """
    rng = np.random.default_rng(seed)

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    town = Town()
    names = [f"s{i}" for i in range(int(rng.integers(2, 4)))]
    for i, name in enumerate(names):
        town.site(
            name,
            may_close=bool(i),
            fixed_kw=float(rng.uniform(0.2, 3.0)),
            loss_square=0.0,
            loss_slope=float(rng.uniform(0.05, 0.4)),
            price_yuan_per_kwh=float(rng.uniform(0.4, 1.2)),
            power_limit_kw=float(rng.uniform(2.0, 6.0)),
            pue_cap_annual=float(rng.uniform(1.2, 1.6)) if chance(0.5) else np.nan,
            ledger_beta_kwh=float(rng.uniform(-1, 1)),
            debt_yuan_per_kwh=float(rng.uniform(0.5, 5.0)),
            ipue_cap_hourly=float(rng.uniform(1.5, 3.0)) if chance(0.2) else np.nan,
            hourly_is_hard=False,
            reserved_floor_frac=float(rng.choice([0.3, 0.6])) if chance(0.2) else 0.0,
        )
        town.group(
            f"{name}/g",
            name,
            node_count=int(rng.integers(2, 4)),
            idle_w=float(rng.uniform(100, 500)),
            wake_yuan=float(rng.uniform(0.0, 0.3)) if chance(0.5) else 0.0,
            initial_on_count=float(rng.integers(0, 3)),
        )
    for c in range(int(rng.integers(1, 5))):
        running = {g["group_id"]: float(rng.integers(0, 4)) for g in town.groups if chance(0.4)}
        town.work(
            f"w{c}",
            demand=float(rng.integers(1, 6)),
            cpu=float(rng.choice([1, 3, 6])),
            memory_gib=float(rng.choice([2, 20])),
            gpu={"l20": float(rng.choice([1.0, 2.0]))} if chance(0.5) else {},
            dynamic_w=float(rng.uniform(20, 300)),
            rank=int(rng.integers(1, 4)),
            unserved_yuan=1e3,
            running=running,
            migration_yuan=float(rng.uniform(0.0, 0.5)),
            allowed=tuple(names[:-1]) if chance(0.3) else (),
            spread_sites=2 if chance(0.25) else 0,
        )
    return town.problem()


def cheapest_on_nodes(p: PlacementProblem) -> float:
    """Least cost over every choice of sites, nodes and replicas per node; inf where not everything can be served."""
    s, nodes = p.sites, np.repeat(np.arange(p.group_count), p.groups.node_count[:, 0])
    at = [(k, n) for k in range(p.pair_count) for n in np.flatnonzero(nodes == p.pairs.group_index[k])]
    X, N, S, K, G = len(at), len(nodes), p.site_count, p.pair_count, p.group_count
    # columns: replicas on nodes, nodes on, sites open, kWh owed, kW above hourly caps, nodes woken, replicas that leave
    ends = np.cumsum([X, N, S, S, S, G, K])
    node_at, on_at, debt_at, excess_at, wake_at, leave_at, size = ends.tolist()
    each_site, each_group = np.arange(S), np.arange(G)
    site_of_node = p.groups.site[nodes]
    it_kw, useful_kw = np.zeros((S, size)), np.zeros((S, size))
    capacity, served = np.zeros((N * 4, size)), np.zeros((p.class_count, size))
    low_rank, padding, waking = np.zeros((G * 4, size)), np.zeros((G, size)), np.zeros((G, size))
    on_a_site = np.zeros((p.class_count * S, size))
    staying = np.zeros((K, size))
    staying[np.arange(K), leave_at + np.arange(K)] = 1
    lower, upper = np.zeros(size), np.full(size, np.inf)
    for i, (k, n) in enumerate(at):
        c, g = int(p.pairs.class_index[k]), int(nodes[n])
        need, installed = p.pairs.need[k], p.groups.capacity[g]
        share = (need / np.maximum(installed, 1)).max()
        it_kw[site_of_node[n], i] = p.pairs.dynamic_w[k] / 1000
        useful_kw[site_of_node[n], i] = (p.pairs.dynamic_w[k] + share * p.groups.idle_w[g]) / 1000
        capacity[4 * n : 4 * n + 4, i] = need
        served[c, i] = 1
        on_a_site[c * S + site_of_node[n], i] = 1
        staying[k, i] = 1
        padding[g, i] = -p.terms.padding_factor * (1.0 if (2 * need > installed).any() else share)
        if p.classes.priority_rank[c] >= 2:
            low_rank[4 * g : 4 * g + 4, i] = need
        allowed = p.classes.allowed_site_ids[c]
        if allowed and s.site_id[site_of_node[n]] not in allowed:
            upper[i] = 0
    for j in range(N):
        it_kw[site_of_node[j], node_at + j] = p.groups.idle_w[nodes[j]] / 1000
        capacity[4 * j : 4 * j + 4, node_at + j] = -p.groups.capacity[nodes[j]]
        padding[nodes[j], node_at + j] = waking[nodes[j], node_at + j] = 1
    waking[each_group, wake_at + each_group] = -1
    floor = s.reserved_floor_frac[p.groups.site]
    room = (1 - floor)[:, None] * p.groups.node_count * p.groups.capacity
    room = np.where((floor > 0)[:, None], room, np.inf)
    most = p.classes.demand_count / np.maximum(p.classes.spread_site_min, 1)[:, None]
    power = it_kw.copy()
    power[each_site, on_at + each_site] = -s.power_limit_kw[:, 0]
    slope, swing = 1 + s.loss_slope[:, 0], s.fixed_kw[:, 0] - s.off_kw[:, 0]
    capped = ~np.isnan(s.pue_cap_annual)
    ledger = slope[:, None] * it_kw - np.where(capped, s.pue_cap_annual, 0.0)[:, None] * useful_kw
    ledger[each_site, on_at + each_site] = swing
    ledger[each_site, debt_at + each_site] = -1.0
    release = np.where(capped, s.ledger_beta_kwh - s.off_kw[:, 0], np.inf)
    hourly = ~np.isnan(s.ipue_cap_hourly)
    excess = (slope - np.where(hourly, s.ipue_cap_hourly, 0.0))[:, None] * it_kw
    excess[each_site, on_at + each_site] = s.fixed_kw[:, 0]
    excess[each_site, excess_at + each_site] = -1.0
    price = s.price_yuan_per_kwh[:, 0]
    cost = (price * slope) @ it_kw
    cost[on_at:debt_at] = price * swing
    cost[debt_at:excess_at] = np.where(capped, s.debt_yuan_per_kwh, 0.0)
    cost[excess_at:wake_at] = s.debt_yuan_per_kwh
    cost[wake_at:leave_at] = p.groups.wake_yuan
    cost[leave_at:] = p.classes.migration_yuan[p.pairs.class_index]
    upper[node_at:debt_at] = 1
    lower[on_at:debt_at] = np.where(s.may_close, 0, 1)
    demand = p.classes.demand_count[:, 0]
    answer = milp(
        cost,
        integrality=(np.arange(size) < debt_at).astype(int),
        bounds=Bounds(lower, upper),
        constraints=[
            LinearConstraint(capacity, -np.inf, 0),
            LinearConstraint(served, demand, demand),
            LinearConstraint(on_a_site, -np.inf, np.repeat(most, S)),
            LinearConstraint(low_rank, -np.inf, room.ravel()),
            LinearConstraint(padding, -np.inf, p.terms.padding_node_count),
            LinearConstraint(waking, -np.inf, p.groups.initial_on_count),
            LinearConstraint(power, -np.inf, 0),
            LinearConstraint(ledger, -np.inf, release),
            LinearConstraint(excess, -np.inf, np.where(hourly, 0.0, np.inf)),
            LinearConstraint(staying, p.pairs.running_count, np.inf),
        ],
    )
    ran = np.bincount(p.pairs.class_index, weights=p.pairs.running_count, minlength=p.class_count)
    unwanted = p.classes.migration_yuan @ np.maximum(ran - demand, 0.0)  # they leave and do not move
    return float(answer.fun + price @ s.off_kw[:, 0] - unwanted) if answer.success else float("inf")


@pytest.mark.parametrize("seed", range(40))
def test_the_bound_is_below_and_the_plan_not_below_the_best_placement_on_nodes(seed):
    problem = random_town(seed)
    best = cheapest_on_nodes(problem)
    solution = solve_bulk(problem).solution
    (bound,) = solution.bounds
    if solution.unserved_count.sum():
        return  # the oracle serves everything or says it cannot
    assert bound.bound_yuan is not None
    assert bound.bound_yuan <= best + 1e-6
    assert best <= solution.objective_yuan + 1e-6
    assert verify_plan(problem, solution) == []


def test_most_towns_are_served_in_full_and_near_the_best_placement():
    over = []
    for seed in range(40):
        problem = random_town(seed)
        best = cheapest_on_nodes(problem)
        solution = solve_bulk(problem).solution
        if np.isfinite(best):
            over.append((solution.objective_yuan - best) / best)
    assert len(over) > 20
    assert np.median(over) <= 0.03
    assert np.mean(np.array(over) > 1.0) <= 0.1  # work left out costs a thousand yuan


def test_a_fleet_is_served_in_full_within_four_percent_of_its_bound():
    problem = fleet_problem(replicas=10_000, nodes=1_000, sites=20, classes=100, seed=7)
    plan = solve_bulk(problem)
    assert [*verify_plan(problem, plan.solution), *verify_placements(problem, plan.placements)] == []
    assert plan.solution.unserved_count.sum() == 0
    gap = plan.solution.bounds[0].gap_frac
    assert gap is not None and gap <= 0.04
    assert plan.solution.objective_yuan < greedy_bulk(problem).solution.objective_yuan


def test_work_of_several_slots_or_batches_is_not_bulk():
    two = Town(hours=(1.0, 1.0)).site("a").group("a/g", "a").work("w", demand=1.0).problem()
    batch = Town().site("a").group("a/g", "a").work("w", work_replica_h=3.0).problem()
    for problem in (two, batch):
        with pytest.raises(NotBulk):
            solve_bulk(problem)


def test_a_program_that_may_not_take_a_step_leaves_the_greedy_plan_and_no_bound():
    problem = random_town(3)
    solution = solve_bulk(problem, limits=BulkLimits(lp_iterations=0)).solution
    assert solution.bounds == () and solution.message
    assert solution.objective_yuan == greedy_bulk(problem).solution.objective_yuan


FEW = 6


def test_a_cancelled_plan_empties_no_more_nodes():
    problem = fleet_problem(replicas=10_000, nodes=1_000, sites=20, classes=60, seed=2)
    filling = filled(relax(bulk_sets(problem), Simplex(BulkLimits())))
    completed(filling)
    full = counted(filling)
    assert drained(filling, full, stop=lambda: True) is full
    asked = itertools.count()
    few = drained(filling, full, stop=lambda: next(asked) >= FEW)
    assert next(asked) == FEW + 1 and weighted(filling, few) < weighted(filling, full)
    most = drained(filling, few)
    assert weighted(filling, most) <= weighted(filling, few)
    assert verify_plan(problem, most) == []
    placements = node_placements(filling.sets, filling.fleet, filling.all_booked())
    assert verify_placements(problem, placements) == []
    assert counted(filling).objective_yuan == most.objective_yuan


def test_a_gang_lies_on_one_island_or_nowhere():
    town = Town().site("a").group("a/g", "a", node_count=5, island_node_count=2, gpus=4)
    town.work("gang", demand=2.0, gpu={"l20": 4.0}, gang_size=2, single_island=True, single_site=True)
    town.work("big", demand=3.0, gpu={"l20": 4.0}, gang_size=3, single_island=True, single_site=True)
    problem = town.problem()
    plan = solve_bulk(problem)
    assert verify_placements(problem, plan.placements) == []
    assert plan.solution.unserved_count[:, 0].tolist() == [0.0, 3.0]


def test_single_replicas_make_way_for_a_gang_where_they_fit_elsewhere():
    town = Town().site("a").site("b", price_yuan_per_kwh=5.0)
    town.group("a/g", "a", node_count=2, gpus=4).group("b/g", "b", node_count=2, gpus=4)
    town.work("gang", demand=2.0, gpu={"l20": 4.0}, gang_size=2, single_site=True, allowed=("a",))
    town.work("one", demand=4.0, gpu={"l20": 1.0}, rank=0)
    plan = solve_bulk(town.problem())
    assert plan.solution.unserved_count.sum() == 0


def test_a_swap_brings_cpu_to_the_node_that_has_the_devices():
    """Two nodes of 16 cores and 4 GPUs: one is out of CPU, the other out of devices; heavy and light change places."""
    town = Town().site("a").group("a/g", "a", node_count=2, cpu=16, gpus=4)
    town.work("heavy", demand=3.0, cpu=5, gpu={"l20": 1.0})
    town.work("light", demand=4.0, cpu=1, gpu={"l20": 1.0})
    town.work("late", demand=1.0, cpu=4, gpu={"l20": 1.0})
    problem = town.problem()
    filling = Filling(unpriced(bulk_sets(problem)), FleetState.empty(problem))
    heavy, light, late = range(3)
    filling.book(np.array([0]), np.array([heavy]), np.array([3]))
    filling.book(np.array([1]), np.array([light]), np.array([4]))
    assert filling.fleet.fit(np.arange(2), filling.need[[late, late]]).tolist() == [0, 0]
    swap_for_quotas(filling, np.array([late]), np.array([1]))
    assert filling.placed.tolist() == [3.0, 4.0, 1.0]
    check_nodes(filling, np.arange(2))
    placements = node_placements(filling.sets, filling.fleet, filling.all_booked())
    assert verify_placements(problem, placements) == []


def test_a_swap_that_helps_nobody_is_not_made():
    town = Town().site("a").group("a/g", "a", node_count=2, cpu=16, gpus=4)
    town.work("heavy", demand=6.0, cpu=5, gpu={"l20": 1.0})
    town.work("late", demand=1.0, cpu=4, gpu={"l20": 1.0})
    problem = town.problem()
    filling = Filling(unpriced(bulk_sets(problem)), FleetState.empty(problem))
    filling.book(np.array([0, 1]), np.array([0, 0]), np.array([3, 3]))
    before = filling.fleet.free.copy()
    swap_for_quotas(filling, np.array([1]), np.array([1]))
    np.testing.assert_array_equal(filling.fleet.free, before)
    assert filling.placed.tolist() == [6.0, 0.0]


def test_a_node_that_the_plan_can_do_without_is_emptied():
    """Two half-filled nodes hold what one can: emptying one saves its idle power, and nothing is left out."""
    problem = Town().site("a").group("a/g", "a", node_count=4, gpus=0).work("w", demand=8.0, cpu=2).problem()
    filling = Filling(unpriced(bulk_sets(problem)), FleetState.empty(problem))
    filling.book(np.array([0, 1]), np.array([0, 0]), np.array([4, 4]))
    solution = counted(filling)
    better = drained(filling, solution)
    assert better.objective_yuan < solution.objective_yuan
    assert filling.nodes_on.tolist() == [1] and better.unserved_count.sum() == 0
    check_nodes(filling, np.arange(4))


def small_fleet() -> PlacementProblem:
    return fleet_problem(replicas=4_000, nodes=400, sites=10, classes=60, seed=3)


def test_a_re_plan_of_an_unchanged_problem_moves_nothing():
    problem = small_fleet()
    plan = solve_bulk(problem)
    again = replan(plan, problem)
    for name in ("class_index", "group_index", "node_index"):
        ours, theirs = getattr(again.placements, name), getattr(plan.placements, name)
        np.testing.assert_array_equal(ours, theirs)
    assert again.solution.objective_yuan == pytest.approx(plan.solution.objective_yuan)
    assert again.solution.bounds[0].bound_yuan == pytest.approx(plan.solution.bounds[0].bound_yuan)


def test_a_re_plan_refuses_changes_it_cannot_carry():
    problem = small_fleet()
    plan = solve_bulk(problem)
    dearer = dataclasses.replace(
        problem,
        sites=dataclasses.replace(problem.sites, price_yuan_per_kwh=problem.sites.price_yuan_per_kwh * 2),
    )
    with pytest.raises(NotIncremental, match=r"sites\.price_yuan_per_kwh"):
        replan(plan, dearer)


def test_an_account_that_does_not_match_its_rows_is_found():
    plan = solve_bulk(small_fleet())
    fleet = plan.filling.fleet
    check_nodes(plan.filling, np.arange(fleet.node_count))
    fleet.free[int(plan.filling.all_booked().node[0]), 0] += 1
    with pytest.raises(Inconsistent):
        check_nodes(plan.filling, np.arange(fleet.node_count))


def test_a_fleet_in_parts_serves_everything_within_its_bound():
    problem = fleet_problem(replicas=8_000, nodes=800, sites=16, classes=80, seed=7)
    large = solve_large(problem, part_sites=4)
    plan = large.plan
    assert large.part_count >= 3
    assert [*verify_plan(problem, plan.solution), *verify_placements(problem, plan.placements)] == []
    whole = solve_bulk(problem)
    assert plan.solution.bounds[0].bound_yuan is not None
    assert plan.solution.bounds[0].bound_yuan <= whole.solution.objective_yuan


def test_a_replan_keeps_the_least_load_of_a_site_with_a_hard_hourly_cap():
    """The work that keeps the capped site above its least load leaves; other work comes from the site without a cap."""
    town = Town()
    # fixed 1 kW, no other losses: an iPUE of 1.5 needs 2 kW of IT power
    town.site(
        "capped", fixed_kw=1.0, loss_slope=0.0, loss_square=0.0, ipue_cap_hourly=1.5, hourly_is_hard=True
    )
    town.site("free", fixed_kw=0.0, loss_slope=0.0, loss_square=0.0, price_yuan_per_kwh=0.1)
    town.group("capped/g", "capped", node_count=6, idle_w=100.0)
    town.group("free/g", "free", node_count=20, idle_w=100.0)
    town.work("local", demand=10.0, dynamic_w=200.0, allowed=("capped",))
    town.work("anywhere", demand=30.0, dynamic_w=200.0)
    first = town.problem()
    plan = solve_bulk(first)
    assert plan.solution.cap_excess_kw.max() == 0.0
    demand = first.classes.demand_count.copy()
    demand[0] = 2.0
    running = plan.solution.running_count[:, 0]
    after = dataclasses.replace(
        first,
        classes=dataclasses.replace(first.classes, demand_count=demand),
        pairs=dataclasses.replace(first.pairs, running_count=running),
    )
    again = replan(plan, after)
    assert again.solution.unserved_count.sum() == 0.0
    assert again.solution.it_kw[0, 0] >= 1.0 / (1.5 - 1.0)
    assert again.solution.cap_excess_kw.max() == 0.0
    assert [*verify_plan(after, again.solution), *verify_placements(after, again.placements)] == []
