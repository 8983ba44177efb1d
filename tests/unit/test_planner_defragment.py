"""Defragmentation: a gang that waits gets its nodes by moves that pay, and only by those."""

from __future__ import annotations

import numpy as np
import pytest

from cluster_sim.audit import audit_log
from scheduler.planner.audit import audit_placements
from scheduler.planner.defragment import (
    Defragmentation,
    defragment,
    no_longer_needed,
    undo_moves,
    waiting_gangs,
)
from scheduler.planner.feasibility import Views
from scheduler.planner.moves import leave_yuan
from scheduler.planner.snapshot import Snapshot
from suanli.model import EventKind, Policy, ReplicaPhase
from tests.builders import City, PlainScorer, a_fleet, a_site, a_workload, given, name_of

HOUR_S = 3600
GANG_GPUS = 2 * 8
LATENESS_YUAN = 5.0
MIGRATION_YUAN = 2.0
WAKE_YUAN = 1e-3
"""An hour of a node that is on, with the scorer of these tests."""


def two_rooms(cheaper_from: int = 24) -> City:
    """Room `full` with two 8-GPU nodes for the gang, room `spare` of the same model with two more."""
    sites = [a_site(s, "cloud").gpus("h20", nodes=2, per_node=8, cores=64) for s in ("full", "spare")]
    return given(a_fleet(*sites).cheaper_from(cheaper_from))


def fragmented(*names: str, gpu_milli: int = 1000) -> City:
    """Services spread over both nodes of `full`; a gang that may lie nowhere else needs both of them empty."""
    city = two_rooms()
    for name in names:
        city.submits(a_workload(name).gpus(h20=gpu_milli))
    city.strategy.plain.cost_by_site = {"spare": 50.0}
    city.when_planned().all_run()
    city.strategy.plain.cost_by_site = {}
    gang = a_workload("gang").gpus(h20=8000).gang(2).lasts(HOUR_S).at("full")
    return city.submits(gang).when_planned().expect_waiting("gang")


def proposed(city: City, budget: int = 100, scorer: PlainScorer | None = None) -> list[Defragmentation]:
    snapshot = Snapshot.take(city.state, views_of(city))
    return defragment(city.state, snapshot, scorer or city.strategy.plain, city.now_s, budget)


def views_of(city: City) -> Views:
    assert city.state.topology is not None
    return Views(city.state.topology, city.state.shapes)


def moved_names(city: City, helped: Defragmentation) -> set[str]:
    rows = [m.placed.row for m in helped.moves]
    return {city.state.names[int(city.state.replicas["workload"][r])].split("/")[3] for r in rows}


def test_a_service_leaves_the_nearly_empty_node_and_the_gang_then_fits():
    city = fragmented("chat")
    (helped,) = proposed(city)
    assert helped.gang == name_of("gang")
    assert moved_names(city, helped) == {"chat"}
    (move,) = helped.moves
    topology = city.state.topology
    assert topology is not None
    assert topology.site_ids[move.to_site] == "spare"
    assert audit_placements(city.state, [move.placed]) == []


