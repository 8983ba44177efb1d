"""A gang moves whole to where the plan wants it when what it saves there pays for the move, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from cluster_sim.audit import audit_log
from scheduler.planner.audit import audit_placements
from scheduler.planner.feasibility import Views
from scheduler.planner.gang_moves import move_gangs
from scheduler.planner.moves import PlannedMove
from scheduler.planner.reserve import Reservations, Slot
from scheduler.planner.round import PatternCache
from scheduler.planner.snapshot import Snapshot
from suanli.model import EventKind, ReplicaPhase
from suanli.model.telemetry import ReplicaReport
from tests.builders import City, a_fleet, a_site, a_workload, given
from tests.placement_oracle import violations_of

HOUR_S = 3600
MEMBERS = 2
MOVE_YUAN = 2.0 * 8 * MEMBERS
"""The policy's price of moving 16 GPUs."""
DEARER_YUAN = 4.0
"""What a replica costs more an hour in the old room."""
CHECKPOINT_S = 600
NOBODY = 10**6


def a_gang(hours: float = 20, checkpoint_s: int = CHECKPOINT_S) -> a_workload:
    work = a_workload("gang").gpus(h20=8000).gang(MEMBERS).lasts(int(hours * HOUR_S))
    return work.preemptible(checkpoint_s)


def running_at_old(gang: a_workload, new_nodes: int = 2, *others: a_workload) -> City:
    """The gang lies in the room `old`, which has become dearer than `new` and from which the plan wants it away."""
    rooms = [
        a_site(s, "cloud").gpus("h20", nodes=n, per_node=8, cores=64)
        for s, n in (("old", 2), ("new", new_nodes))
    ]
    city = given(a_fleet(*rooms))
    city.strategy.plain.cost_by_site = {"new": 50.0}
    city.submits(gang, *others).when_planned().all_run().expect("gang", on="old", replicas=MEMBERS)
    city.strategy.plain.cost_by_site = {"old": 1.0 + DEARER_YUAN}
    return wants(city, {group_of(city, "new"): float(MEMBERS)})


def wants(city: City, quota: dict[int, float]) -> City:
    """What the plan wants of the gang's kind, by group."""
    row = int(city.state.rows_of(city.state.index_of["tenants/t/workloads/gang"]).start)
    city.strategy.plain.quotas = {int(city.state.replicas["spec"][row]): quota}
    return city


def group_of(city: City, site_id: str) -> int:
    assert city.state.topology is not None
    return int((city.state.topology.group_site == city.state.topology.site_ids.index(site_id)).argmax())


def proposed(city: City, budget: int = 100, kept_h: float = 0) -> list[PlannedMove]:
    """What would move now."""
    assert city.state.topology is not None
    views = Views(city.state.topology, city.state.shapes)
    snapshot = Snapshot.take(city.state, views)
    reservations = Reservations(snapshot, city.now_s)
    if kept_h:
        there = group_of(city, "new")
        nodes = city.state.topology.group_first_node[there] + np.arange(MEMBERS)
        reservations.keep(Slot(city.now_s + int(kept_h * HOUR_S), there, nodes), NOBODY)
    moves = move_gangs(
        city.state,
        snapshot,
        PatternCache(views),
        city.strategy.plain,
        city.now_s,
        budget,
        kept=reservations,
    )
    assert audit_placements(city.state, [m.placed for m in moves]) == []
    return moves


def test_all_members_start_together_elsewhere_from_the_last_checkpoint():
    city = running_at_old(a_gang())
    city.strategy.guide = {}
    city.when_planned(after_s=CHECKPOINT_S + 200)
    starts = [e.body["command"] for e in city.events(EventKind.REPLICA_START_ORDERED)][-MEMBERS:]
    assert {(c["site_id"], c["gang_size"]) for c in starts} == {("new", MEMBERS)}
    assert {c["done_work_s"] for c in starts} == {float(CHECKPOINT_S)}
    moved = [e.body for e in city.events(EventKind.REPLICA_MOVED)]
    assert {(m["from_site_id"], m["to_site_id"]) for m in moved} == {("old", "new")}
    assert len(moved) == MEMBERS
    assert city.events(EventKind.REPLICA_STOP_ORDERED) == [], "the old members go on until the new ones run"
    city.expect("gang", state="running")


def test_the_old_members_stop_when_the_new_ones_run_and_the_gang_goes_on():
    city = running_at_old(a_gang())
    city.strategy.guide = {}
    city.when_planned(after_s=CHECKPOINT_S + 200).all_run()
    stopped = [e.subject for e in city.events(EventKind.REPLICA_STOP_ORDERED)]
    assert len(stopped) == MEMBERS
    # a site ends the rest of a gang with the first member that stops
    phases = [ReplicaPhase.STOPPED, *[ReplicaPhase.LOST] * (MEMBERS - 1)]
    city.reports(
        *(
            ReplicaReport(placement_id=i, phase=phase, at_s=city.now_s + 30, done_work_s=CHECKPOINT_S)
            for i, phase in zip(stopped, phases, strict=True)
        )
    )
    city.when_planned().expect("gang", on="new", replicas=MEMBERS, state="running")
    assert violations_of(city) == []
    assert audit_log(city.log, city.fleet).violations == ()


def test_the_gain_is_what_it_saves_in_the_time_it_still_runs():
    (first, second) = proposed(running_at_old(a_gang(hours=10)))
    idle_yuan = 1e-3  # of a node for an hour: one falls asleep for each that wakes
    assert first.gain_yuan == pytest.approx(DEARER_YUAN * 10, abs=10 * idle_yuan + 0.1)
    assert first.gain_yuan == second.gain_yuan
    assert first.cost_yuan + second.cost_yuan == pytest.approx(MOVE_YUAN, abs=0.2)


@pytest.mark.parametrize(("hours", "moves"), [(3, 0), (5, MEMBERS)])
def test_who_ends_before_the_gain_pays_for_the_move_stays(hours: float, moves: int):
    """4 yuan an hour for each of 2 members: 32 yuan are saved in four hours."""
    assert len(proposed(running_at_old(a_gang(hours=hours)))) == moves


def test_work_without_checkpoints_stays():
    assert proposed(running_at_old(a_gang(checkpoint_s=0))) == []


@pytest.mark.parametrize(("there", "moves"), [(0.9, 0), (1.0, MEMBERS)])
def test_it_moves_when_the_plan_wants_half_of_it_elsewhere(there: float, moves: int):
    city = running_at_old(a_gang())
    wants(city, {group_of(city, "old"): MEMBERS - there, group_of(city, "new"): there})
    assert len(proposed(city)) == moves


def test_a_gang_never_moves_in_part():
    assert proposed(running_at_old(a_gang(), 1)) == []


def test_the_budget_counts_every_member():
    assert proposed(running_at_old(a_gang()), budget=MEMBERS - 1) == []
    assert len(proposed(running_at_old(a_gang()), budget=MEMBERS)) == MEMBERS


@pytest.mark.parametrize(("kept_h", "moves"), [(10, 0), (30, MEMBERS)])
def test_nodes_kept_for_a_gang_that_waits_are_taken_only_for_less_long(kept_h: float, moves: int):
    assert len(proposed(running_at_old(a_gang(hours=20)), kept_h=kept_h)) == moves


def test_nobody_moves_to_a_site_that_the_plan_closes():
    city = running_at_old(a_gang())
    city.strategy.plain.closed = frozenset({"new"})
    assert proposed(city) == []
