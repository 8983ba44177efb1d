"""Consolidation: a node is emptied when the idle energy of its sleep pays for the moves, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.planner.audit import audit_placements
from scheduler.planner.consolidate import consolidate
from scheduler.planner.moves import PlannedMove
from scheduler.planner.scoring import GuidedScorer
from suanli.model import EventKind, Policy, ReplicaPhase
from tests.builders import City, a_fleet, a_site, a_workload, given, name_of
from tests.placement_oracle import violations_of

HOUR_S = 3600
WAKE_YUAN_PER_HOUR = 1e-3
"""What a sleeping node costs with the scorer of these tests."""


def two_half_empty_nodes(nodes: int = 2, **fields: object) -> City:
    """Two nodes of four cores that were full; two thirds have ended, and one core is left on each."""
    city = given(a_fleet(a_site("e01").cpus(nodes=nodes, cores=4)))
    for name in ("a", "b"):
        city.submits(a_workload(name), a_workload(f"{name}-gone").cpu(3)).when_planned().all_run()
    assert len({place.node_index for name in "ab" for place in city.placements(name).values()}) == 2
    return city.cancels("a-gone").cancels("b-gone").when_planned(after_s=100)


def proposed(
    city: City, budget: int = 100, kept: tuple[int, ...] = (), leaving: tuple[int, ...] = ()
) -> list[PlannedMove]:
    moving = city.moving()
    moving.kept.close(kept)
    return consolidate(moving, budget, leaving)


def test_one_of_two_half_empty_nodes_is_emptied():
    city = two_half_empty_nodes()
    (move,) = proposed(city)
    assert move.reason == "lets its node sleep"
    assert move.from_site == move.to_site
    assert move.gain_yuan == pytest.approx(WAKE_YUAN_PER_HOUR * 6.0)
    assert audit_placements(city.state, [move.placed]) == []


def test_the_plan_carries_it_out_and_the_node_sleeps():
    city = two_half_empty_nodes()
    city.strategy.guide = {}
    city.when_planned(after_s=60).all_run(30)
    (moved,) = city.events(EventKind.REPLICA_MOVED)
    assert moved.body["reason"] == "lets its node sleep"
    stopped = [e.subject for e in city.events(EventKind.REPLICA_STOP_ORDERED) if e.at_s == city.now_s]
    city.reports(*((i, ReplicaPhase.STOPPED) for i in stopped)).when_planned()
    assert len({p.node_index for n in "ab" for p in city.placements(n).values()}) == 1
    assert violations_of(city) == []
    city.strategy.guide = {}
    before = len(city.log)
    city.when_planned(after_s=HOUR_S)
    assert not [e for e in city.log[before:] if e.kind is EventKind.REPLICA_MOVED], "once is enough"


def test_nothing_moves_when_the_moves_cost_more_than_the_sleep_saves():
    fleet = a_fleet(a_site("dc", "cloud").gpus("h20", nodes=2, per_node=2, cores=8))
    city = given(fleet)
    for name in ("a", "b"):
        city.submits(a_workload(name).gpus(h20=1000), a_workload(f"{name}-gone").gpus(h20=1000))
        city.when_planned().all_run()
    city.cancels("a-gone").cancels("b-gone").when_planned(after_s=100)
    assert proposed(city) == [], "two yuan a GPU against six thousandths"
    city.apply(city.cycle.revise_policy(city.state, city.now_s, Policy(migration_yuan_per_gpu=0.0)))
    assert len(proposed(city)) == 1


def test_a_node_that_no_other_has_room_for_stays_on():
    city = two_half_empty_nodes()
    city.submits(a_workload("c").cpu(3), a_workload("d").cpu(3)).when_planned().all_run()
    assert proposed(city) == []


def test_nobody_is_moved_onto_a_node_that_sleeps():
    """A third node is free and off; moving there would only change which node is on."""
    city = two_half_empty_nodes(nodes=3)
    (move,) = proposed(city)
    asleep = set(range(3)) - {p.node_index for x in "ab" for p in city.placements(x).values()}
    assert move.placed.node not in asleep


def test_work_that_would_begin_anew_keeps_its_node_on():
    city = given(a_fleet(a_site("e01").cpus(nodes=2, cores=4)))
    for name in ("a", "b"):
        city.submits(a_workload(name).lasts(99 * HOUR_S), a_workload(f"{name}-gone").cpu(3))
        city.when_planned().all_run()
    city.cancels("a-gone").cancels("b-gone").when_planned(after_s=100)
    assert proposed(city) == []


def test_budget_kept_nodes_and_what_leaves_anyway_are_respected():
    city = two_half_empty_nodes()
    assert proposed(city, budget=0) == []
    assert proposed(city, kept=(0, 1)) == []
    rows = [city.state.rows_of(city.state.index_of[name_of(n)]).start for n in "ab"]
    assert proposed(city, leaving=tuple(rows)) == []


def services_left_alone_on_a_gpu_node(gpu_idle_w: float) -> City:
    """The training that a GPU node was on for has ended; a node of 300 W without GPU sleeps."""
    site = a_site("dc", "cloud").gpus("h20", cores=8).cpus(cores=8)
    site.groups[0] = site.groups[0].model_copy(update={"idle_w": gpu_idle_w})
    city = given(a_fleet(site))
    city.submits(a_workload("train").gpus(h20=4000), a_workload("web").replicas(2)).when_planned().all_run()
    assert {p.node_index for p in city.placements("web").values()} == {0}
    return city.cancels("train").when_planned(after_s=100)


def by_idle_power(city: City) -> list[PlannedMove]:
    """Moves where waking costs a node's idle power, one yuan a kilowatt-hour."""
    sites = len(city.fleet.sites)
    scorer = GuidedScorer(np.ones(sites), np.ones(sites, bool), np.zeros(sites))
    return consolidate(city.moving(scorer), 100)


