"""From the duals of a finished plan to its certificate: named multipliers, the best bound they prove, what binds.

The duals of several programs of one plan (the relaxation, the plan with its sites fixed, the one with its levels held)
are tried, and the certificate keeps those that prove most. What they prove is worked out by `dual_bound`, which knows
nothing of these programs; so a mistake here costs tightness and never truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from solvers.archive import FloatArray
from solvers.binding import certified
from solvers.dual_bound import Charged, charge, derived_facts, leaf_bound_yuan, level_values, objective_yuan
from solvers.plan_rules import OpenCuts, PlanModel
from solvers.problem import NODE_COLUMNS, RESOURCES
from solvers.rounding import NOISE
from solvers.solution import Certificate, Leaf, Multipliers, PlanSolution


@dataclass(frozen=True, eq=False)
class Duals:
    """Row duals of one program of the model, the weights its levels had there, and the bounds on `on` it was for."""

    rows: FloatArray
    level_yuan: FloatArray
    on_lower: FloatArray
    on_upper: FloatArray
    open_cuts: OpenCuts
    """Class, site and slot of the program's cuts, whose rows come after those that all models of a plan have."""


@dataclass(frozen=True, eq=False)
class Search:
    """What a finished search knows: the parts into which it split the choices of open sites, each with its duals.

    The duals of `anywhere` may be tried in every part.
    """

    parts: tuple[Duals, ...]
    anywhere: tuple[Duals, ...]


def with_certificate(model: PlanModel, evidence: Sequence[Search], solution: PlanSolution) -> PlanSolution:
    """The plan with the certificate that proves most; without one where nothing can be proven."""
    problem = model.sets.problem
    facts, levels = derived_facts(problem), level_values(problem, solution)

    def charged(duals: Duals) -> tuple[Multipliers, Charged]:
        multipliers = named_multipliers(model, duals)
        return multipliers, charge(problem, facts, multipliers, multipliers.block_of_slot)

    def best_leaf(part: Duals, tried: Sequence[tuple[Multipliers, Charged]]) -> tuple[float, Leaf]:
        leaves = [leaf_of(model, part, multipliers) for multipliers, _ in tried]
        bounds = [
            leaf_bound_yuan(problem, facts, levels, leaf, charges)
            for leaf, (_, charges) in zip(leaves, tried, strict=True)
        ]
        best = int(np.argmax(bounds))
        return bounds[best], leaves[best]

    bound, leaves = -np.inf, tuple[Leaf, ...]()
    for search in evidence:
        # a part whose relaxation was not solved has its parent's duals, and so may its sibling
        of_rows = {id(duals.rows): duals for duals in (*search.parts, *search.anywhere)}
        known = {key: charged(duals) for key, duals in of_rows.items()}
        anywhere = [known[id(duals.rows)] for duals in search.anywhere]
        found = [best_leaf(part, (known[id(part.rows)], *anywhere)) for part in search.parts]
        least = min(of_part for of_part, _ in found)
        if not leaves or least > bound:
            bound, leaves = least, tuple(leaf for _, leaf in found)
    certificate = Certificate(
        objective_yuan=objective_yuan(problem, solution, model.sets.block_of_slot, facts),
        bound_yuan=bound,
        leaves=leaves,
        policy_revision=problem.policy_revision,
        base_revision=problem.base_revision,
    )
    return certified(problem, solution, certificate)


def leaf_of(model: PlanModel, part: Duals, multipliers: Multipliers) -> Leaf:
    """A part of the choices, bounded by some multipliers."""
    sites_blocks = (model.sets.problem.site_count, model.sets.block_count)
    must, may = np.zeros(sites_blocks, dtype=bool), np.ones(sites_blocks, dtype=bool)
    must[model.keys["on"]] = part.on_lower > 0.5
    may[model.keys["on"]] = part.on_upper > 0.5
    return Leaf(must, may, multipliers)


def named_multipliers(model: PlanModel, duals: Duals) -> Multipliers:
    """Row duals sorted into the rules and axes of the problem, rounded to what a file needs."""
    p = model.sets.problem
    sites_slots = (p.site_count, p.slot_count)

    def spread_out(name: str, shape: tuple[int, ...], sign: float) -> FloatArray:
        out = np.zeros(shape)
        if name in model.rows:
            out[model.keys[name]] = sign * duals.rows[model.rows_of(name)]
        return np.where(np.abs(out) < NOISE, 0.0, out)

    group_slots = (p.group_count, p.slot_count)
    resources = (p.group_count, len(RESOURCES), p.slot_count)
    columns = (p.group_count, len(NODE_COLUMNS), p.slot_count)
    power = np.zeros(sites_slots)
    power[model.keys["it_power"]] = duals.rows[model.rows_of("it_power")]
    cut_class, cut_site, cut_slot = duals.open_cuts
    cut_yuan = -duals.rows[model.row_count_without_cuts :][: len(cut_class)]
    cut = np.flatnonzero(cut_yuan > NOISE)
    spread_keys = model.keys.get("spread", (np.zeros(0, dtype=np.int64),) * 3)
    spread_yuan = -duals.rows[model.rows_of("spread")]
    spread = np.flatnonzero(spread_yuan > NOISE)
    portfolio = -duals.rows[model.rows_of("portfolio_ledger")]
    budget = -duals.rows[model.rows_of("move_budget")]
    return Multipliers(
        level_yuan=duals.level_yuan,
        capacity=spread_out("capacity", columns, -1.0),
        floor=spread_out("floor", resources, -1.0),
        padding=spread_out("padding", group_slots, -1.0),
        power=power,
        hourly_cap=np.maximum(spread_out("hourly_cap", sites_slots, 1.0), 0.0),
        ledger=spread_out("ledger", (p.site_count,), -1.0),
        peak=spread_out("peak", sites_slots, 1.0),
        link=spread_out("link", (len(p.network.link_id), p.slot_count), -1.0),
        stay=spread_out("stay", (p.pair_count,), 1.0),
        stay_batch=spread_out("stay_batch", (p.pair_count,), 1.0),
        wake=spread_out("wake", group_slots, 1.0),
        cut_class=cut_class[cut],
        cut_site=cut_site[cut],
        cut_slot=cut_slot[cut],
        cut_yuan=cut_yuan[cut],
        spread_class=spread_keys[0][spread],
        spread_site=spread_keys[1][spread],
        spread_block=spread_keys[2][spread],
        spread_yuan=spread_yuan[spread],
        block_of_slot=model.sets.block_of_slot,
        portfolio=float(portfolio[0]) if len(portfolio) else 0.0,
        move_budget=float(budget[0]) if len(budget) else 0.0,
    )
