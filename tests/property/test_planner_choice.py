"""Choice of nodes on random cities: two ways to the same nodes, and the same nodes for the same state."""

from __future__ import annotations

import random

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from scheduler.planner.feasibility import Views
from scheduler.planner.fragmentation import fragmentation_of
from scheduler.planner.round import PatternCache, Placed, Round, place_all
from scheduler.planner.snapshot import Snapshot
from tests.builders import City, PlainScorer
from tests.property.test_planner_safety import play, some_fleet, some_workload

SEEDS = st.integers(0, 2**32 - 1)


class NodeByNode:
    """The plain scorer without its price per group: every node is priced and sorted by itself."""

    chunk = 0

    def __init__(self, plain: PlainScorer) -> None:
        self.group_cost, self.node_cost = plain.group_cost, plain.node_cost
        self.quota, self.may_start_deferred = plain.quota, plain.may_start_deferred


def placed_by(city: City, scorer, with_packing: bool) -> list[Placed]:
    assert city.state.topology is not None
    views = Views(city.state.topology, city.state.shapes)
    snapshot = Snapshot.take(city.state, views)
    packing = fragmentation_of(city.state, snapshot) if with_packing else None
    return Round(city.state, snapshot, PatternCache(views), scorer, city.now_s, packing=packing).run().placed


def crowded(seed: int) -> City:
    """A random city in which some work lies already and more has just been submitted."""
    rng = random.Random(seed)
    scorer = PlainScorer({f"s{i}": rng.choice((1.0, 2.0, 2.0)) for i in range(4)})
    city = City(some_fleet(rng).build())
    city.strategy.plain = scorer
    for i in range(rng.randint(5, 30)):
        try:
            work = some_workload(rng, i).build()
        except ValueError:  # a spread wider than the replicas
            continue
        if not city.cycle.admit(city.state, [work])[0]:
            city.submits(work)
        if i == 10:
            city.when_planned().all_run()
    return city


@for_all(SEEDS)
@settings(max_examples=60, deadline=None)
def test_tiers_choose_what_sorting_every_node_chooses(seed):
    """Without the packing measure both paths rank nodes by cost, then by what is free, then by number."""
    city = crowded(seed)
    plain = city.strategy.plain
    assert placed_by(city, plain, False) == placed_by(city, NodeByNode(plain), False)


@for_all(SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_packing_measure_changes_where_work_lies_but_not_what_it_costs_at_the_first_choice(seed):
    """It only breaks ties: the first replica of a round goes to a node as cheap as without it."""
    city = crowded(seed)
    plain = city.strategy.plain
    with_it, without = placed_by(city, plain, True), placed_by(city, plain, False)
    if not with_it or not without:
        assert with_it == without
        return
    assert city.state.topology is not None
    snapshot = Snapshot.take(city.state, Views(city.state.topology, city.state.shapes))
    view = snapshot.views[int(city.state.replicas["spec"][with_it[0].row])]
    cost = plain.group_cost(view, snapshot)[snapshot.topology.node_group] + plain.node_cost(view, snapshot)
    assert with_it[0].row == without[0].row
    assert cost[with_it[0].node] == pytest.approx(cost[without[0].node])


@for_all(SEEDS)
@settings(max_examples=12, deadline=None)
def test_equal_states_give_equal_rounds_also_after_a_restart(seed):
    """The mix that packing expects is a function of the log."""
    city = play(seed, steps=8)
    assert city.state.topology is not None

    def placed_from(state):
        views = Views(state.topology, state.shapes)
        return place_all(state, views, PatternCache(views), city.strategy.plain, city.now_s + 60)[0].placed

    assert placed_from(city.state) == placed_from(city.replayed())