def test_services_left_alone_on_a_gpu_node_go_to_a_sleeping_node_that_idles_at_less_power():
    moves = by_idle_power(services_left_alone_on_a_gpu_node(1500))
    assert [m.placed.node for m in moves] == [1, 1]
    assert sum(m.gain_yuan for m in moves) == pytest.approx(1.5 * 6.0)
    assert sum(m.cost_yuan for m in moves) == pytest.approx(0.3 * 6.0), "one node wakes"
    assert by_idle_power(services_left_alone_on_a_gpu_node(300)) == [], "nothing is saved"


def test_waking_is_paid_for_as_long_as_the_last_who_comes_stays():
    """Three cores a sleeper: jobs that end soon come first, and the services that stay need the nodes for six hours."""
    site = a_site("dc", "cloud").gpus("h20", cores=8).cpus(nodes=2, cores=3)
    site.groups[0] = site.groups[0].model_copy(update={"idle_w": 700})
    site.groups[1] = site.groups[1].model_copy(update={"idle_w": 400})
    city = given(a_fleet(site)).submits(a_workload("train").gpus(h20=4000)).when_planned().all_run()
    job = a_workload("job").cpu(2).replicas(2).lasts(HOUR_S).preemptible(checkpoint_s=60)
    city.submits(job, a_workload("web").replicas(2)).when_planned().all_run()
    assert {p.node_index for n in ("job", "web") for p in city.placements(n).values()} == {0}
    city.cancels("train").when_planned(after_s=HOUR_S // 3)
    assert by_idle_power(city) == [], "two nodes of 400 W for one of 700"


def test_a_service_that_is_spread_moves_only_where_its_spread_holds():
    """A replica on each of two nodes, with room on either: one may not join the other, but both may leave."""
    city = given(a_fleet(a_site("e01").cpus(nodes=3, cores=4)))
    city.submits(a_workload("pair").replicas(2).spread("node", 2)).when_planned().all_run()
    apart = {p.node_index for p in city.placements("pair").values()}
    assert len(apart) == 2
    assert proposed(city) == []
    city.submits(a_workload("a").cpu(3), a_workload("b").cpu(3), a_workload("c")).when_planned().all_run()
    city.cancels("a").when_planned(after_s=100)
    (move,) = proposed(city)
    assert move.placed.node not in apart
    assert audit_placements(city.state, [move.placed]) == []


def test_several_nodes_are_emptied_into_few_and_none_that_took_somebody_in():
    city = given(a_fleet(a_site("e01").cpus(nodes=5, cores=4)))
    for name in "abcde":
        city.submits(a_workload(name), a_workload(f"{name}-gone").cpu(3)).when_planned().all_run()
    for name in "abcde":
        city.cancels(f"{name}-gone")
    city.when_planned(after_s=100)
    moves = proposed(city)
    left = {int(city.state.replicas["node"][m.placed.row]) for m in moves}
    entered = {m.placed.node for m in moves}
    assert len(moves) == len(left) == 3, "five replicas of one core need two nodes of four"
    assert left.isdisjoint(entered)
