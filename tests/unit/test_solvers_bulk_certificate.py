"""Certificates of bulk plans: what the multipliers prove, worked out again from the facts, and no lie gets through."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest

from benchmarks.fleet import fleet_problem
from solvers.binding import binding_constraints, certified
from solvers.bulk import solve_bulk
from solvers.bulk_model import SHARP_FUNCTIONS, bulk_sets
from solvers.bulk_relax import BulkLimits
from solvers.decompose import solve_large
from solvers.dual_bound import certified_bound_yuan, objective_yuan
from solvers.node_rows import BUT, PER, is_node_row, node_row
from solvers.plan_model import solve_plan
from solvers.problem import PlacementProblem
from solvers.proof import verify_proof
from solvers.replan import Repricer, replan
from solvers.solution import BLOCK_MODEL, NODES_MODEL, BindingConstraint, Certificate, Leaf, PlanSolution
from tests.bulk_towns import bulk_town
from tests.plan_problems import Town
from tests.unit.test_solvers_bulk import cheapest_on_nodes, random_town

PRICED = ("capacity", "power", "ledger", "link", "spread_yuan", "floor")
FALSIFIED = [("cut_yuan", 0.0), *((name, factor) for name in PRICED for factor in (0.5, 2.0))]
"""Multipliers of which the fleet below has some that are not zero, apart from those of node rows. More than enough for
an open site proves as much."""


@cache
def fleet() -> PlacementProblem:
    return fleet_problem(replicas=4_000, nodes=400, sites=30, classes=80, seed=5)


@cache
def plan() -> PlanSolution:
    return solve_bulk(fleet()).solution


def certificate() -> Certificate:
    found = plan().certificate
    assert found is not None
    return found


def rules_broken(**changes: Any) -> set[str]:
    """What the verifier says of the plan with another certificate."""
    stated = dataclasses.replace(certificate(), **changes)
    return {v.rule for v in verify_proof(fleet(), dataclasses.replace(plan(), certificate=stated))}


def with_multipliers(**changes: Any) -> tuple[Leaf, ...]:
    return tuple(
        dataclasses.replace(leaf, multipliers=dataclasses.replace(leaf.multipliers, **changes))
        for leaf in certificate().leaves
    )


def test_the_plan_of_a_fleet_is_proven_and_names_what_binds():
    assert verify_proof(fleet(), plan()) == []
    assert certificate().model == NODES_MODEL
    own = plan().bounds[0]
    assert own.bound_yuan is not None
    assert certificate().bound_yuan >= own.bound_yuan - 1e-5 * own.objective_yuan
    assert {"node_capacity", "pue_cap_annual", "flow_rtt"} <= {b.rule for b in certificate().binding}
    assert any(leaf.multipliers.node_rows for leaf in certificate().leaves)


def test_the_certificate_survives_its_file():
    again = PlanSolution.from_bytes(plan().to_bytes())
    assert again.to_bytes() == plan().to_bytes()
    assert verify_proof(fleet(), again) == []


def test_a_bound_above_what_the_multipliers_prove_is_found_out():
    assert rules_broken(bound_yuan=certificate().bound_yuan * (1 + 1e-4)) == {"certified_bound"}


@pytest.mark.parametrize(("name", "factor"), FALSIFIED)
def test_falsified_multipliers_prove_less_than_the_bound_stated(name, factor):
    changed = tuple(
        dataclasses.replace(
            leaf,
            multipliers=dataclasses.replace(
                leaf.multipliers, **{name: np.asarray(getattr(leaf.multipliers, name)) * factor}
            ),
        )
        for leaf in certificate().leaves
    )
    assert any(np.any(getattr(leaf.multipliers, name)) for leaf in certificate().leaves)
    assert "certified_bound" in rules_broken(leaves=changed)


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_falsified_prices_of_node_rows_prove_less_than_the_bound_stated(factor):
    changed = tuple(
        dataclasses.replace(
            leaf,
            multipliers=dataclasses.replace(
                leaf.multipliers,
                node_rows=tuple(
                    (g, name, n, yuan * factor) for g, name, n, yuan in leaf.multipliers.node_rows
                ),
            ),
        )
        for leaf in certificate().leaves
    )
    assert "certified_bound" in rules_broken(leaves=changed)


@pytest.mark.parametrize(
    "row",
    [
        (0, "device", 600, 1.0),
        (0, "cpu_step", 0, 1.0),
        (0, "wish", 1, 1.0),
        (0, "cpu_per_gpu", 99, 1.0),
        (10**6, "device", 500, 1.0),
    ],
)
def test_a_row_that_does_not_hold_is_named(row):
    assert rules_broken(leaves=with_multipliers(node_rows=(row,))) == {"reference"}


def test_a_leaf_left_out_is_found_out():
    assert len(certificate().leaves) > 1
    assert "leaves" in rules_broken(leaves=certificate().leaves[1:])


def test_the_proof_for_nodes_is_none_of_another_model():
    assert {"certified_bound"} <= rules_broken(model=BLOCK_MODEL), "node rows do not hold for parts of nodes"
    assert rules_broken(model="whatever")


def with_the_nodes_proof_of(problem: PlacementProblem, plan: PlanSolution) -> PlanSolution:
    """A plan with a certificate that would be right if it were a plan on nodes."""
    stated = solve_bulk(problem).solution.certificate
    assert stated is not None
    objective = on_nodes_yuan(problem, plan)
    proven = certified_bound_yuan(problem, plan, stated.leaves, on_nodes=True)
    stated = dataclasses.replace(stated, objective_yuan=objective, bound_yuan=min(proven, objective))
    binding = tuple(binding_constraints(problem, dataclasses.replace(plan, certificate=stated)))
    return dataclasses.replace(plan, certificate=dataclasses.replace(stated, binding=binding))


@pytest.mark.parametrize("seed", [3, 4, 6])
def test_a_plan_in_parts_of_nodes_is_not_proven_as_one_on_nodes(seed):
    problem = random_town(seed)
    plan = with_the_nodes_proof_of(problem, solve_plan(problem))
    assert (plan.nodes_on % 1 > 0).any()
    (found,) = verify_proof(problem, plan)
    assert found.rule == "certified_model" and "parts of nodes" in found.subject


def test_whole_counts_that_no_nodes_hold_are_refuted_by_the_bound():
    """Three replicas of 0.6 of a device on two nodes with one each: in sums they fit."""
    town = Town().site("cheap").site("dear", price_yuan_per_kwh=3.0)
    town.group("cheap/g", "cheap", node_count=2, gpus=1).group("dear/g", "dear", node_count=2, gpus=1)
    town.work("shared", demand=3.0, cpu=4, gpu={"l20": 0.6}).work("plain", demand=2.0, cpu=10)
    problem = town.problem()
    plan = with_the_nodes_proof_of(problem, solve_plan(problem))
    assert plan.nodes_on[:, 0] == pytest.approx([2.0, 0.0]) and plan.running_count.max() == pytest.approx(3.0)
    assert {v.rule for v in verify_proof(problem, plan)} == {"refuted_by_bound"}


@pytest.mark.parametrize("penalty_yuan", [10.0**n for n in range(3, 16)])
def test_no_penalty_is_too_large_for_an_honest_certificate(penalty_yuan):
    """Of 14 replicas 10 find room: what the others cost drowns the rest, in which rounding must not prove anything."""
    town = Town().site("a", fixed_kw=0.3, loss_square=0.01)
    town.site("b", fixed_kw=0.2, loss_square=0.02, price_yuan_per_kwh=0.7, may_close=True)
    town.group("a/g", "a", node_count=1, cpu=15).group("b/g", "b", node_count=1, cpu=15)
    town.work("w", demand=14.0, cpu=3, dynamic_w=37.3, unserved_yuan=penalty_yuan)
    problem = town.problem()
    solution = solve_bulk(problem).solution
    assert verify_proof(problem, solution) == []
    node_kw = 0.3 + 5 * 0.0373
    facility_kw = [
        0.3 + 1.1 * node_kw + 0.01 / 100 * node_kw**2,
        0.2 + 1.1 * node_kw + 0.02 / 100 * node_kw**2,
    ]
    yuan = facility_kw[0] * 1.0 + facility_kw[1] * 0.7
    stated = solution.certificate
    assert stated is not None and stated.objective_yuan == pytest.approx(yuan, rel=1e-9)
    assert certified_bound_yuan(problem, solution, stated.leaves, on_nodes=True) <= yuan


def test_a_proof_of_more_than_the_plan_costs_is_not_written_down():
    stated = certificate()
    for beyond, is_written in ((1 + 1e-8, True), (1 + 1e-5, False)):
        proven = dataclasses.replace(stated, bound_yuan=stated.objective_yuan * beyond)
        bare = dataclasses.replace(plan(), certificate=None)
        again = certified(fleet(), bare, proven).certificate
        assert (again is not None) == is_written
        if again is not None:
            assert again.bound_yuan == stated.objective_yuan


def test_an_objective_below_the_plans_own_is_found_out():
    assert "certified_objective" in rules_broken(objective_yuan=0.9 * certificate().objective_yuan)


def test_what_binds_cannot_be_left_out_invented_or_repriced():
    first = next(b for b in certificate().binding if b.price_yuan_per_unit)
    others = tuple(b for b in certificate().binding if b is not first)
    invented = BindingConstraint("link_capacity", "link=nowhere", 0, 1.0, 1.0, "Mbps")
    assert rules_broken(binding=others) == {"binding_left_out"}
    assert rules_broken(binding=(*certificate().binding, invented)) == {"binding_not_tight"}
    dearer = dataclasses.replace(first, price_yuan_per_unit=2 * (first.price_yuan_per_unit or 0.0))
    assert rules_broken(binding=(*others, dearer)) == {"binding_price_yuan_per_unit"}


def proven_yuan(problem: PlacementProblem, solution: PlanSolution) -> float:
    """What the leaves prove, which the certificate states no higher than its own plan's cost."""
    assert solution.certificate is not None
    return certified_bound_yuan(problem, solution, solution.certificate.leaves, on_nodes=True)


