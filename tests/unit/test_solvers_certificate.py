"""A certificate proves its plan with numpy alone: the bound holds for any multipliers, and every forgery is found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from solvers.dual_bound import all_choices, certified_bound_yuan, free_slots_bound_yuan
from solvers.plan_model import solve_plan
from solvers.problem import Graph, GraphPath, PlacementProblem
from solvers.proof import verify_proof
from solvers.solution import Certificate, Leaf, Multipliers, PlanSolution
from tests.plan_problems import Town


def a_problem() -> PlacementProblem:
    """A full site with a tight hourly cap, a ledger, a link, an edge that may close, a twin and dated batch work."""
    town = Town(hours=(1, 2, 1), leg_rtt_ms={"z/pon": {"near": 5.0, "far": 9.9}})
    town.links, town.routes = [("uplink", 16.0)], [(0, "near", "uplink")]
    town.site(
        "near",
        pue_cap_annual=1.3,
        ledger_beta_kwh=0.5,
        power_limit_kw=1.0,
        price_yuan_per_kwh=(0.3, 0.9, 0.5),
    )
    town.site(
        "far", may_close=True, is_edge=True, ipue_cap_hourly=2.5, start_yuan=0.5, reserved_floor_frac=0.2
    )
    town.group("near/l20", "near", node_count=2).group("far/l20", "far", node_count=3)
    town.work("web", demand=(4, 6, 4), flows=[("z/pon", 10.0, 4.0)], rank=1)
    town.work("llm", demand=2, gpu={"l20": 1.0}, spread_sites=2)
    town.work("render", work_replica_h=6, max_parallel=4, deadline_slot=2, gpu={"l20": 1.0})
    town.work("sync", processing_ms=1.0)
    town.graphs.append(Graph("twin", (1.0,) * 3, (3,), (1,), paths=(GraphPath((-1, 0), 20.0),)))
    return dataclasses.replace(town.problem(), policy_revision=7, base_revision=40)


PROBLEM = a_problem()
PLAN = solve_plan(PROBLEM)


def certificate() -> Certificate:
    assert PLAN.certificate is not None
    return PLAN.certificate


def forged(**changes: Any) -> PlanSolution:
    return dataclasses.replace(PLAN, certificate=dataclasses.replace(certificate(), **changes))


def rules(plan: PlanSolution) -> set[str]:
    return {v.rule for v in verify_proof(PROBLEM, plan)}


def leaf_with(**changes: Any) -> tuple[Leaf, ...]:
    first, *others = certificate().leaves
    return (
        dataclasses.replace(first, multipliers=dataclasses.replace(first.multipliers, **changes)),
        *others,
    )


def test_a_certificate_proves_its_plan_and_survives_the_file():
    assert verify_proof(PROBLEM, PLAN) == []
    assert certificate().gap_frac < 0.02
    assert certificate().policy_revision == 7
    again = PlanSolution.from_bytes(PLAN.to_bytes())
    assert again.to_bytes() == PLAN.to_bytes()
    assert verify_proof(PROBLEM, again) == []


def test_its_objective_is_the_cost_without_the_penalties_of_unserved_work():
    cost = PLAN.cost
    assert certificate().objective_yuan == pytest.approx(cost.total_yuan - cost.unserved_yuan)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bound_yuan": certificate().bound_yuan * 1.01 + 0.01}, "certified_bound"),
        ({"bound_yuan": float("nan")}, "certified_bound"),
        ({"objective_yuan": certificate().objective_yuan - 1.0}, "certified_objective"),
        ({"policy_revision": 8}, "policy_revision"),
        ({"base_revision": 41}, "base_revision"),
        ({"leaves": ()}, "leaves"),
        ({"leaves": certificate().leaves[:1] * 2}, "leaves"),
        ({"binding": certificate().binding[1:]}, "binding_left_out"),
        (
            {"binding": (dataclasses.replace(certificate().binding[0], value=1e9), *certificate().binding[1:])},
            "binding_value",
        ),
        (
            {"binding": (*certificate().binding, dataclasses.replace(certificate().binding[0], subject="x"))},
            "binding_not_tight",
        ),
    ],
)  # fmt: skip
def test_every_forgery_is_found(changes, expected):
    assert expected in rules(forged(**changes))


def test_a_plan_that_costs_less_than_is_proven_of_all_plans_is_refuted():
    half = dataclasses.replace(PLAN, facility_kw=PLAN.facility_kw / 2)
    assert "refuted_by_bound" in rules(half)


def test_all_that_is_wrong_comes_in_one_answer():
    wrong = forged(bound_yuan=1e9, objective_yuan=0.0, policy_revision=1, binding=())
    assert {"certified_bound", "certified_objective", "policy_revision", "binding_left_out"} <= rules(wrong)


def test_a_leaf_that_drops_a_choice_of_open_sites_is_found():
    leaf = certificate().leaves[0]
    must = np.zeros_like(leaf.must_open)
    must[1] = True
    half = dataclasses.replace(leaf, must_open=must, may_open=np.ones_like(must))
    assert not all_choices(PROBLEM, (half,))
    blocks = must.shape[1]
    rest = []
    for b in range(blocks):  # the other half, cut at the first block in which the site is closed
        m, may = np.zeros_like(must), np.ones_like(must)
        m[1, :b], may[1, b] = True, False
        rest.append(dataclasses.replace(leaf, must_open=m, may_open=may))
    assert all_choices(PROBLEM, (half, *rest))
    assert certified_bound_yuan(PROBLEM, PLAN, (half, *rest)) <= certificate().objective_yuan + 1e-6


def test_multipliers_of_another_size_are_refused_and_not_a_traceback():
    small = leaf_with(power=np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"multipliers\.power"):
        forged(leaves=small)
    elsewhere = leaf_with(
        cut_class=np.array([999]), cut_site=np.array([0]), cut_slot=np.array([0]), cut_yuan=np.array([1.0])
    )
    assert "reference" in rules(forged(leaves=elsewhere))


@pytest.mark.parametrize("seed", range(40))
def test_no_multipliers_whatever_prove_more_than_the_plan_costs(seed):
    """Weak duality: noise, wrong signs, infinities and nonsense give a lower bound or none."""
    rng = np.random.default_rng(seed)
    leaf = certificate().leaves[0]
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(Multipliers):
        value = getattr(leaf.multipliers, field.name)
        if field.name == "block_of_slot" or not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            continue
        noise = rng.normal(0, 10.0 ** rng.integers(-3, 4), value.shape)
        changes[field.name] = np.where(
            rng.random(value.shape) < 0.02, rng.choice([np.inf, np.nan]), value + noise
        )
    noisy = dataclasses.replace(leaf.multipliers, **changes)
    free = Leaf(np.zeros_like(leaf.must_open), np.ones_like(leaf.may_open), noisy)
    assert certified_bound_yuan(PROBLEM, PLAN, (free,)) <= certificate().objective_yuan + 1e-6


def test_plans_free_in_every_slot_are_bounded_too_and_lower():
    leaf = certificate().leaves[0]
    assert free_slots_bound_yuan(PROBLEM, PLAN, leaf.multipliers) <= certificate().bound_yuan + 1e-6


def test_what_binds_has_value_unit_slack_and_price():
    binding = {(b.rule, b.subject): b for b in certificate().binding}
    power = next(b for (rule, _), b in binding.items() if rule == "power_limit")
    assert power.subject == "site=near"
    assert power.unit == "kW"
    assert power.value == pytest.approx(1.0)
    assert power.slack == pytest.approx(0.0, abs=1e-6)
    link = next(b for (rule, _), b in binding.items() if rule == "link_capacity")
    assert (link.subject, link.unit, link.limit) == ("link=uplink", "Mbps", 16.0)
    assert {"power_limit", "link_capacity"} <= {b.rule for b in certificate().binding}


def test_a_flow_at_its_limit_is_told():
    town = Town(leg_rtt_ms={"z/pon": {"s": 9.9}}).site("s").group("g", "s")
    plan = solve_plan(town.work("web", demand=1, flows=[("z/pon", 10.0, 1.0)]).problem())
    assert plan.certificate is not None
    found = [b for b in plan.certificate.binding if b.rule == "flow_rtt"]
    assert [(b.subject, b.value, b.limit, b.unit) for b in found] == [
        ("class=web,leg=z/pon,site=s", 9.9, 10.0, "ms")
    ]


def test_the_price_of_a_full_group_is_what_one_more_unit_saves():
    """One milli-GPU more on the cheap site moves that much work off the dear one."""

    def town(milli: int) -> PlacementProblem:
        place = Town().site("cheap", price_yuan_per_kwh=0.5, loss_square=0.0)
        place.site("dear", price_yuan_per_kwh=1.5, loss_square=0.0)
        place.group("cheap/g", "cheap", node_count=1, idle_w=0.0).group("dear/g", "dear", idle_w=0.0)
        problem = place.work("llm", demand=6, gpu={"l20": 1.0}).problem()
        capacity = np.array(problem.groups.capacity)
        capacity[0, 2] += milli
        return dataclasses.replace(problem, groups=dataclasses.replace(problem.groups, capacity=capacity))

    base, more = solve_plan(town(0)), solve_plan(town(100))
    assert base.certificate is not None
    bound = next(b for b in base.certificate.binding if b.rule == "node_capacity")
    assert bound.unit == "milli-GPU"
    assert bound.price_yuan_per_unit == pytest.approx(
        (base.objective_yuan - more.objective_yuan) / 100, rel=1e-6
    )
