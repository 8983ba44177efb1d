"""Replicas that never share a node: what a continuous count of nodes cannot see.

Two replicas of 128 cores do not fit a node of 192, yet their sum fits one and a third. Of each group a set of pairs is
picked of which no two replicas fit one node together, of the same pair or of two. Every placement then has at most one
replica of the set on each node, so Σ x over the set ≤ nodes on holds for every placement that can be packed, beside
the rows that count resources: small work still fills what such a replica leaves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from solvers.problem import PlacementProblem

Bools = npt.NDArray[np.bool_]


def alone_on_node(problem: PlacementProblem) -> Bools:
    """[K] pairs of which no two replicas, of one pair or of two in the same group, fit one node together.

    Greedy: the largest first, each that meets all before it. Needs and capacities in the units of `RESOURCES`.
    """
    alone = np.zeros(problem.pair_count, dtype=bool)
    large = np.flatnonzero(takes_whole_node(problem))
    capacity = problem.groups.capacity[problem.pairs.group_index[large]]
    share = np.divide(problem.pairs.need[large], capacity, out=np.zeros(capacity.shape), where=capacity > 0)
    first = np.lexsort((large, -share.max(axis=1, initial=0.0)))
    for group in np.unique(problem.pairs.group_index[large]).tolist():
        mine = large[first][problem.pairs.group_index[large[first]] == group]
        needs, kind = np.unique(problem.pairs.need[mine], axis=0, return_inverse=True)
        meets = ((needs[:, None] + needs[None, :]) > problem.groups.capacity[group]).any(axis=2)
        kept: list[int] = []
        for k in dict.fromkeys(kind.ravel().tolist()):
            if meets[k, kept].all():
                kept.append(k)
        alone[mine[np.isin(kind.ravel(), kept)]] = True
    return alone


def takes_whole_node(problem: PlacementProblem) -> Bools:
    """[K] pairs of which no node holds two replicas."""
    capacity = problem.groups.capacity[problem.pairs.group_index]
    return np.asarray((2 * problem.pairs.need > capacity).any(axis=1))


__all__ = ["alone_on_node", "takes_whole_node"]
