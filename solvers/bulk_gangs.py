"""Whole gangs for a bulk plan: a small integer program around the relaxation, which knows gangs only in parts.

At the optimum of the relaxation a gang can lie anywhere among the groups that it uses at the same price: other work
gives way at the duals. So a class's gangs are divided anew among all its groups, at what these cost more, and every
group carries as many nodes of gangs as the relaxation gave it, give or take little; a group or site that is full gets
no more than that. The integer program has a column per class and group (some 300 for 30 classes) and is solved at the
root. Then the relaxation is solved again with these gangs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.bulk_model import BulkModel
from solvers.integer import IntegerLimits, solve_integer
from solvers.linear import LinearModel, LpResult, Program
from solvers.problem import W_PER_KW

WHOLE = 1e-6
SHIFT_FRAC = 0.05
"""Of a node's idle energy: what a node of gangs more or less in a group is taken to cost. Other work makes up for it at
nearly no cost; more than that is twice as dear as less, which leaves a hole that other work can fill."""
LIMITS = IntegerLimits(nodes=20)


def gang_columns(model: BulkModel) -> IntArray:
    """[..] positions of x of classes in gangs."""
    s = model.sets
    return model.columns_of("x")[s.problem.classes.gang_size[s.pair_class] > 1]


def dearer_yuan(model: BulkModel, program: Program, duals: FloatArray) -> FloatArray:
    """[columns] what a replica of a class costs more on a pair than on its cheapest one, at these duals."""
    s, x = model.sets, model.columns["x"].slice
    y = duals.copy()
    y[model.rows["demand"].slice] = 0.0
    yuan = program.cost - program.matrix.T @ y
    of_pair = np.where(program.upper[x] > WHOLE, yuan[x], np.inf)
    least = np.full(len(s.demand), np.inf)
    np.minimum.at(least, s.pair_class, of_pair)
    able = np.isfinite(of_pair)
    yuan[x] = np.where(able, yuan[x] - np.where(able, least[s.pair_class], 0.0), 0.0)
    return np.asarray(yuan)


def with_gangs(model: BulkModel, program: Program, answer: LpResult, dearer: FloatArray) -> Program | None:
    """`program` with every class of gangs bounded by a division in whole gangs, at dearer[columns] yuan a replica; None
    where none was found.
    """
    s, p = model.sets, model.sets.problem
    first = model.columns["x"].start
    columns = gang_columns(model)
    open_to = program.upper[columns] > WHOLE
    columns = columns[open_to & (answer.x[model.columns_of("on")] > 0.5)[s.pair_site[columns - first]]]
    if not len(columns):
        return None
    v = columns - first
    size = p.classes.gang_size[s.pair_class[v]]
    gangs = answer.x[columns] / size
    classes, of_class = np.unique(s.pair_class[v], return_inverse=True)
    groups, of_group = np.unique(s.pair_group[v], return_inverse=True)
    wanted = np.floor(np.bincount(of_class, weights=gangs) + WHOLE)
    nodes_each = s.share[v].max(axis=1) * size
    had = np.bincount(of_group, weights=nodes_each * gangs)

    lp = LinearModel()
    most = np.minimum(np.floor(gangs) + 2, np.floor(program.upper[columns] / size + WHOLE))
    z = lp.add_columns("gangs", len(v), upper=most, cost=dearer[columns] * size)
    shift_yuan = SHIFT_FRAC * p.groups.idle_w[groups] / W_PER_KW * s.hours
    shift_yuan = shift_yuan * s.energy_yuan_per_kwh[p.groups.site[groups]]
    room = np.where(_is_full(model, program, answer)[groups], 0.0, p.groups.node_count[groups, 0])
    over = lp.add_columns("more_nodes", len(groups), upper=room, cost=2 * shift_yuan)
    under = lp.add_columns("fewer_nodes", len(groups), cost=shift_yuan)
    rows = lp.add_rows("demand", len(classes), lower=wanted, upper=wanted)
    lp.add_entries(rows.index[of_class], z.index, 1.0)
    rows = lp.add_rows("nodes", len(groups), lower=had, upper=had)
    lp.add_entries(rows.index[of_group], z.index, nodes_each)
    lp.add_entries(rows.index, over.index, -1.0)
    lp.add_entries(rows.index, under.index, 1.0)
    small = lp.program()
    whole = np.arange(len(small.cost)) < len(v)
    result = solve_integer(small, whole, LIMITS)
    if result.x is None:
        return None
    upper = program.upper.copy()
    upper[gang_columns(model)] = 0.0
    upper[columns] = result.x[: len(v)] * size
    return replace(program, upper=upper)


def _is_full(model: BulkModel, program: Program, answer: LpResult) -> FloatArray:
    """[G] groups with every node on, or on a site at its power limit."""
    nodes, limit = model.columns["nodes"].slice, model.rows["power_limit"].slice
    all_on = answer.x[nodes] >= program.upper[nodes] - WHOLE
    power_left_kw = (program.row_upper - program.matrix @ answer.x)[limit]
    return np.asarray(all_on | (power_left_kw < WHOLE)[model.sets.problem.groups.site])
