"""Random, degenerate and hostile placement problems: what a defect upstream, a typing error or a foe might send."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from solvers.archive import IntArray
from solvers.assignment import AssignmentProblem
from solvers.facts import DOMAINS
from solvers.problem import Graph, PlacementProblem, Terms
from tests.bulk_towns import bulk_town
from tests.plan_problems import NEVER, Town
from tests.property.test_solvers_plan_properties import random_town

HOSTILE = (
    np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-12, 1e-300, 1e9, 1e14, 1e300, -1e9, 0.5, 3.0,
)  # fmt: skip


IN_RANGE = (0.0, 1e-12, 1e-300, 0.5, 1.0, 3.0, 1e3, 1e6, 1e9, 1e14)


def hostile_problem(seed: int) -> PlacementProblem:
    """A random town with a few facts overwritten; ValueError when the facts are outside their domains."""
    rng = np.random.default_rng(seed)
    return _made_hostile(random_town(int(rng.integers(10**6))).problem(), rng)


def hostile_slot(seed: int) -> PlacementProblem:
    """The same of one slot of services, down to nodes: for bulk plans, re-plans and plans in parts."""
    rng = np.random.default_rng(seed)
    return _made_hostile(bulk_town(int(rng.integers(10**6))), rng)


def _made_hostile(problem: PlacementProblem, rng: np.random.Generator) -> PlacementProblem:
    for _ in range(int(rng.integers(1, 5))):
        problem = _overwritten(problem, rng)
    return problem


def _overwritten(problem: PlacementProblem, rng: np.random.Generator) -> PlacementProblem:
    table, field = str(rng.choice(sorted(DOMAINS))).split(".")
    value: Any = getattr(getattr(problem, table), field)
    hostile = float(rng.choice(IN_RANGE if rng.random() < 0.7 else HOSTILE))
    if isinstance(value, np.ndarray):
        array = np.array(value)
        if array.dtype.kind == "i":
            hostile = float(np.rint(np.clip(np.nan_to_num(hostile), -1e15, 1e15)))
        everywhere = rng.random() < 0.3
        where = np.ones(array.shape, dtype=bool) if everywhere else rng.random(array.shape) < 0.3
        array[where] = hostile
        value = array
    else:
        value = hostile
    changed: Any = dataclasses.replace(getattr(problem, table), **{field: value})
    return dataclasses.replace(problem, **{table: changed})


def hostile_assignment(seed: int) -> AssignmentProblem:
    """Up to 5 bins and 8 jobs, or none: loads of 0 and 10¹², costs below zero, equal costs, forbidden pairs."""
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(0, 6)), int(rng.integers(0, 9))

    def either(hostile: tuple[float, ...], size: tuple[int, ...], most: int) -> IntArray:
        picked = rng.choice(hostile, size) if rng.random() < 0.5 else rng.integers(0, most, size)
        return np.asarray(picked, dtype=np.int64)

    cost = (
        rng.choice((0.0, 1e-300, 1.0, 1e12, -5.0, -1e9), shape) if rng.random() < 0.5 else rng.random(shape)
    )
    return AssignmentProblem(
        cost=np.full(shape, 3.0) if rng.random() < 0.2 else cost,
        load=either((0, 0, 1, 3, 7, 1e9, 1e12), shape, 10),
        capacity=either((0, 1, 5, 1e6, 1e9, 1e12), shape[:1], 40),
        fixed=rng.choice((0.0, 0.0, 1e-12, 5.0, 1e12), shape[0]) * float(rng.random() < 0.7),
        allowed=rng.random(shape) < rng.choice((0.0, 0.5, 1.0)),
    )


def busy_town(scale: float) -> PlacementProblem:
    """Three sites and five classes; `scale` multiplies every demand."""
    town = Town(hours=(1, 1), leg_rtt_ms={"z/pon": {"s0": 2.0, "s1": 5.0, "s2": 9.0}})
    for i in range(3):
        town.site(f"s{i}", may_close=bool(i), pue_cap_annual=1.4).group(f"s{i}/g", f"s{i}")
    town.work("web", demand=3 * scale, flows=[("z/pon", 6.0, 1.0)])
    town.work("llm", demand=2 * scale, gpu={"l20": 1.0})
    town.work("job", work_replica_h=10 * scale, gpu={"l20": 0.5}, deadline_slot=1)
    town.work("train", work_replica_h=4 * scale, gang_size=4, single_island=True, gpu={"l20": 4.0})
    town.work("stage")
    town.graphs.append(Graph("twin", (scale, scale), (4,), (1,)))
    return town.problem()


def contradictory_caps() -> PlacementProblem:
    """Hard caps that no load meets, above a ledger already in debt, with a power limit of nothing."""
    town = Town(terms=Terms(portfolio_pue_cap_annual=1.0, portfolio_is_hard=True, portfolio_beta_kwh=-100.0))
    town.site("s", is_edge=True, ipue_cap_hourly=1.0, pue_cap_annual=1.0, annual_is_hard=True,
              ledger_beta_kwh=-50.0, power_limit_kw=0.0)  # fmt: skip
    return town.group("g", "s").work("c", demand=1).problem()


def zero_capacity() -> PlacementProblem:
    """Nodes that hold nothing, and a group without nodes."""
    town = Town().site("s").group("g", "s", cpu=0, memory_gib=0, gpus=0, storage_gib=0)
    return town.group("h", "s", node_count=0).work("c", demand=2).work("b", work_replica_h=3).problem()


def gang_larger_than_any_island() -> PlacementProblem:
    town = Town().site("s").group("g", "s", island_node_count=2)
    return town.work("t", work_replica_h=8, gang_size=64, single_island=True, gpu={"l20": 4.0}).problem()


def graph_without_patterns() -> PlacementProblem:
    """Two stages that must be closer than any two sites and may not share one."""
    town = Town(site_rtt_ms=50.0).site("a", labels={"k": "a"}).site("b", labels={"k": "b"})
    town.group("a/g", "a").group("b/g", "b")
    town.work("x", require_any=({"k": "a"},)).work("y", require_any=({"k": "b"},))
    town.graphs.append(Graph("twin", (1.0,), (0, 1), (1, 1), colocate=((0, 1),)))
    return town.problem()


def empty_fleet() -> PlacementProblem:
    """Work, and neither site nor group: built from a town by taking everything away."""
    return without_sites(
        Town().site("s").group("g", "s").work("c", demand=2).work("b", work_replica_h=2).problem()
    )


def no_work() -> PlacementProblem:
    return without_classes(Town().site("s", may_close=True).group("g", "s").work("c", demand=1).problem())


def without_sites(p: PlacementProblem) -> PlacementProblem:
    none = np.zeros(p.pair_count, dtype=bool)
    return dataclasses.replace(
        p,
        sites=_rows(p.sites, np.zeros(p.site_count, dtype=bool), "S"),
        groups=_rows(p.groups, np.zeros(p.group_count, dtype=bool), "G"),
        pairs=_rows(p.pairs, none, "K"),
        network=dataclasses.replace(
            p.network, leg_rtt_p99_ms=np.zeros((len(p.network.leg_id), 0)), site_rtt_p99_ms=np.zeros((0, 0)),
            transfer_yuan_per_gb=np.zeros((0, 0)),
        ),
    )  # fmt: skip


def without_classes(p: PlacementProblem) -> PlacementProblem:
    return dataclasses.replace(
        p,
        classes=_rows(p.classes, np.zeros(p.class_count, dtype=bool), "C"),
        pairs=_rows(p.pairs, np.zeros(p.pair_count, dtype=bool), "K"),
    )


def _rows(table: Any, keep: np.ndarray[Any, Any], axis: str) -> Any:
    """A table with only some of its rows."""
    from solvers.archive import array_axes

    axes = array_axes(type(table))
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        if field.name in axes:
            assert axes[field.name][1][0] == axis
            changes[field.name] = value[keep]
        elif value:  # an optional column may be absent
            changes[field.name] = tuple(v for v, k in zip(value, keep, strict=True) if k)
    return type(table)(**changes)


DEGENERATE = {
    "empty_fleet": empty_fleet,
    "no_work": no_work,
    "zero_capacity": zero_capacity,
    "contradictory_caps": contradictory_caps,
    "gang_larger_than_any_island": gang_larger_than_any_island,
    "graph_without_patterns": graph_without_patterns,
    "demand_times_1e9": lambda: busy_town(1e9),
    "demand_times_1e-9": lambda: busy_town(1e-9),
    "one_slot_negative_prices": lambda: (
        Town()
        .site("s", may_close=True, price_yuan_per_kwh=-1.0)
        .group("g", "s")
        .work("c", demand=2)
        .problem()
    ),
    "no_link_capacity": lambda: _town_without_link().problem(),
    "everything_unknown": lambda: (
        Town(leg_rtt_ms={"z/pon": {}})
        .site("s")
        .group("g", "s")
        .work("c", demand=2, flows=[("z/pon", 5.0, 1.0)], paths=[("z/pon", "", 10.0)], processing_ms=NEVER)
        .problem()
    ),
}


def _town_without_link() -> Town:
    town = Town(leg_rtt_ms={"z/pon": {"s": 1.0}}, links=[("up", 0.0)], routes=[(0, "s", "up")])
    return town.site("s").group("g", "s").work("c", demand=2, flows=[("z/pon", 5.0, 1.0)])
