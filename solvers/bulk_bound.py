"""The bound of a bulk plan beyond its linear relaxation: sites are open or closed, never in between.

Branch and bound over the sites that the relaxation opens in part. Every leaf of the tree keeps its duals, so that the
whole tree is a proof by weak duality: each plan has its sites open or closed as some leaf says, and there it costs at
least the leaf's Lagrangian bound. The tree's bound is the least of its leaves; like the bound of single duals it needs
no trust in a simplex, and holds again after a change of counts (re-plan) without a solve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from solvers.archive import BoolArray, FloatArray
from solvers.bulk_model import BulkModel
from solvers.linear import Program
from solvers.rounding import ROUNDING


@dataclass(frozen=True, eq=False)
class Leaf:
    """A part of the plans with its duals: sites in `closed` are closed, those in `opened` open, others either."""

    opened: BoolArray
    """[S]"""
    closed: BoolArray
    """[S]"""
    duals: FloatArray

    @classmethod
    def root(cls, site_count: int, duals: FloatArray) -> Leaf:
        """All plans."""
        neither = np.zeros(site_count, dtype=bool)
        return cls(neither, neither, duals)

    def branches(self, site: int) -> tuple[Leaf, Leaf]:
        """Its plans with the site open, and those with the site closed; duals as they are."""
        at = np.arange(len(self.opened)) == site
        return replace(self, opened=self.opened | at), replace(self, closed=self.closed | at)


def lower_bound(model: BulkModel, program: Program, duals: FloatArray) -> float:
    """The Lagrangian bound of any duals on `program` (rows as the model's), yuan.

    Duals of demand and moves are chosen here, the best for the others: a class costs at least what `cheapest_classes`
    says. Duals of a wrong sign are set to 0. Every other column has finite bounds.
    """
    y = np.where(np.isfinite(program.row_lower), duals, np.minimum(duals, 0.0))
    y = np.where(np.isfinite(program.row_upper), y, np.maximum(y, 0.0))
    rest = np.ones(len(program.cost), dtype=bool)
    for name in ("demand", "moves"):
        if name in model.rows:
            y[model.rows[name].slice] = 0.0
    for name in ("x", "unserved", "leaving"):
        if name in model.columns:
            rest[model.columns[name].slice] = False
    reduced = program.cost - program.matrix.T @ y
    side = np.where(y > 0, program.row_lower, program.row_upper)
    rows = np.where(y == 0, 0.0, y * np.where(y == 0, 0.0, side))
    r = reduced[rest]
    at_bound = np.where(r > 0, r * program.lower[rest], r * program.upper[rest])
    classes = cheapest_classes(model, reduced)
    found = float(classes.sum() + rows.sum() + at_bound.sum() + program.offset)
    return found - ROUNDING * _terms(program, y, rows)


def _terms(program: Program, y: FloatArray, rows: FloatArray) -> float:
    """Sum of the sizes of all numbers that a Lagrangian bound adds up, yuan: what its rounding is measured by."""
    size = np.abs(program.cost) + abs(program.matrix).T @ np.abs(y)
    widest = np.maximum(np.abs(program.lower), np.abs(program.upper))
    return float((size * widest).sum() + np.abs(rows).sum() + abs(program.offset))


def cheapest_classes(model: BulkModel, reduced: FloatArray) -> FloatArray:
    """[C] least cost of each class at reduced[columns]: Σ r·x + r_u·u + Σ m·max(run − x, 0) with Σ x + u = D, yuan.

    A replica costs r more on any pair, and r − m on one where one runs that would else move: those come first, cheapest
    first, as far as they are below the least r; the rest of D goes at that.
    """
    s = model.sets
    classes = len(s.demand)
    of_x = reduced[model.columns["x"].slice]
    least = reduced[model.columns["unserved"].slice].copy()
    np.minimum.at(least, s.pair_class, of_x)
    out = np.asarray(least * s.demand)
    if "leaving" not in model.columns:
        return out
    pair = model.keys["leaving"]
    c, running = s.pair_class[pair], s.problem.pairs.running_count[s.pair[pair]]
    move = reduced[model.columns["leaving"].slice]
    saved = least[c] - (of_x[pair] - move)
    order = np.lexsort((-saved, c))
    c, running, saved = c[order], running[order], saved[order]
    before = np.cumsum(running) - running
    first = np.searchsorted(c, np.arange(classes + 1))
    before -= np.append(before, before[-1:])[first[c]]
    stays = np.clip(s.demand[c] - before, 0.0, running)
    out -= np.bincount(c, weights=stays * np.maximum(saved, 0.0), minlength=classes)
    return out + np.bincount(c, weights=running * move[order], minlength=classes)


def leaf_program(model: BulkModel, exact: Program, leaf: Leaf) -> Program:
    """The exact program of a leaf's plans."""
    on = model.columns["on"].slice
    lower, upper = exact.lower.copy(), exact.upper.copy()
    lower[on] = np.where(leaf.opened, upper[on], lower[on])
    upper[on] = np.where(leaf.closed, lower[on], upper[on])
    return replace(exact, lower=lower, upper=upper)


def bound_of(model: BulkModel, exact: Program, leaves: tuple[Leaf, ...]) -> float:
    """What the leaves of a whole tree prove together, yuan."""
    return min(lower_bound(model, leaf_program(model, exact, leaf), leaf.duals) for leaf in leaves)