def test_the_expected_start_counts_the_moves_of_the_next_plan():
    """Services never end, so without moves nothing could be promised; the plan on the hour clears the node."""
    city = fragmented("chat")
    assert city.explain("gang").expected_start is None, "no plan has been made yet: nobody moves"
    city.strategy.guide = {}
    city.apply(city.cycle.revise_policy(city.state, city.now_s, Policy(move_budget_per_hour=0)))
    city.when_planned(after_s=60)
    city.apply(city.cycle.revise_policy(city.state, city.now_s, Policy(move_budget_per_hour=10)))
    found = city.explain("gang").expected_start
    assert found is not None and "moves others to make room" in found.assumption
    plan_s = (city.now_s // HOUR_S + 1) * HOUR_S
    assert found.earliest_at_s == plan_s
    city.strategy.guide = {}
    city.when_planned(after_s=plan_s - city.now_s).all_run(30)
    city.when_planned(after_s=60).expect("gang", replicas=2)
    assert found.earliest_at_s <= city.now_s <= found.latest_at_s


def test_cost_is_the_price_of_moving_and_gain_the_hours_of_waiting_saved():
    """Services never end, so the gang would wait the full day that is counted at most."""
    (helped,) = proposed(fragmented("chat"))
    assert helped.saved_wait_h == 24.0
    assert helped.saved_lateness_yuan == GANG_GPUS * LATENESS_YUAN * 24.0
    assert helped.cost_yuan == pytest.approx(MIGRATION_YUAN + WAKE_YUAN * 6)


def test_hours_that_a_gang_waits_less_are_told_as_time_and_never_as_money_saved():
    """Two services share equally; neither saves energy where it goes."""
    (helped,) = proposed(fragmented("a", "b"))
    assert [m.gain_yuan for m in helped.moves] == [0.0, 0.0]
    assert [m.saved_wait_gpu_h for m in helped.moves] == [GANG_GPUS * 24.0 / 2] * 2
    assert [m.saved_lateness_yuan for m in helped.moves] == [GANG_GPUS * LATENESS_YUAN * 24.0 / 2] * 2


def test_cheaper_energy_at_the_new_place_is_money_saved():
    (helped,) = proposed(fragmented("chat"), scorer=PlainScorer({"full": 4.0}))
    (move,) = helped.moves
    assert move.gain_yuan == pytest.approx((4.0 - 1.0 - WAKE_YUAN) * 6)
    assert move.cost_yuan == pytest.approx(MIGRATION_YUAN)


def test_a_service_that_has_run_for_days_costs_no_more_to_move():
    city = fragmented("chat")
    (soon,) = proposed(city)
    city.now_s += 9 * 24 * HOUR_S
    (late,) = proposed(city)
    assert late.cost_yuan == soon.cost_yuan


def test_every_replica_that_is_in_the_way_moves_or_none():
    city = fragmented("a", "b", "c")
    (helped,) = proposed(city)
    assert moved_names(city, helped) == {"a", "b", "c"}
    assert proposed(city, budget=2) == []


def test_nothing_moves_when_moving_costs_more_than_waiting():
    city = fragmented("chat")
    dear = GANG_GPUS * LATENESS_YUAN * 24.0
    city.apply(city.cycle.revise_policy(city.state, city.now_s, Policy(migration_yuan_per_gpu=dear)))
    assert proposed(city) == []


def test_a_dearer_place_counts_for_as_long_as_the_replica_stays():
    city = fragmented("chat")
    yuan_per_h = GANG_GPUS * LATENESS_YUAN * 24.0 / 6.0
    assert proposed(city, scorer=PlainScorer({"spare": 1.0 + yuan_per_h})) == []
    assert proposed(city, scorer=PlainScorer({"spare": 1.0 + yuan_per_h * 0.9}))


def test_without_budget_nothing_moves():
    assert proposed(fragmented("chat"), budget=0) == []


def test_work_without_checkpoints_is_never_moved():
    city = (
        two_rooms()
        .submits(a_workload("job").gpus(h20=1000).lasts(99 * HOUR_S).at("full"))
        .when_planned()
        .all_run()
    )
    city.submits(a_workload("gang").gpus(h20=8000).gang(2).lasts(HOUR_S).at("full")).when_planned()
    assert proposed(city) == []


@pytest.mark.parametrize("ran_s", [0, 1800])
def test_work_with_checkpoints_moves_and_its_lost_work_is_counted(ran_s):
    """Half an hour since the last checkpoint is run again at one yuan per hour."""
    job = a_workload("job").gpus(h20=1000).lasts(99 * HOUR_S).preemptible(checkpoint_s=HOUR_S)
    city = two_rooms().submits(job)
    city.strategy.plain.cost_by_site = {"spare": 2.0}
    city.when_planned().all_run(after_s=0)
    city.strategy.plain.cost_by_site = {}
    city.submits(a_workload("gang").gpus(h20=8000).gang(2).lasts(HOUR_S).at("full")).when_planned(
        after_s=ran_s
    )
    (helped,) = proposed(city)
    wake_yuan = 1e-3 * 6.0
    assert helped.cost_yuan == pytest.approx(MIGRATION_YUAN + ran_s / HOUR_S * 1.0 + wake_yuan)


def test_a_gang_that_power_keeps_waiting_is_not_helped():
    """Room is there; moving others makes no power."""
    city = given(a_fleet(a_site("dc", "cloud").cpus(nodes=3, cores=4).power_limit_kw(0.65)))
    city.submits(a_workload("lamp").cpu(1)).when_planned().all_run(after_s=60)
    city.submits(a_workload("gang").cpu(4).gang(2).lasts(60)).when_planned().expect_waiting("gang")
    assert proposed(city) == []


def test_what_drains_already_is_not_moved_a_second_time():
    city = fragmented("chat")
    city.strategy.guide = {}
    city.when_planned(after_s=60)
    assert len(city.state.draining) == 1
    assert proposed(city) == []


def test_the_gang_starts_when_the_old_placement_has_ended():
    city = fragmented("chat")
    city.strategy.guide = {}
    city.when_planned(after_s=60).expect_waiting("gang")
    rival = a_workload("rival").gpus(h20=1000).at("full")
    city.submits(rival).when_planned(after_s=60).expect_waiting("rival")  # the nodes are kept meanwhile
    before = set(city.open_placements())
    city.all_run()
    old = [i for i in before if i.startswith(name_of("chat")) and i.endswith("#0")]
    city.reports(*((i, ReplicaPhase.STOPPED) for i in old)).when_planned(after_s=60)
    city.expect("gang", replicas=2)


def test_moves_for_a_gang_stand_in_plan_and_log_and_the_audit_finds_nothing():
    city = fragmented("chat")
    city.strategy.guide = {}
    city.when_planned(after_s=60).all_run()
    (moved,) = city.events(EventKind.REPLICA_MOVED)
    assert moved.body["makes_room_for"] == name_of("gang")
    assert moved.body["gain_yuan"] == 0.0
    assert moved.body["saved_wait_gpu_h"] == GANG_GPUS * 24.0
    assert moved.body["saved_lateness_yuan"] == GANG_GPUS * 24.0 * LATENESS_YUAN
    assert moved.body["cost_yuan"] == pytest.approx(MIGRATION_YUAN + WAKE_YUAN * 6, abs=1e-4)
    (shown,) = city.events(EventKind.ROUND_COMMITTED)[-1].body["moves"]
    assert shown["reason"] == f"makes room for {name_of('gang')}"
    assert shown.items() <= moved.body.items()
    stop_of_old(city)
    city.when_planned(after_s=60).expect("gang", replicas=2)
    assert city.events(EventKind.ROUND_COMMITTED)[-1].body["moved"] == 0
    assert audit_log(city.log, city.fleet).violations == ()
    assert city.replayed().digest() == city.state.digest()


def test_an_older_gang_does_not_take_the_room_that_was_made_for_another():
    """Both need both nodes; only for the larger one it pays to clear them."""
    city = two_rooms().submits(*(a_workload(name).gpus(h20=5000) for name in ("chat", "talk")))
    city.strategy.plain.cost_by_site = {"spare": 50.0}
    city.when_planned().all_run()
    city.strategy.plain.cost_by_site = {}
    price = 150.0
    assert 2 * 5 * LATENESS_YUAN * 24 < 2 * 5 * price < 2 * 8 * LATENESS_YUAN * 24
    city.apply(city.cycle.revise_policy(city.state, city.now_s, Policy(migration_yuan_per_gpu=price)))
    city.submits(a_workload("older").gpus(h20=5000).gang(2).lasts(HOUR_S).at("full")).when_planned(after_s=60)
    city.submits(a_workload("larger").gpus(h20=8000).gang(2).lasts(HOUR_S).at("full"))
    city.strategy.guide = {}
    city.when_planned(after_s=60).expect_waiting("older").expect_waiting("larger").all_run()
    stop_of_old(city, "chat", "talk")
    city.when_planned(after_s=60).expect("larger", replicas=2).expect_waiting("older")


def test_a_move_is_undone_by_the_plan_after_its_gang_is_gone_and_not_before():
    city = fragmented("chat")
    old_node = int(city.state.replicas["node"][0])
    city.strategy.guide = {}
    city.when_planned(after_s=60).all_run()
    stop_of_old(city)
    city.strategy.plain.cost_by_site = {"spare": 9.0}
    city.strategy.guide = {}
    city.when_planned(after_s=60).all_run().expect("gang", replicas=2)
    assert len(city.events(EventKind.REPLICA_MOVED)) == 1
    city.cancels("gang")
    for placement_id in [i for i in city.open_placements() if i.startswith(name_of("gang"))]:
        city.reports((placement_id, ReplicaPhase.STOPPED))
    city.strategy.guide = {}
    city.when_planned(after_s=60).all_run()
    assert int(city.state.replicas["node"][0]) == old_node
    back = city.events(EventKind.REPLICA_MOVED)[-1].body
    assert back["to_site_id"] == "full"
    assert back["gain_yuan"] == pytest.approx((9.0 - 1.0 + WAKE_YUAN) * 6)
    assert back["cost_yuan"] == MIGRATION_YUAN
    assert (back["saved_wait_gpu_h"], back["saved_lateness_yuan"]) == (0.0, 0.0)
    assert city.state.moved_for == {}
    assert audit_log(city.log, city.fleet).violations == ()


def test_undoing_keeps_to_the_budget():
    city = fragmented("chat")
    old_node = int(city.state.replicas["node"][0])
    city.strategy.guide = {}
    city.when_planned(after_s=60).all_run()
    stop_of_old(city)
    city.cancels("gang")
    assert no_longer_needed(city.state) == [(0, old_node)]
    dear = PlainScorer({"spare": 9.0})
    assert undo_moves(city.moving(dear), budget=0) == []
    assert len(undo_moves(city.moving(dear), budget=1)) == 1


def stop_of_old(city: City, *names: str) -> None:
    """The sites say that the first placements of the services have ended."""
    mine = tuple(map(name_of, names or ("chat",)))
    old = [i for i in city.open_placements() if i.startswith(mine) and i.endswith("#0")]
    city.reports(*((i, ReplicaPhase.STOPPED) for i in old))


def test_deferrable_gangs_that_wait_for_their_hour_are_left_alone():
    city = two_rooms(cheaper_from=6)
    gang = a_workload("gang").gpus(h20=8000).gang(2).lasts(HOUR_S).deferrable(city.now_s + 99 * HOUR_S)
    city.submits(gang)
    assert waiting_gangs(city.state, city.now_s) == []


def moved_for_a_gang_that_is_gone() -> tuple[City, int]:
    """(the city after the gang was cancelled, the node that made room for it)."""
    city = fragmented("chat")
    city.strategy.guide = {}
    old_node = int(city.state.replicas["node"][0])
    city.when_planned(after_s=60).all_run()
    old = [i for i in city.open_placements() if i.startswith(name_of("chat")) and i.endswith("#0")]
    city.reports(*((i, ReplicaPhase.STOPPED) for i in old)).cancels("gang")
    return city, old_node


def test_undo_brings_back_what_was_moved_for_a_gang_that_is_gone():
    city, old_node = moved_for_a_gang_that_is_gone()
    (back,) = undo_moves(city.moving(PlainScorer({"spare": 9.0})), budget=9)
    assert back.placed.node == old_node
    assert back.gain_yuan == pytest.approx((9.0 - 1.0 + WAKE_YUAN) * 6)
    assert back.cost_yuan == MIGRATION_YUAN
    assert audit_placements(city.state, [back.placed]) == []


def test_undo_leaves_alone_what_is_no_dearer_where_it_is():
    city, _ = moved_for_a_gang_that_is_gone()
    assert undo_moves(city.moving(PlainScorer()), budget=9) == []


DEARER_YUAN = 8.0
"""What a replica costs more an hour in `spare` than in `full`."""


def test_the_gain_of_going_back_is_energy_whether_the_site_it_leaves_is_closed_or_not():
    """Dearer by 8 yuan for six hours, and the node that then sleeps; no wall around the site."""
    for closed in (frozenset[str](), frozenset({"spare"})):
        city, _ = moved_for_a_gang_that_is_gone()
        scorer = PlainScorer({"spare": 1.0 + DEARER_YUAN}, closed=closed)
        (back,) = undo_moves(city.moving(scorer), budget=9)
        assert back.gain_yuan == pytest.approx((DEARER_YUAN + WAKE_YUAN) * 6)


def test_nobody_goes_back_to_a_site_that_is_closed_by_now():
    city, _ = moved_for_a_gang_that_is_gone()
    scorer = PlainScorer({"spare": 1.0 + DEARER_YUAN}, closed=frozenset({"full"}))
    assert undo_moves(city.moving(scorer), budget=9) == []


def test_nobody_makes_room_by_going_to_a_closed_site_however_much_the_gang_gains():
    city = fragmented("chat")
    gang = city.workloads[name_of("gang")]
    assert gang.lateness_yuan_per_gpu_hour == LATENESS_YUAN
    assert len(proposed(city, scorer=PlainScorer())) == 1
    assert proposed(city, scorer=PlainScorer({"spare": 1e-6}, closed=frozenset({"spare"}))) == []


def test_who_lies_at_a_closed_site_may_make_room_within_it():
    """It opens nothing that is not open."""
    city = given(a_fleet(a_site("full", "cloud").gpus("h20", nodes=3, per_node=8, cores=64)))
    for name, gpus in (("job", 4), ("chat", 1), ("talk", 1)):
        filler = a_workload(f"{name}-gone").gpus(h20=(8 - gpus) * 1000).lasts(HOUR_S)
        mine = a_workload(name).gpus(h20=gpus * 1000)
        city.submits(mine.lasts(99 * HOUR_S) if name == "job" else mine, filler).when_planned().all_run()
    for name in ("job", "chat", "talk"):
        city.cancels(f"{name}-gone")
    city.submits(a_workload("gang").gpus(h20=8000).gang(2).lasts(HOUR_S)).when_planned(after_s=60)
    (helped,) = proposed(city, scorer=PlainScorer(closed=frozenset({"full"})))
    assert moved_names(city, helped) == {"chat", "talk"}


def test_work_done_twice_costs_its_energy_at_a_closed_site_as_at_an_open_one():
    """Half an hour since the last checkpoint, at one yuan per hour."""
    job = a_workload("job").gpus(h20=1000).lasts(99 * HOUR_S).preemptible(checkpoint_s=HOUR_S)
    city = two_rooms().submits(job).when_planned().all_run(after_s=0)
    city.now_s += HOUR_S // 2
    (site_id,) = city.sites_of("job")
    snapshot = Snapshot.take(city.state, views_of(city))
    for closed in (frozenset[str](), frozenset({site_id})):
        cost = leave_yuan(city.state, snapshot, PlainScorer(closed=closed), np.array([0]), city.now_s)
        assert cost == {0: pytest.approx(MIGRATION_YUAN + 0.5 * 1.0)}
