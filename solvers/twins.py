"""Whole twins: the plan's patterns as whole numbers that fit.

`whole_twins`: first what is whole already, then one twin at a time on its cheapest pattern with room, then twins taken
out and put back while that saves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.greedy import Room, count_plan
from solvers.pipelines import StageOptions, best_patterns, stage_options, valid_patterns
from solvers.problem import Graph, PlacementProblem
from solvers.solution import GraphPattern, PlanSolution

WHOLE = 1e-6
"""A count this close to a whole number is one."""
SAVES_YUAN = 1e-9
MOST_ROUNDS = 20
"""Rounds of taking out and putting back; each looks at every twin once."""

MOST_TRIED = 48
"""Cheaper patterns that a twin taken out may try."""


def whole_twins(problem: PlacementProblem, plan: PlanSolution) -> PlanSolution:
    """The plan's other work as it is, and its twins as whole numbers per pattern; counted and costed anew.

    ValueError unless every graph wants the same whole number in all slots and no node comes or goes. Twins that no
    pattern has room for are unserved; the answer is a plan like any other (`verify_plan`), without a bound of its own.
    """
    _same_all_along(problem)
    rounded = _searched(problem, plan, from_whole_parts=True)
    if rounded.cost.unserved_yuan <= plan.cost.unserved_yuan + WHOLE:
        return rounded
    # whole parts may leave holes of the wrong shape: begin once more with none of them
    return min(rounded, _searched(problem, plan, from_whole_parts=False), key=_rank)


def _rank(plan: PlanSolution) -> tuple[float, float]:
    return round(plan.cost.unserved_yuan, 6), plan.cost.total_yuan - plan.cost.unserved_yuan


def _searched(problem: PlacementProblem, plan: PlanSolution, *, from_whole_parts: bool) -> PlanSolution:
    search = _WholeTwins(problem, plan)
    if from_whole_parts:
        search.take_whole_parts(plan)
    search.fill_up()
    search.improve()
    return search.plan()


def _same_all_along(problem: PlacementProblem) -> None:
    for graph in problem.graphs:
        if len(set(graph.count)) > 1 or abs(graph.count[0] - round(graph.count[0])) > WHOLE:
            raise ValueError(f"graph {graph.graph_id}: whole twins need one whole number over all slots")
    if np.diff(problem.groups.node_count, axis=1).any():
        raise ValueError("groups.node_count: whole twins need the same nodes in all slots")


@dataclass(frozen=True, eq=False)
class _Graph:
    """One graph with its patterns and, per pattern, the price of running one twin for an hour."""

    index: int
    graph: Graph
    options: tuple[StageOptions, ...]
    patterns: IntArray
    yuan: FloatArray


class _WholeTwins:
    """Whole twins under construction: counts per (graph, pattern) and the room they leave."""

    def __init__(self, problem: PlacementProblem, plan: PlanSolution) -> None:
        self.problem = problem
        self.room = Room(problem)
        stage = np.isin(problem.pairs.class_index, problem.stage_classes())
        for k in np.flatnonzero(~stage & (plan.running_count.max(axis=1, initial=0.0) > 0)).tolist():
            self.room.take(k, plan.running_count[k])
        price = plan.price_yuan_per_unit_h.mean(axis=2)
        needed = (problem.pairs.need * price[problem.pairs.group_index]).sum(axis=1)
        self.pair_yuan = self.room.pair_yuan + needed
        """What a replica costs with the plan's prices of room: scarce groups are left to who needs them."""
        self.graphs = [self._graph(j, graph) for j, graph in enumerate(problem.graphs)]
        self.count: list[dict[int, int]] = [{} for _ in problem.graphs]

    def _graph(self, j: int, graph: Graph) -> _Graph:
        p = self.problem
        options = stage_options(p, graph, self.room.passes)
        known = valid_patterns(p, graph, options)
        cost = []
        for stage, replicas in zip(options, graph.stage_replicas, strict=True):
            of_option = np.full(len(stage.site), 0.0 if stage.is_fixed else np.inf)
            held = np.flatnonzero(stage.pair_option >= 0)
            np.minimum.at(of_option, stage.pair_option[held], replicas * self.pair_yuan[held])
            cost.append(of_option)
        rows, yuan = best_patterns(p, graph, options, cost, keep=len(known.option), patterns=known)
        return _Graph(j, graph, options, rows, yuan)

    def take_whole_parts(self, plan: PlanSolution) -> None:
        """As many whole twins of each pattern as the plan has."""
        for pattern in plan.graph_patterns:
            held = self.graphs[pattern.graph_index]
            whole = int(np.floor(min(pattern.count) + WHOLE))
            n = self._row_of(held, pattern)
            for _ in range(whole if n >= 0 else 0):
                if not self._put(held, n):
                    break

    def fill_up(self) -> None:
        """The twins still missing, dearest shortage first, each on its cheapest pattern with room."""
        for held in sorted(self.graphs, key=lambda g: (-self._penalty(g), g.index)):
            self._complete(held)

    def improve(self) -> None:
        """Take a twin out and put it where it is cheapest now, while that saves or lets a missing one in."""
        for _ in range(MOST_ROUNDS):
            saved = sum(self._reseat(held, n) for held in self.graphs for n in list(self.count[held.index]))
            self.fill_up()
            if saved <= SAVES_YUAN:
                return

    def _reseat(self, held: _Graph, n: int) -> float:
        if self.count[held.index].get(n, 0) == 0:
            return 0.0
        self._put(held, n, -1)
        for better in range(min(n, MOST_TRIED)):  # patterns are in order of price
            if held.yuan[better] < held.yuan[n] - SAVES_YUAN and self._put(held, better):
                return float(held.yuan[n] - held.yuan[better])
        assert self._put(held, n), "what was taken out fits back in"
        return 0.0

    def _complete(self, held: _Graph) -> None:
        missing = round(held.graph.count[0]) - sum(self.count[held.index].values())
        n = 0
        while missing > 0 and n < len(held.patterns) and np.isfinite(held.yuan[n]):
            if self._put(held, n):
                missing -= 1
            else:
                n += 1

    def _put(self, held: _Graph, n: int, sign: int = 1) -> bool:
        """Place one twin by a pattern (sign −1: take one out); False and nothing changed when it does not fit."""
        pairs = self._pairs(held, n)
        done: list[tuple[int, int]] = []
        for k, replicas in pairs:
            if sign > 0 and (self.room.most(k) < replicas * (1 - WHOLE)).any():
                for k_done, replicas_done in done:
                    self.room.take(k_done, np.full(self.problem.slot_count, -float(replicas_done)))
                return False
            self.room.take(k, np.full(self.problem.slot_count, float(sign * replicas)))
            done.append((k, replicas))
        rates = self.room.stage_rates(held.graph, held.options, held.patterns[n])
        if sign > 0 and any(
            (self.room.link_mbps[link] < mbps * (1 - WHOLE)).any() for link, mbps in rates.items()
        ):
            for k_done, replicas_done in done:
                self.room.take(k_done, np.full(self.problem.slot_count, -float(replicas_done)))
            return False
        for link, mbps in rates.items():
            self.room.link_mbps[link] -= sign * mbps
        count = self.count[held.index]
        count[n] = count.get(n, 0) + sign
        if not count[n]:
            del count[n]
        return True

    def _pairs(self, held: _Graph, n: int) -> list[tuple[int, int]]:
        """(pair, replicas) per free stage: the cheapest pair of the option, the same each time."""
        pairs = []
        for stage, option, replicas in zip(
            held.options, held.patterns[n], held.graph.stage_replicas, strict=True
        ):
            if not stage.is_fixed:
                of_option = np.flatnonzero(stage.pair_option == option)
                pairs.append((int(of_option[np.argmin(self.pair_yuan[of_option])]), replicas))
        return pairs

    def _row_of(self, held: _Graph, pattern: GraphPattern) -> int:
        for n, row in enumerate(held.patterns):
            sites = tuple(int(o.site[i]) for o, i in zip(held.options, row, strict=True))
            processing = tuple(float(o.processing_ms[i]) for o, i in zip(held.options, row, strict=True))
            if sites == pattern.stage_site and processing == pattern.stage_processing_ms:
                return n
        return -1

    def _penalty(self, held: _Graph) -> float:
        p, graph = self.problem, held.graph
        rank = min((int(p.classes.priority_rank[c]) for c in graph.stage_class), default=0)
        stages = zip(graph.stage_class, graph.stage_replicas, strict=True)
        return sum(float(p.classes.unserved_yuan_per_replica_h[c]) * n for c, n in stages) - 1e12 * rank

    def plan(self) -> PlanSolution:
        """The whole numbers as a plan."""
        patterns = []
        for held in self.graphs:
            for n, count in sorted(self.count[held.index].items()):
                row = held.patterns[n]
                sites = tuple(int(o.site[i]) for o, i in zip(held.options, row, strict=True))
                processing = tuple(float(o.processing_ms[i]) for o, i in zip(held.options, row, strict=True))
                patterns.append(
                    GraphPattern(held.index, sites, processing, (float(count),) * self.problem.slot_count)
                )
        return count_plan(self.problem, self.room.running, tuple(patterns))
