"""The problem and the solution as files: equal content, equal bytes; nonsense is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from solvers.archive import ArchiveError
from solvers.problem import Graph, GraphFlow, GraphPath, PlacementProblem, Terms
from solvers.solution import Bound, Cost, GraphPattern, PlanSolution, SolveStatus, no_plan
from tests.plan_problems import Town


def a_town() -> Town:
    town = Town(hours=(1.0, 0.5), terms=Terms(portfolio_pue_cap_annual=1.5))
    town.leg_rtt_ms = {"z1/pon": {"edge": 6.0}}
    town.site("cloud", labels={"tier": "cloud"}).site("edge", is_edge=True, ipue_cap_hourly=1.5)
    town.group("cloud-l20", "cloud").group("edge-cpu", "edge", gpus=0)
    town.work("web", demand=3, flows=[("z1/pon", 10.0, 4.0)], paths=[("z1/pon", "", 50.0)])
    town.work("render", work_replica_h=4, gpu={"l20": 0.5}, require_any=({"tier": "cloud"}, {"tier": "any"}))
    town.work("twin-sync", processing_ms=5.0)
    town.graphs.append(
        Graph("twin", (1.0, 1.0), (2,), (1,), (GraphFlow(0, 0, 1.0, None),), (GraphPath((-1, 0), 30.0),))
    )
    return town


def test_a_saved_problem_is_read_back_equal_and_byte_for_byte(tmp_path):
    problem = a_town().problem()
    problem.save(tmp_path / "p.suanli")
    again = PlacementProblem.load(tmp_path / "p.suanli")
    assert again.to_bytes() == (tmp_path / "p.suanli").read_bytes() == a_town().problem().to_bytes()
    assert again.content_hash() == problem.content_hash()
    assert again.graphs == problem.graphs and again.terms == problem.terms
    assert again.classes.require_any == problem.classes.require_any
    assert again.sites.labels[0] == {"tier": "cloud"}
    np.testing.assert_array_equal(again.pairs.need, problem.pairs.need)
    assert list(again.sites.ipue_cap_hourly[1:]) == [1.5] and np.isnan(again.sites.ipue_cap_hourly[0])


def test_the_hash_moves_with_every_kind_of_fact():
    base = a_town().problem()
    changed_array = dataclasses.replace(
        base, slots=dataclasses.replace(base.slots, start_s=base.slots.start_s + 7)
    )
    changed_fact = dataclasses.replace(base, terms=dataclasses.replace(base.terms, padding_factor=1.2))
    hashes = {p.content_hash() for p in (base, changed_array, changed_fact)}
    assert len(hashes) == 3


def test_arrays_are_read_only_and_do_not_alias_what_the_caller_keeps():
    town = a_town()
    hours = np.array([1.0, 0.5])
    town.hours = hours  # type: ignore[assignment]
    problem = town.problem()
    with pytest.raises(ValueError, match="read-only"):
        problem.slots.hours[0] = 2.0
    hours[0] = 9.0
    assert problem.slots.hours[0] == 1.0


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("groups", "site", [0, 5], r"groups\.site: outside"),
        ("slots", "hours", [1.0], r"slots\.start_s: shape"),
        ("slots", "start_s", [0, 9000], "gaps"),
        ("groups", "packing_yield", np.full((2, 4), 1.5), "packing_yield"),
        ("classes", "demand_count", np.full((2, 2), -1.0), "demand_count"),
        ("classes", "gang_size", [0, 1], "gang_size"),
        ("pairs", "class_index", [1, 0, 0, 0, 0], "not sorted"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(table, field, value, message):
    problem = a_town().problem()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(
            problem, **{table: dataclasses.replace(getattr(problem, table), **{field: np.array(value)})}
        )


@pytest.mark.parametrize("cut", [5, 40, -8])
def test_a_file_cut_short_is_not_a_problem(cut):
    data = a_town().problem().to_bytes()
    with pytest.raises(ArchiveError):
        PlacementProblem.from_bytes(data[:cut])


def test_a_solution_is_read_back_equal_and_leaves_wall_clock_out():
    empty = no_plan(a_town().problem(), SolveStatus.UNKNOWN, "cut off")
    full = dataclasses.replace(
        empty,
        bounds=(Bound("relaxation", "fleet", 10.0, 9.0, 0.1),),
        cost=Cost(energy_yuan=10.0),
        graph_patterns=(GraphPattern(0, (1,), (5.0,), (1.0, 0.0)),),
        work={"lp_solves": 3.0},
        seconds={"total": 1.5},
    )
    again = PlanSolution.from_bytes(full.to_bytes())
    assert (
        again.to_bytes() == full.to_bytes() == dataclasses.replace(full, seconds={"total": 99.0}).to_bytes()
    )
    assert (again.bounds, again.cost, again.graph_patterns) == (full.bounds, full.cost, full.graph_patterns)
    assert again.status is SolveStatus.UNKNOWN and not again.has_plan
    assert again.problem_sha256 == a_town().problem().content_hash()
