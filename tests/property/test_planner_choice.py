"""Choice of nodes on random cities: two ways to the same nodes, and the same nodes for the same state."""

from __future__ import annotations

import random
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from scheduler.planner.choice import NodeChoice, Ranges
from scheduler.planner.feasibility import Views
from scheduler.planner.fragmentation import fragmentation_of
from scheduler.planner.round import PatternCache, Placed, Round, place_all
from scheduler.planner.snapshot import Snapshot
from scheduler.planner.worth import PACKING_YUAN_PER_GPU_H
from tests.builders import City, PlainScorer, a_fleet, a_site, a_workload
from tests.property.test_planner_safety import play, some_fleet, some_workload

SEEDS = st.integers(0, 2**32 - 1)


class NodeByNode:
    """The plain scorer without its price per group: every node is priced and sorted by itself."""

    chunk = 0

    def __init__(self, plain: PlainScorer) -> None:
        self.group_cost, self.node_cost = plain.group_cost, plain.node_cost
        self.energy_yuan_per_hour, self.open_sites = plain.energy_yuan_per_hour, plain.open_sites
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
    """Without the packing measure both paths rank nodes by cost, then by what is free, then by number.

    That work without GPUs spares GPU nodes is a matter of tiers alone, and left out here.
    """
    city = crowded(seed)
    plain = city.strategy.plain
    by_node = placed_by(city, NodeByNode(plain), False)
    no_group = patch.object(NodeChoice, "_keeps_gpus", lambda self, view: np.zeros(len(view.group_ok), bool))
    with no_group:
        assert placed_by(city, plain, False) == by_node


@for_all(SEEDS)
@settings(max_examples=40, deadline=None)
def test_work_without_gpus_wakes_a_node_sooner_than_it_spoils_gpus(seed):
    """One more replica: on nodes that are on if no free GPU needs what it takes, else as dear as waking the node."""
    city = crowded(seed).submits(a_workload("last").cpu(random.Random(seed).choice((1, 2, 4))))
    moving, plain = city.moving(), city.strategy.plain
    snapshot, topology = moving.snapshot, moving.snapshot.topology
    view = snapshot.views[int(city.state.replicas["spec"][-1])]
    nodes = np.arange(topology.node_count)
    group, wake = topology.node_group, plain.wake_cost(view, snapshot)[topology.node_group]
    has_gpus = np.flatnonzero(topology.group_gpu_count[group] > 0)
    spoils = np.zeros(len(nodes), bool)
    spoils[has_gpus] = snapshot.fit_beside(view, has_gpus) == 0
    dear = snapshot.empty_node | spoils
    cost = plain.group_cost(view, snapshot)[group] + np.where(dear, wake, 0.0)
    has_power = snapshot.site_headroom(view)[topology.node_site] > 0
    cost = np.where((snapshot.fit(view, nodes) > 0) & view.group_ok[group] & has_power, cost, np.inf)
    among = Ranges.of_groups(view.group_ok, snapshot)
    found = NodeChoice(snapshot, plain, moving.kept, None).nodes_for(view, 1, np.inf, among)
    assert len(found) == 1 or not np.isfinite(cost).any()
    if len(found) and has_power[found[0]]:  # without power to wake a node one that is on may still take work
        assert cost[found[0]] == pytest.approx(cost.min())


@for_all(SEEDS)
@settings(max_examples=40, deadline=None)
def test_gpu_work_takes_the_node_of_the_cheapest_site_that_is_best_by_cost_and_packing_value_together(seed):
    """One more replica among others that run, against every node with room."""
    rng = random.Random(seed)
    fleet = a_fleet()
    for i in range(2):
        room = a_site(f"s{i}").gpus("l20", nodes=rng.randint(1, 3), per_node=2, cores=8)
        fleet.site(room.gpus("t4", nodes=rng.randint(1, 3), per_node=4, cores=rng.choice((4, 16))))
    city = City(fleet.build())
    city.strategy.plain = PlainScorer({f"s{i}": rng.choice((1.0, 1.2)) for i in range(2)})
    for i in range(rng.randint(1, 12)):
        city.submits(a_workload(f"w{i}").cpu(rng.choice((1, 3))).gpus(**some_gpus(rng)))
    city.when_planned().all_run()
    work = a_workload("last").cpu(rng.choice((1, 2))).gpus(**some_gpus(rng))
    placed = placed_by(city.submits(work), city.strategy.plain, True)
    last = [p for p in placed if p.row == len(city.state.replicas["spec"]) - 1]
    assert city.state.topology is not None
    snapshot = Snapshot.take(city.state, Views(city.state.topology, city.state.shapes))
    view = snapshot.views[int(city.state.replicas["spec"][-1])]
    packing = fragmentation_of(city.state, snapshot)
    assert packing is not None
    at = np.flatnonzero(snapshot.fit(view, np.arange(snapshot.topology.node_count)) > 0)
    assert bool(last) == bool(len(at))
    if not last:
        return
    cost = city.strategy.plain.group_cost(view, snapshot)[snapshot.topology.node_group[at]]
    cost = cost + city.strategy.plain.node_cost(view, snapshot)[at]
    worth = cost + PACKING_YUAN_PER_GPU_H * packing.loss_milli(view, at) / 1000
    site = snapshot.topology.node_site[at]
    mine = int(np.flatnonzero(at == last[0].node)[0])
    assert cost[site == site[mine]].min() == pytest.approx(cost.min())
    assert worth[mine] == pytest.approx(worth[site == site[mine]].min())


def some_gpus(rng: random.Random) -> dict[str, int]:
    """Milli-GPUs on one or both of two models."""
    return {m: rng.choice((300, 500, 1000, 2000)) for m in rng.sample(("l20", "t4"), rng.randint(1, 2))}


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


@for_all(SEEDS)
@settings(max_examples=60, deadline=None)
def test_replicas_placed_in_turn_lie_where_working_them_out_together_puts_them(seed):
    """What is kept of each node from head to head, against every node with room looked at anew for each head."""
    city = crowded(seed)
    kept = placed_by(city, city.strategy.plain, True)
    with patch("scheduler.planner.choice.MAX_IN_TURN", 0):
        assert placed_by(city, city.strategy.plain, True) == kept


@for_all(SEEDS)
@settings(max_examples=25, deadline=None)
def test_a_round_that_reuses_what_earlier_rounds_computed_decides_as_one_that_computes_it_anew(seed):
    """Work comes and goes between the rounds; what was kept of nodes that changed since is not used."""
    city = crowded(seed)
    assert city.state.topology is not None
    views = Views(city.state.topology, city.state.shapes)
    rng = random.Random(seed)
    for i in range(6):
        work = (
            a_workload(f"more{i}").cpu(rng.choice((1, 3))).replicas(rng.randint(1, 4)).gpus(**some_gpus(rng))
        )
        if not city.cycle.admit(city.state, [work.build()])[0]:
            city.submits(work)
        if rng.random() < 0.5 and city.workloads:
            city.cancels(rng.choice(sorted(city.workloads)))
        afresh = Views(city.state.topology, city.state.shapes)
        reused, anew = (
            place_all(city.state, v, PatternCache(v), city.strategy.plain, city.now_s)[0]
            for v in (views, afresh)
        )
        assert reused.placed == anew.placed
        city.when_planned().all_run()
