"""From prices of jobs to a certificate of a single-source plan, which `suanli verify` derives again with numpy alone.

Prices u[j] of "every job once" prove Σ u + Σ_i min(0, fixed[i] − K_i(u)) for any u (`solvers/assignment_bounds.py`).
With Dantzig's bound λ·capacity + Σ_j (u[j] − cost[i,j] − λ·load[i,j])⁺ in place of K_i this is what the multipliers of
the plan file say: λ[i] is the price of the bin's capacity, the positive parts price "a job on a bin that is open". What
they prove is worked out by `dual_bound`, which knows nothing of this model; a mistake here costs tightness, never
truth. That relaxation does not know that a job is whole; `whole_bound` solves the knapsacks for the same prices and
proves more. The search's own bound, which branching raises further, stays beside it in the plan's `bounds`.
"""

from __future__ import annotations

import numpy as np

from solvers.archive import FloatArray
from solvers.assignment import AssignmentProblem
from solvers.assignment_bounds import dantzig_prices
from solvers.binding import certified
from solvers.dual_bound import (
    LEVEL_COUNT,
    LEVEL_OF_RANK,
    certified_bound_yuan,
    objective_yuan,
    usable_pairs,
)
from solvers.problem import NODE_COLUMNS, RESOURCES, PlacementProblem
from solvers.solution import WHOLE_MODEL, Certificate, Leaf, Multipliers, PlanSolution
from solvers.whole_bound import misfits, whole_bound_yuan

NOISE = 1e-9
"""Prices below this share of the dearest one are what rounding leaves of nothing."""


def with_certificate(
    problem: PlacementProblem, core: AssignmentProblem, job_price: FloatArray, plan: PlanSolution
) -> PlanSolution:
    """The plan with the certificate that these prices ([n] yuan per class) give.

    Without one where the proof does not speak of the problem, as when work may be left out at no penalty: then nothing
    keeps a plan from serving nobody.
    """
    if misfits(problem, plan):
        return plan
    sites = (problem.site_count, 1)
    leaf = Leaf(
        np.zeros(sites, dtype=bool), np.ones(sites, dtype=bool), _multipliers(problem, core, job_price)
    )
    prices = tuple(job_price.tolist())
    bound = max(
        certified_bound_yuan(problem, plan, [leaf]),
        whole_bound_yuan(problem, usable_pairs(problem), prices),
    )
    certificate = Certificate(
        objective_yuan=objective_yuan(problem, plan, leaf.multipliers.block_of_slot),
        bound_yuan=bound,
        leaves=(leaf,),
        policy_revision=problem.policy_revision,
        base_revision=problem.base_revision,
        model=WHOLE_MODEL,
        whole_class_yuan=prices,
    )
    return certified(problem, plan, certificate)


def _multipliers(p: PlacementProblem, core: AssignmentProblem, job_price: FloatArray) -> Multipliers:
    """The prices by rule and axis of the problem; one slot, one block, one group of one node per site."""
    by_capacity = dantzig_prices(core, job_price)
    surplus = job_price - core.cost - by_capacity[:, None] * core.load
    surplus = np.where(core.allowed & (surplus > NOISE * np.abs(job_price).max(initial=1.0)), surplus, 0.0)
    pair_surplus = surplus[p.pairs.group_index, p.pairs.class_index]
    cut = np.flatnonzero(pair_surplus > 0)
    resource = int(p.pairs.need.any(axis=0).argmax()) if p.pair_count else 0
    capacity = np.zeros((p.group_count, len(NODE_COLUMNS), 1))
    floor = np.zeros((p.group_count, len(RESOURCES), 1))
    capacity[:, resource, 0] = by_capacity * core.capacity
    carbon = p.sites.carbon_g_per_kwh / 1000.0 * p.terms.carbon_yuan_per_kg
    power = (p.sites.price_yuan_per_kwh + carbon) * p.slots.hours * (1 + p.sites.loss_slope)
    return Multipliers(
        level_yuan=_dear_enough(p, job_price),
        capacity=capacity,
        floor=floor,
        padding=np.zeros((p.group_count, 1)),
        power=power,
        hourly_cap=np.zeros((p.site_count, 1)),
        ledger=np.zeros(p.site_count),
        peak=np.zeros((p.site_count, 1)),
        link=np.zeros((len(p.network.link_id), 1)),
        stay=np.zeros(p.pair_count),
        stay_batch=np.zeros(p.pair_count),
        wake=np.where(p.groups.initial_on_count > 0, 0.0, p.groups.wake_yuan)[:, None],
        cut_class=p.pairs.class_index[cut],
        cut_site=p.pair_site[cut],
        cut_slot=np.zeros(len(cut), dtype=np.int64),
        cut_yuan=pair_surplus[cut],
        spread_class=np.zeros(0, dtype=np.int64),
        spread_site=np.zeros(0, dtype=np.int64),
        spread_block=np.zeros(0, dtype=np.int64),
        spread_yuan=np.zeros(0),
        block_of_slot=np.zeros(1, dtype=np.int64),
    )


def _dear_enough(p: PlacementProblem, job_price: FloatArray) -> FloatArray:
    """[V] weights of the levels at which no class is better left out than served at its price."""
    penalty = p.classes.unserved_yuan_per_replica_h * p.slots.hours[0]
    weight = np.zeros(LEVEL_COUNT)
    level = np.array(LEVEL_OF_RANK, dtype=np.int64)[p.classes.priority_rank]
    np.maximum.at(weight, level, np.maximum(job_price, 0.0) / penalty)
    return 2.0 * weight
