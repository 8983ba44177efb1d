"""A gang moves whole to where the plan wants it when what it saves there pays for the move, and only then."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from cluster_sim.audit import audit_log
from scheduler.planner.audit import audit_placements
from scheduler.planner.feasibility import Views
from scheduler.planner.folds import folds_of
from scheduler.planner.gang_moves import move_gangs
from scheduler.planner.marginal import marginal_ipue
from scheduler.planner.moves import PlannedMove, hours_left
from scheduler.planner.reserve import Slot
from suanli.model import EventKind, ReplicaPhase
from suanli.model.telemetry import ReplicaReport
from tests.builders import City, a_fleet, a_site, a_workload, given, name_of
from tests.placement_oracle import violations_of

HOUR_S = 3600
MEMBERS = 2
MOVE_YUAN = 2.0 * 8 * MEMBERS
"""The policy's price of moving 16 GPUs."""
DEARER_YUAN = 4.0
"""What a replica costs more an hour in the old room."""
CHECKPOINT_S = 600
NOBODY = 10**6


def a_gang(hours: float = 20, checkpoint_s: int = CHECKPOINT_S, name: str = "gang") -> a_workload:
    work = a_workload(name).gpus(h20=8000).gang(MEMBERS).lasts(int(hours * HOUR_S))
    return work.preemptible(checkpoint_s)


def running_at_old(
    gang: a_workload,
    new_nodes: int = 2,
    *others: a_workload,
    old_nodes: int = 2,
    old_gpus: int = 8,
    new_gpus: int = 8,
    yuan_per_kwh: tuple[float, ...] = (1.0,),
) -> City:
    """The gang lies in the room `old`, which has become dearer than `new` and from which the plan wants it away."""
    rooms = [
        a_site(s, "cloud").gpus("h20", nodes=n, per_node=g, cores=64)
        for s, n, g in (("old", old_nodes, old_gpus), ("new", new_nodes, new_gpus))
    ]
    city = given(a_fleet(*rooms).priced(*yuan_per_kwh))
    city.strategy.plain.cost_by_site = {"new": 50.0}
    city.submits(gang, *others).when_planned().all_run().expect("gang", on="old", replicas=MEMBERS)
    city.strategy.plain.cost_by_site = {"old": 1.0 + DEARER_YUAN}
    return wants(city, {group_of(city, "new"): float(MEMBERS)})


def wants(city: City, quota: dict[int, float]) -> City:
    """What the plan wants of the gang's kind, by group."""
    city.strategy.plain.quotas = {folds_of(views_of(city)).of(spec_of(city, "gang")): quota}
    return city


def rows_of(city: City, name: str) -> range:
    rows = city.state.rows_of(city.state.index_of[name_of(name)])
    return range(rows.start, rows.stop)


def spec_of(city: City, name: str) -> int:
    return int(city.state.replicas["spec"][rows_of(city, name).start])


def views_of(city: City) -> Views:
    assert city.state.topology is not None
    return Views(city.state.topology, city.state.shapes)


def group_of(city: City, site_id: str) -> int:
    assert city.state.topology is not None
    return int((city.state.topology.group_site == city.state.topology.site_ids.index(site_id)).argmax())


def proposed(
    city: City, budget: int = 100, kept_h: float = 0, leaving: Collection[int] = ()
) -> list[PlannedMove]:
    """What would move now."""
    moving = city.moving()
    if kept_h:
        there, topology = group_of(city, "new"), moving.snapshot.topology
        nodes = topology.group_first_node[there] + np.arange(MEMBERS)
        moving.kept.keep(Slot(city.now_s + int(kept_h * HOUR_S), there, nodes), NOBODY)
    moves = move_gangs(moving, budget, leaving)
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


def hours_of(city: City, name: str = "gang") -> float:
    return hours_left(city.state, rows_of(city, name).start, city.now_s)


def test_the_gain_is_what_it_saves_in_the_time_it_still_runs():
    city = running_at_old(a_gang(hours=10))
    (first, second) = proposed(city)
    assert hours_of(city) == pytest.approx(10, abs=0.02)
    assert first.gain_yuan == pytest.approx(DEARER_YUAN * hours_of(city))  # as many nodes sleep as wake
    assert first.gain_yuan == second.gain_yuan
    again_s = city.now_s - int(city.state.replicas["running_s"][first.placed.row])
    again_yuan = again_s / HOUR_S * (1.0 + DEARER_YUAN)
    assert first.cost_yuan == second.cost_yuan == pytest.approx(MOVE_YUAN / MEMBERS + again_yuan)


