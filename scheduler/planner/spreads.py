"""Spread rules of stages whose replicas move one by one: which domains the others hold, and how many are missing."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState
from scheduler.planner.choice import Spread


def domains_of(state: ClusterState, over: str) -> NDArray[np.int64]:
    """(N,) spread domain of every node: its own number, or its site's."""
    topology = state.topology
    assert topology is not None
    return topology.node_site if over == "site" else np.arange(topology.node_count)


def domains_in_use(
    state: ClusterState, rows: NDArray[np.int64], spec: int, domain_of: NDArray[np.int64]
) -> frozenset[int]:
    """Domains of the stage's replicas that lie somewhere, without `rows`, all of one workload: who moves keeps none."""
    own = state.rows_of(int(state.replicas["workload"][rows[0]]))
    node = state.replicas["node"][own]
    same = (state.replicas["spec"][own] == spec) & (node >= 0)
    same[rows - own.start] = False
    return frozenset(int(domain_of[n]) for n in node[same])


class MovingApart:
    """Keeps spread rules while replicas of one commit move: who leaves holds no domain, who has moved the new one."""

    def __init__(self, state: ClusterState, leaving: Collection[int]) -> None:
        self._state, self._leaving = state, leaving
        self.moved: dict[int, int] = {}
        """Row → its new node, of the moves found so far."""

    def rule_for(self, row: int) -> Spread | None:
        """What a new place for this row must meet, so that the rule holds with it; None without a rule."""
        state = self._state
        spec = state.spec(int(state.replicas["spec"][row]))
        spread = spec.stage.spread
        if spread is None:
            return None
        domain_of = domains_of(state, spread.over)
        own = state.rows_of(int(state.replicas["workload"][row]))
        gone = [r for r in range(own.start, own.stop) if r == row or r in self._leaving or r in self.moved]
        stay = domains_in_use(state, np.array(gone), spec.spec, domain_of)
        new = (self.moved[r] for r in gone if r in self.moved and r != row)
        used = stay | {int(domain_of[n]) for n in new}
        return Spread(
            domain_of, used, max(0, spread.min_domains - len(used)), over_sites=spread.over == "site"
        )
