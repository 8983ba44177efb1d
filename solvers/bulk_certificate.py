"""From the duals of a bulk plan to its certificate, which `suanli verify` derives again with numpy alone.

Every leaf of the tree over open and closed sites keeps its duals (`bulk_bound`); here they become multipliers by rule
and axis of the problem. What they prove is worked out by `dual_bound`, which knows nothing of the bulk program: it has
the true facility curve where the program has tangents, and derives shares, dual feasible functions and candidates from
the facts. So a mistake here costs tightness and never truth.

Two kinds of multipliers are not taken from the duals but chosen for the others: prices of replicas that stay, as in
`bulk_bound.cheapest_classes`, and weights of the levels at which no class is better left out than served.
"""

from __future__ import annotations

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.binding import certified
from solvers.bulk_bound import Leaf as DualLeaf
from solvers.bulk_model import HARD_CAP_YUAN, SHARP_FUNCTIONS, BulkModel
from solvers.bulk_relax import Relaxation
from solvers.dual_bound import (
    LEVEL_COUNT,
    LEVEL_HARD_CAPS,
    LEVEL_OF_RANK,
    derived_facts,
    leaf_bound_yuan,
    level_values,
    objective_yuan,
)
from solvers.linear import Program
from solvers.problem import NODE_COLUMNS, RESOURCES
from solvers.rounding import NOISE
from solvers.solution import NODES_MODEL, Certificate, Leaf, Multipliers, PlanSolution

CERTAIN = 2.0
"""Weight of a level that nothing is left out of, over the dearest class: no choice of prices makes leaving out pay."""


def with_certificate(relaxation: Relaxation, solution: PlanSolution) -> PlanSolution:
    """The plan with the certificate that its leaves give; as it is where nothing was proven."""
    if relaxation.bound_yuan is None or not relaxation.leaves:
        return solution
    problem = relaxation.sets.problem
    facts, levels = derived_facts(problem), level_values(problem, solution)
    leaves = tuple(_leaf(relaxation, leaf, levels) for leaf in relaxation.leaves)
    bound = min(leaf_bound_yuan(problem, facts, levels, leaf, on_nodes=True) for leaf in leaves)
    certificate = Certificate(
        objective_yuan=objective_yuan(
            problem, solution, leaves[0].multipliers.block_of_slot, facts, on_nodes=True
        ),
        bound_yuan=bound,
        leaves=leaves,
        policy_revision=problem.policy_revision,
        base_revision=problem.base_revision,
        model=NODES_MODEL,
    )
    return certified(problem, solution, certificate)


def _leaf(relaxation: Relaxation, leaf: DualLeaf, levels: FloatArray) -> Leaf:
    multipliers = _multipliers(relaxation.model, relaxation.exact, leaf.duals, levels)
    return Leaf(leaf.opened[:, None], ~leaf.closed[:, None], multipliers)


def _multipliers(model: BulkModel, exact: Program, duals: FloatArray, levels: FloatArray) -> Multipliers:
    """The duals by rule and axis of the problem."""
    p = model.sets.problem
    reduced = _reduced(model, exact, duals)
    cut_class, cut_site, cut_yuan = _open_cuts(model, duals)
    spread_class, spread_site, spread_yuan = _spread(model, duals)
    capacity = np.zeros((p.group_count, len(NODE_COLUMNS), 1))
    capacity[:, : len(RESOURCES), 0] = _spread_out(
        model, "capacity", duals, p.group_count * len(RESOURCES)
    ).reshape(p.group_count, len(RESOURCES))
    floor = _spread_out(model, "floor", duals, p.group_count * len(RESOURCES))
    portfolio = -model.duals("portfolio", duals)
    return Multipliers(
        level_yuan=_level_yuan(model, reduced, levels),
        capacity=capacity,
        floor=floor.reshape(p.group_count, len(RESOURCES), 1),
        padding=_spread_out(model, "padding", duals, p.group_count)[:, None],
        power=model.duals("it_power", duals)[:, None],
        hourly_cap=_spread_out(model, "hourly_cap", -duals, p.site_count)[:, None],
        ledger=_spread_out(model, "ledger", duals, p.site_count),
        peak=_spread_out(model, "peak", -duals, p.site_count)[:, None],
        link=_spread_out(model, "links", duals, len(p.network.link_id))[:, None],
        stay=_staying(model, reduced),
        stay_batch=np.zeros(p.pair_count),
        wake=_spread_out(model, "wake", -duals, p.group_count)[:, None],
        cut_class=cut_class,
        cut_site=cut_site,
        cut_slot=np.zeros(len(cut_class), dtype=np.int64),
        cut_yuan=cut_yuan,
        spread_class=spread_class,
        spread_site=spread_site,
        spread_block=np.zeros(len(spread_class), dtype=np.int64),
        spread_yuan=spread_yuan,
        block_of_slot=np.zeros(1, dtype=np.int64),
        portfolio=max(0.0, float(portfolio[0])) if len(portfolio) else 0.0,
        node_rows=_node_rows(model, duals),
    )