def test_every_hour_counts_at_its_own_tariff_and_what_a_ledger_adds_stays():
    """Five hours at one yuan per kWh, then at a tenth; at `old` the price is more than the tariff makes it."""
    city = running_at_old(a_gang(hours=9.5), yuan_per_kwh=(1.0,) * 5 + (0.1,))
    topology = city.state.topology
    assert topology is not None
    ipue = float(marginal_ipue(city.state, city.now_s)[topology.group_site[group_of(city, "old")]])
    kw = float(views_of(city)[spec_of(city, "gang")].watts[group_of(city, "old")]) / 1000
    price_old, price_new = (1.0 + DEARER_YUAN) / kw, 1.0 / kw
    assert price_new < 1.0 < ipue < price_old, "new: all of it tariff; old: some of it ledger"
    hours = hours_of(city)
    tariff_hours = 5 * 1.0 + (hours - 5) * 0.1
    old_yuan = kw * (ipue * tariff_hours + (price_old - ipue) * hours)
    new_yuan = kw * price_new * tariff_hours
    moves = proposed(city)
    assert sum(m.gain_yuan for m in moves) == pytest.approx(MEMBERS * (old_yuan - new_yuan))
    assert len(moves) == MEMBERS


def test_energy_that_is_free_now_makes_no_later_hour_dearer_than_its_tariff():
    """Both rooms pay the same tariff later, so the difference of now stays."""
    city = running_at_old(a_gang(hours=10), yuan_per_kwh=(0.0, 1.0))
    moves = proposed(city)
    assert sum(m.gain_yuan for m in moves) == pytest.approx(MEMBERS * DEARER_YUAN * hours_of(city))


WAKE_YUAN = 1.5
"""An hour of a node that is on."""


def test_nodes_that_fall_asleep_are_a_gain_beyond_those_that_wake():
    """Two nodes of eight GPUs sleep, one of sixteen wakes."""
    city = running_at_old(a_gang(hours=10), new_nodes=1, new_gpus=16)
    city.strategy.plain.wake_yuan = WAKE_YUAN
    moves = proposed(city)
    gain_yuan = (MEMBERS * DEARER_YUAN + (2 - 1) * WAKE_YUAN) * hours_of(city)
    assert sum(m.gain_yuan for m in moves) == pytest.approx(gain_yuan)


def test_nodes_that_wake_where_none_falls_asleep_count_against_the_move():
    """A service on each old node keeps it on."""
    services = [a_workload(f"chat{i}").gpus(h20=1000).at("old") for i in range(2)]
    city = running_at_old(a_gang(hours=10), 2, *services, old_gpus=9)
    assert {p.node_index for i in range(2) for p in city.placements(f"chat{i}").values()} == {0, 1}
    city.strategy.plain.wake_yuan = WAKE_YUAN
    moves = proposed(city)
    gain_yuan = (MEMBERS * DEARER_YUAN - 2 * WAKE_YUAN) * hours_of(city)
    assert sum(m.gain_yuan for m in moves) == pytest.approx(gain_yuan)
    city.strategy.plain.wake_yuan = DEARER_YUAN - MOVE_YUAN / (2 * hours_of(city)) + 0.01
    assert proposed(city) == [], "what is left does not pay for the move"


def two_gangs(wanted_there: int, new_nodes: int = 4, startup_s: int = 30) -> City:
    """`gang` has ten hours to go and `longer` twenty; the plan wants so many replicas of their kind in `new`."""
    longer = a_gang(hours=20, name="longer").starts_up_in(startup_s)
    city = running_at_old(a_gang(hours=10).starts_up_in(30), new_nodes, longer, old_nodes=4)
    city.expect("longer", on="old", replicas=MEMBERS)
    old = 2 * MEMBERS - wanted_there
    return wants(city, {group_of(city, "old"): float(old), group_of(city, "new"): float(wanted_there)})


def movers(city: City) -> set[str]:
    """Gangs of which something would move."""
    workloads = city.state.replicas["workload"]
    return {city.state.names[int(workloads[m.placed.row])].split("/")[3] for m in proposed(city)}


@pytest.mark.parametrize("startup_s", [30, 90], ids=["one-spec", "two-specs"])
def test_of_two_gangs_of_a_kind_only_as_many_move_as_the_plan_wants_there(startup_s: int):
    """Gangs that differ in start-up alone are two specs of one fold, and the plan counts them together."""
    city = two_gangs(MEMBERS, startup_s=startup_s)
    specs = {spec_of(city, "gang"), spec_of(city, "longer")}
    assert (len(specs), len({folds_of(views_of(city)).of(s) for s in specs})) == (1 + (startup_s != 30), 1)
    assert movers(city) == {"longer"}, "the one with most to gain"
    assert movers(two_gangs(2 * MEMBERS, startup_s=startup_s)) == {"gang", "longer"}


def test_what_the_plan_wants_in_the_old_room_stays_though_it_wants_more_in_the_new_one():
    """A third gang waits, and is to start there; who has moved no longer counts in the old room."""
    city = two_gangs(MEMBERS)
    wants(city, {group_of(city, "old"): float(MEMBERS), group_of(city, "new"): 2.0 * MEMBERS})
    assert movers(city) == {"longer"}


def test_where_room_is_for_one_the_gang_with_most_to_gain_gets_it():
    assert movers(two_gangs(2 * MEMBERS, new_nodes=2)) == {"longer"}


def test_a_gang_of_which_the_round_stops_a_member_stays():
    city = running_at_old(a_gang())
    assert proposed(city, leaving={rows_of(city, "gang")[-1]}) == []
    assert len(proposed(city, leaving={rows_of(city, "gang")[-1] + 1})) == MEMBERS


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