def on_nodes_yuan(problem: PlacementProblem, solution: PlanSolution) -> float:
    return objective_yuan(problem, solution, np.zeros(1, np.int64), on_nodes=True)


@pytest.mark.parametrize("seed", range(40))
def test_no_certificate_proves_more_than_the_best_placement_on_nodes(seed):
    problem = random_town(seed)
    solution = solve_bulk(problem).solution
    assert verify_proof(problem, solution) == []
    if not solution.unserved_count.sum():
        assert proven_yuan(problem, solution) <= cheapest_on_nodes(problem) + 1e-6


@pytest.mark.parametrize("seed", range(12))
def test_no_multipliers_whatever_prove_more_than_the_best_placement_on_nodes(seed):
    problem = random_town(seed)
    best = cheapest_on_nodes(problem)
    solution = solve_bulk(problem).solution
    if not np.isfinite(best) or solution.certificate is None or solution.unserved_count.any():
        return
    rng = np.random.default_rng(seed)
    leaf = solution.certificate.leaves[0]
    everything = Leaf(np.zeros_like(leaf.must_open), np.ones_like(leaf.may_open), leaf.multipliers)
    for scale in (0.01, 1.0, 100.0):
        m = leaf.multipliers
        wild = dataclasses.replace(
            m,
            capacity=m.capacity + scale * rng.normal(size=m.capacity.shape),
            power=m.power + scale * rng.normal(size=m.power.shape),
            stay=m.stay + scale * rng.normal(size=m.stay.shape),
            ledger=m.ledger + scale * rng.normal(size=m.ledger.shape),
            node_rows=tuple(
                (g, name, n, float(scale * rng.normal()))
                for g in range(problem.group_count)
                for name, n in SHARP_FUNCTIONS
            ),
        )
        bound = certified_bound_yuan(
            problem, solution, [dataclasses.replace(everything, multipliers=wild)], on_nodes=True
        )
        assert bound <= best + 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_re_plans_are_proven_too(seed):
    """Running work, classes that shrink and pairs that close: moves are counted as the proof counts them."""
    problem = bulk_town(seed, scale=2)
    found = solve_bulk(problem)
    assert verify_proof(problem, found.solution) == []
    if found.solution.certificate is not None:
        assert proven_yuan(problem, found.solution) <= on_nodes_yuan(problem, found.solution) + 1e-6
    rng = np.random.default_rng(seed)
    demand = problem.classes.demand_count
    fewer = np.maximum(demand - rng.integers(0, 3, demand.shape) * problem.classes.gang_size[:, None], 0.0)
    after = dataclasses.replace(
        problem,
        classes=dataclasses.replace(problem.classes, demand_count=fewer),
        pairs=dataclasses.replace(problem.pairs, running_count=found.solution.running_count[:, 0]),
    )
    repricer = Repricer(found) if found.solution.bounds else None
    again = replan(found, after, repricer, most_moves=10)
    plan = again.certified()
    assert verify_proof(after, plan) == []
    if plan.certificate is not None:
        assert proven_yuan(after, plan) <= on_nodes_yuan(after, plan) + 1e-6