def _spread_out(model: BulkModel, name: str, duals: FloatArray, size: int) -> FloatArray:
    """[size] prices (≥ 0) of the rows of a block of upper limits by what they stand for."""
    out = np.zeros(size)
    if name in model.rows:
        yuan = -model.duals(name, duals)
        out[model.keys[name]] = np.where(yuan > NOISE, yuan, 0.0)
    return out


def _reduced(model: BulkModel, exact: Program, duals: FloatArray) -> FloatArray:
    """Reduced costs of all columns without the rows of demand and moves."""
    y = duals.copy()
    for name in ("demand", "moves"):
        if name in model.rows:
            y[model.rows[name].slice] = 0.0
    return np.asarray(exact.cost - exact.matrix.T @ y)


def _node_rows(model: BulkModel, duals: FloatArray) -> tuple[tuple[int, str, int, float], ...]:
    """Prices of sharp rows."""
    width = model.sets.sharp.shape[1]
    found = []
    for name in model.rows:
        if name.startswith("sharp"):
            yuan = -model.duals(name, duals)
            priced = np.flatnonzero(yuan > NOISE)
            keys = model.keys[name][priced].tolist()
            found += [
                (key // width, *SHARP_FUNCTIONS[key % width], price)
                for key, price in zip(keys, yuan[priced].tolist(), strict=True)
            ]
    return tuple(sorted(found))


def _open_cuts(model: BulkModel, duals: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """(class, site, yuan per share): the dearest of the pairs' rows x ≤ D·on, as the rule speaks of all of them."""
    s = model.sets
    sites = s.problem.site_count
    dearest = np.zeros(s.problem.class_count * sites)
    for name in model.rows:
        if name.startswith("open_pairs"):
            v = model.keys[name]
            yuan = -model.duals(name, duals) * s.demand[s.pair_class[v]]
            np.maximum.at(dearest, s.pair_class[v] * sites + s.pair_site[v], yuan)
    keys = np.flatnonzero(dearest > NOISE)
    return keys // sites, keys % sites, dearest[keys]


def _spread(model: BulkModel, duals: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """(class, site, yuan per share of the class)."""
    keys = model.keys.get("spread", np.zeros(0, dtype=np.int64))
    yuan = -model.duals("spread", duals)
    priced = np.flatnonzero(yuan > NOISE)
    of_class = keys[priced] // model.sets.problem.site_count
    return of_class, keys[priced] % model.sets.problem.site_count, yuan[priced] * model.sets.demand[of_class]


def _level_yuan(model: BulkModel, reduced: FloatArray, levels: FloatArray) -> FloatArray:
    """[V] weights per yuan of penalty at which no class is better left out than served at its price."""
    s, p = model.sets, model.sets.problem
    price = model.values("unserved", reduced).copy()
    np.minimum.at(price, s.pair_class, model.values("x", reduced))
    penalty = p.classes.unserved_yuan_per_replica_h * s.hours
    ratio = np.divide(np.maximum(price, 0.0), penalty, out=np.zeros(len(price)), where=penalty > 0)
    weight = np.zeros(LEVEL_COUNT)
    np.maximum.at(weight, np.array(LEVEL_OF_RANK, dtype=np.int64)[p.classes.priority_rank], ratio)
    weight[levels <= 0] *= CERTAIN
    weight[LEVEL_HARD_CAPS] = HARD_CAP_YUAN
    return weight


def _staying(model: BulkModel, reduced: FloatArray) -> FloatArray:
    """[K] per share of a class, what a running replica that stays saves: all that it costs above the price of one more
    replica of its class, at most a move. Where more run than are wanted, that price is the one at which the dearest
    leave.
    """
    s, p = model.sets, model.sets.problem
    out = np.zeros(p.pair_count)
    if "leaving" not in model.columns:
        return out
    yuan = p.classes.migration_yuan[s.pair_class]
    of_x = model.values("x", reduced)
    price = model.values("unserved", reduced).copy()
    np.minimum.at(price, s.pair_class, of_x)
    held = model.keys["leaving"]
    running = p.pairs.running_count[s.pair[held]]
    ran = np.bincount(s.pair_class[held], weights=running, minlength=len(s.demand))
    for c in np.flatnonzero(ran > s.demand).tolist():
        mine = held[s.pair_class[held] == c]
        order = mine[np.argsort(of_x[mine], kind="stable")]
        last = int(np.searchsorted(np.cumsum(p.pairs.running_count[s.pair[order]]), s.demand[c]))
        price[c] = min(price[c], float((of_x - yuan)[order[last]]))
    save = np.clip(of_x[held] - price[s.pair_class[held]], 0.0, yuan[held])
    out[s.pair[held]] = save * s.demand[s.pair_class[held]]
    return out