def test_moves_that_are_not_counted_are_found_out():
    town = Town().site("a").site("b", price_yuan_per_kwh=9.0)
    town.group("a/g", "a", node_count=4).group("b/g", "b", node_count=4)
    town.work("w", demand=6.0, cpu=8, migration_yuan=0.01, running={"b/g": 6.0})
    problem = town.problem()
    solution = solve_bulk(problem).solution
    assert solution.moved_count.sum() > 0 and verify_proof(problem, solution) == []
    none = dataclasses.replace(solution, moved_count=np.zeros_like(solution.moved_count))
    assert "moved_count" in {v.rule for v in verify_proof(problem, none)}


def test_a_plan_in_parts_is_proven_by_the_whole_fleets_multipliers():
    large = solve_large(fleet(), part_sites=10)
    assert large.plan.solution.certificate is not None
    assert verify_proof(fleet(), large.plan.solution) == []


def test_a_greedy_plan_claims_nothing():
    greedy = solve_bulk(fleet(), limits=BulkLimits(lp_iterations=0)).solution
    assert greedy.certificate is None and verify_proof(fleet(), greedy) == []


def test_the_checkers_functions_are_the_programs():
    """Two derivations of the same rows: from thresholds of the program, from the definition in whole numbers."""
    sets = bulk_sets(fleet())
    for column, (function, parameter) in enumerate(SHARP_FUNCTIONS):
        row = node_row(fleet(), function, parameter)[sets.pair]
        np.testing.assert_allclose(row, sets.sharp[:, column], atol=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_what_fits_on_one_node_sums_to_at_most_one_by_every_function(seed):
    """Replicas packed at random onto one node and its devices, for parameters of all kinds."""
    rng = np.random.default_rng(seed)
    devices, cpu, memory_gib = int(rng.integers(1, 9)), int(rng.integers(4, 65)), int(rng.integers(8, 257))
    town = Town().site("a").group("a/g", "a", gpus=devices, cpu=cpu, memory_gib=memory_gib)
    for i in range(30):
        gpu = float(rng.choice([0.0, *rng.integers(1, 100, 2) / 100, *rng.integers(1, devices + 1, 2)]))
        shape = {"cpu": float(rng.uniform(0.1, cpu)), "memory_gib": float(rng.uniform(0.1, memory_gib))}
        town.work(f"w{i}", demand=1.0, gpu={"l20": gpu} if gpu else {}, **shape)
    p = town.problem()
    free, device = p.groups.capacity[0].copy(), np.full(devices, 1000)
    inside = []
    for k in rng.permutation(p.pair_count).tolist():
        need = p.pairs.need[k]
        whole, part = divmod(int(need[2]), 1000)
        if (need > free).any() or (device == 1000).sum() < whole or (part and device.max() < part):
            continue
        device[np.flatnonzero(device == 1000)[:whole]] = 0
        if part:
            device[int(np.argmax(device))] -= part
        free -= need
        inside.append(k)
    functions = [(name, n) for name in ("cpu_step", "memory_step") for n in (1, 2, 3, 5, 17)]
    functions += [("device", n) for n in (1, 190, 333, 500)] + [("cpu_exclusive", 0), ("memory_exclusive", 0)]
    functions += [(name, percent) for name in PER for percent in (100, 117, 160, 400)] + [
        (name, 0) for name in BUT
    ]
    for name, n in functions:
        assert is_node_row(name, n)
        assert node_row(p, name, n)[inside].sum() <= 1 + 1e-9
