"""Evacuation: a site that the plan closes is left by whole workloads when closing pays for the moves, and only then."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from cluster_sim.audit import audit_log
from scheduler.planner.audit import audit_placements
from scheduler.planner.evacuate import _Leaving, _worth_leaving, evacuate
from scheduler.planner.moves import TAKEOVER_H, PlannedMove
from scheduler.planner.round import Placed
from suanli.model import EventKind, ReplicaPhase
from suanli.model.telemetry import ReplicaReport
from tests.builders import City, PlainScorer, a_fleet, a_site, a_twin, a_workload, given, name_of
from tests.placement_oracle import violations_of

HOUR_S = 3600
CLOSING_YUAN = 3.0
WAKE_YUAN = 1e-3
"""What a sleeping node costs per hour with the scorer of these tests."""
WHOLE_LOOP_MS = 2 * 11 + 3 * 10.0
"""Of a twin at one site 10 ms from the hub; one hop to another site and back adds 20 ms each way."""


def running_at_e01(*works: a_workload, second: a_site | None = None, first: a_site | None = None) -> City:
    """Everything lies at the cheap room e01; e02 is dearer, and open."""
    first = first or a_site("e01").cpus(nodes=4, cores=4).rtt(10)
    fleet = a_fleet(first, second or a_site("e02").cpus(nodes=4, cores=4).rtt(10))
    city = given(fleet, PlainScorer({"e02": 5.0})).submits(*works).when_planned().all_run()
    for work in works:
        city.expect(work.name, on="e01")
    return city


def closes(city: City, site_id: str = "e01", yuan: float = CLOSING_YUAN) -> City:
    """The plan is about to say so: nothing has happened yet."""
    city.strategy.plain.closed = frozenset({site_id})
    city.strategy.plain.cost_by_site = {}
    site_ids = [s.site_id for s in city.fleet.sites]
    city.strategy.guide = {
        "closing_yuan_per_hour": [yuan if s == site_id else 0.0 for s in site_ids],
    }
    city.strategy.plain.closed = frozenset({site_id})
    return city


def proposed(
    city: City, budget: int = 100, kept: tuple[int, ...] = (), leaving: tuple[int, ...] = ()
) -> list[PlannedMove]:
    """What would move now."""
    moving = city.moving(guide=city.strategy.guide)
    moving.kept.close(kept)
    moves = evacuate(moving, budget, leaving)
    assert audit_placements(city.state, [m.placed for m in moves]) == []
    return moves


def after_the_plan(city: City) -> City:
    """The plan comes, its moves are carried out, the old placements stop, and rounds go on."""
    city.when_planned(after_s=60).all_run()
    stopped = [e.subject for e in city.events(EventKind.REPLICA_STOP_ORDERED)]
    city.reports(*((i, ReplicaPhase.STOPPED) for i in stopped)).when_planned()
    assert violations_of(city) == []
    assert audit_log(city.log, city.fleet).violations == ()
    return city


# ---------------------------------------------------------------------- who moves, and how


def test_a_twin_leaves_whole_and_never_stops_running():
    city = closes(running_at_e01(a_twin("t", WHOLE_LOOP_MS)))
    city.when_planned(after_s=60).expect("t", on={"e01", "e02"}, replicas=6, state="running")
    moved = [e.body for e in city.events(EventKind.REPLICA_MOVED)]
    assert {m["stage_id"] for m in moved} == {"ingest", "sync", "render"}
    assert {(m["from_site_id"], m["to_site_id"], m["reason"]) for m in moved} == {
        ("e01", "e02", "lets the site close")
    }
    assert sum(m["gain_yuan"] for m in moved) == pytest.approx(CLOSING_YUAN * (6 - TAKEOVER_H))
    assert sum(m["cost_yuan"] for m in moved) == pytest.approx(WAKE_YUAN * 6)
    after_the_plan(city).expect("t", on="e02", replicas=3, state="running")


def test_old_stages_serve_until_the_last_new_one_runs():
    """Half of the loop at each site would break its budget."""
    city = closes(running_at_e01(a_twin("t", WHOLE_LOOP_MS))).when_planned(after_s=60)
    *first, last = [e.subject for e in city.events(EventKind.REPLICA_MOVED)]
    city.reports(*((i, ReplicaPhase.RUNNING) for i in first), after_s=30)
    assert city.events(EventKind.REPLICA_STOP_ORDERED) == []
    ran_s = city.now_s + 30
    late = ReplicaReport(placement_id=last, phase=ReplicaPhase.RUNNING, at_s=ran_s)
    city.reports(late, after_s=300)
    assert {e.at_s for e in city.events(EventKind.REPLICA_STOP_ORDERED)} == {ran_s}, "reports may come late"
    assert {e.body["kind"] for e in city.events(EventKind.REPLICA_STOP_ORDERED)} == {"moved"}
    assert audit_log(city.log, city.fleet).violations == ()
    city.expect("t", on="e02", replicas=3, state="running")


def test_a_twin_goes_on_where_it_was_while_a_new_stage_that_was_lost_is_placed_again():
    city = closes(running_at_e01(a_twin("t", WHOLE_LOOP_MS))).when_planned(after_s=60)
    *first, last = [e.subject for e in city.events(EventKind.REPLICA_MOVED)]
    city.reports((last, ReplicaPhase.LOST), *((i, ReplicaPhase.RUNNING) for i in first), after_s=30)
    assert city.events(EventKind.REPLICA_STOP_ORDERED) == []
    after_the_plan(city).expect("t", on="e02", replicas=3, state="running")


def test_replicas_under_a_spread_rule_leave_together_and_stay_apart():
    city = closes(running_at_e01(a_workload("w").replicas(3).spread("node", 3)))
    after_the_plan(city).expect("w", on="e02", replicas=3)
    assert len({p.node_index for p in city.placements("w").values()}) == 3


def test_a_spread_over_sites_needs_a_third_site():
    sites = [a_site(s).cpus(nodes=2, cores=4) for s in ("e01", "e02")]
    work = a_workload("w").replicas(2).spread("site", 2)
    city = given(a_fleet(*sites)).submits(work).when_planned().all_run()
    assert proposed(closes(city)) == []
    sites.append(a_site("e03").cpus(nodes=2, cores=4))
    city = given(a_fleet(*sites), PlainScorer({"e03": 5.0})).submits(work).when_planned().all_run()
    after_the_plan(closes(city)).expect("w", on={"e02", "e03"}, replicas=2)


def test_what_lies_at_other_sites_stays_when_it_can():
    """Its ingest may only lie at e03; the loop has time for two hops between sites."""
    sites = [a_site(s).cpus(nodes=4, cores=4).rtt(10) for s in ("e01", "e02", "e03")]
    twin = a_twin("t", 200.0)
    twin.stages[0]["site_ids"] = ("e03",)
    twin.stages[1]["site_ids"] = twin.stages[2]["site_ids"] = ("e01", "e02")
    city = given(a_fleet(*sites), PlainScorer({"e02": 5.0})).submits(twin).when_planned().all_run()
    assert city.stage_sites("t") == {"ingest": "e03", "sync": "e01", "render": "e01"}
    after_the_plan(closes(city))
    assert city.stage_sites("t") == {"ingest": "e03", "sync": "e02", "render": "e02"}
    assert len(city.events(EventKind.REPLICA_MOVED)) == 2


def test_what_cannot_stay_beside_it_moves_along():
    """sync must leave e01 and ingest lies with it, wherever that is; render stays where it is."""
    sites = [a_site(s).cpus(nodes=4, cores=4).rtt(10) for s in ("e01", "e02")]
    twin = a_twin("t", 200.0)
    twin.stages[1]["site_ids"] = ("e01", "e02")
    twin.stages[2]["site_ids"] = ("e02",)
    twin.flow("stages/ingest", "stages/sync", 5.0)
    city = given(a_fleet(*sites), PlainScorer({"e02": 5.0})).submits(twin).when_planned().all_run()
    assert city.stage_sites("t") == {"ingest": "e01", "sync": "e01", "render": "e02"}
    after_the_plan(closes(city)).expect("t", on="e02", replicas=3)
    assert len(city.events(EventKind.REPLICA_MOVED)) == 2, "render stays"


def test_colocated_stages_move_together():
    twin = a_workload("t").stage("ingest").stage("sync", colocate_with="ingest")
    after_the_plan(closes(running_at_e01(twin))).expect("t", on="e02", replicas=2)


def test_simple_replicas_that_the_counts_of_the_plan_left_behind_leave_too():
    city = closes(running_at_e01(a_workload("rest").replicas(2), a_twin("t", WHOLE_LOOP_MS)))
    after_the_plan(city).expect("rest", on="e02", replicas=2).expect("t", on="e02", replicas=3)


# ---------------------------------------------------------------------- rules that keep it where it is


@pytest.mark.parametrize(
    "second",
    [
        a_site("e02").cpus(nodes=4, cores=4).rtt(11),
        a_site("e02").cpus(nodes=1, cores=2).rtt(10),
        a_site("e02").cpus(nodes=4, cores=4).rtt(10).power_limit_kw(0.3),
    ],
    ids=["too far for its path", "room for two stages only", "no power"],
)
def test_a_twin_stays_when_not_all_of_it_has_a_place(second: a_site):
    assert proposed(closes(running_at_e01(a_twin("t", WHOLE_LOOP_MS), second=second))) == []


def test_a_twin_stays_where_its_data_has_to():
    twin = a_twin("t", WHOLE_LOOP_MS)
    twin.stages[0]["require_any"] = ({"residency": "medical"},)
    first = a_site("e01").cpus(nodes=4, cores=4).rtt(10).labels(residency="medical")
    assert proposed(closes(running_at_e01(twin, first=first))) == []


def test_links_carry_the_old_and_the_new_while_it_moves():
    """ingest stays at e03; its traffic to the rest fits the link of e03 once, not twice."""

    def city_with(gbps: float) -> City:
        sites = [a_site(s).cpus(nodes=4, cores=4) for s in ("e01", "e02")]
        sites.append(a_site("e03").cpus(nodes=4, cores=4).uplink_gbps(gbps))
        twin = a_workload("t").stage("ingest", site_ids=("e03",)).stage("sync", site_ids=("e01", "e02"))
        twin.flow("stages/ingest", "stages/sync", mbps=700.0)
        city = given(a_fleet(*sites), PlainScorer({"e02": 5.0})).submits(twin).when_planned().all_run()
        return closes(city)

    assert proposed(city_with(gbps=1.0)) == []
    assert len(proposed(city_with(gbps=2.0))) == 1


def test_a_stage_that_others_share_stays_where_they_can_follow():
    """The guest keeps its data at e01, and its loop has no time for a store elsewhere."""
    guest = a_twin("guest", WHOLE_LOOP_MS)
    guest.stages[0]["site_ids"] = guest.stages[2]["site_ids"] = ("e01",)
    guest.stages[1]["shared_with"] = name_of("owner")
    assert proposed(closes(running_at_e01(a_twin("owner", WHOLE_LOOP_MS), guest))) == []


def test_an_owner_leaves_with_room_for_its_sharers_to_follow():
    """With time for one hop there and back the store moves first, and the guest moves beside its new place."""
    guest = a_twin("guest", WHOLE_LOOP_MS + 40)
    guest.stages[1]["shared_with"] = name_of("owner")
    city = closes(running_at_e01(a_twin("owner", WHOLE_LOOP_MS), guest))
    after_the_plan(city).expect("owner", on="e02", replicas=3).expect("guest", on="e02", replicas=2)


def test_owner_and_sharers_whose_loops_allow_no_hop_leave_together():
    guest = a_twin("guest", WHOLE_LOOP_MS)
    guest.stages[1]["shared_with"] = name_of("owner")
    city = closes(running_at_e01(a_twin("owner", WHOLE_LOOP_MS), guest))
    after_the_plan(city).expect("owner", on="e02", replicas=3).expect("guest", on="e02", replicas=2)


def test_an_owner_stays_when_a_sharer_that_had_to_follow_finds_no_room():
    guest = a_twin("guest", WHOLE_LOOP_MS)
    guest.stages[1]["shared_with"] = name_of("owner")
    second = a_site("e02").cpus(nodes=1, cores=4).rtt(10)
    assert proposed(closes(running_at_e01(a_twin("owner", WHOLE_LOOP_MS), guest, second=second))) == []


def test_gangs_and_work_without_checkpoints_stay_and_keep_the_site_open():
    for stays in (a_workload("g").gang(2), a_workload("b").lasts(99 * HOUR_S)):
        assert proposed(closes(running_at_e01(a_twin("t", WHOLE_LOOP_MS), stays))) == []


def test_budget_kept_nodes_and_what_leaves_anyway_are_respected():
    city = closes(running_at_e01(a_twin("t", WHOLE_LOOP_MS)))
    assert len(proposed(city, budget=3)) == 3
    assert proposed(city, budget=2) == [], "a twin moves whole"
    assert proposed(city, kept=tuple(range(8))) == []
    assert proposed(city, leaving=(0,)) == [], "what is being stopped in part does not move"


def test_nobody_leaves_an_open_site_and_once_is_enough():
    city = running_at_e01(a_twin("t", WHOLE_LOOP_MS))
    city.strategy.guide = {"closing_yuan_per_hour": [0.0, 0.0]}
    assert proposed(city) == []
    after_the_plan(closes(city))
    before = len(city.log)
    closes(city).when_planned(after_s=HOUR_S)
    assert not [e for e in city.log[before:] if e.kind is EventKind.REPLICA_MOVED]


# ---------------------------------------------------------------------- whether it pays


def test_nothing_moves_when_the_moves_cost_more_than_closing_saves():
    """Three GPUs at two yuan each; the site closes for six hours."""

    def city_with(closing_yuan: float) -> City:
        sites = [a_site(s).gpus("l20", nodes=2, per_node=4).rtt(10) for s in ("e01", "e02")]
        twin = a_twin("t", WHOLE_LOOP_MS)
        for stage in twin.stages:
            stage |= {"gpu_milli": {"l20": 1000}, "processing_p99_ms": {"l20": 10.0}}
        city = given(a_fleet(*sites), PlainScorer({"e02": 5.0})).submits(twin).when_planned().all_run()
        return closes(city, yuan=closing_yuan)

    moves_yuan = 3 * 2.0 + 6 * WAKE_YUAN
    closed_h = 6 - TAKEOVER_H
    assert proposed(city_with(moves_yuan / closed_h - 0.01)) == []
    assert len(proposed(city_with(moves_yuan / closed_h + 0.01))) == 3


def test_dearer_energy_counts_against_the_move():
    city = closes(running_at_e01(a_twin("t", WHOLE_LOOP_MS)))
    even_yuan = CLOSING_YUAN / 3 * (6 - TAKEOVER_H) / 6
    city.strategy.plain.cost_by_site = {"e02": 1.0 + even_yuan}
    assert proposed(city) == []
    city.strategy.plain.cost_by_site = {"e02": 1.0 + even_yuan - 0.01}
    assert len(proposed(city)) == 3


def test_who_ends_before_a_new_place_could_take_over_is_not_moved():
    city = running_at_e01(a_workload("w").lasts(HOUR_S).preemptible(60))
    city.now_s += HOUR_S - 60 - 30
    assert proposed(closes(city)) == []


def test_who_ends_before_the_others_could_be_gone_is_not_moved():
    """A session of an hour without checkpoints stays; a shorter one may stay too, and closing counts from then."""
    city = running_at_e01(
        a_twin("t", WHOLE_LOOP_MS),
        a_workload("hour").lasts(HOUR_S),
        a_workload("half").lasts(HOUR_S // 2).preemptible(60),
    )
    moves = proposed(closes(city))
    assert {city.state.names[int(city.state.replicas["workload"][m.placed.row])] for m in moves} == {
        name_of("t")
    }
    assert sum(m.gain_yuan for m in moves) == pytest.approx(CLOSING_YUAN * 5)


UNITS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), max_size=6)


@for_all(UNITS, st.integers(0, 6), st.integers(1, 5))
def test_no_other_choice_of_who_leaves_gains_more(units: list[tuple[int, int]], stay_h: int, closing: int):
    """Brute force over all subsets: the site is empty when the last of those who stay has ended."""
    found = [
        _Leaving((i,), float(hours), (Placed(i, 0, 0),), (float(yuan),))
        for i, (hours, yuan) in enumerate(units)
    ]
    last_h = max([0, *(h for h, _ in units)])

    def net(chosen: tuple[int, ...]) -> float:
        others = [h for i, (h, _) in enumerate(units) if i not in chosen]
        empty_h = max([stay_h, *others])
        return closing * max(0, last_h - empty_h) - sum(units[i][1] for i in chosen)

    best = max(net(c) for n in range(len(units) + 1) for c in combinations(range(len(units)), n))
    chosen = tuple(u.rows[0] for u in _worth_leaving(found, closing, float(stay_h)))
    assert net(chosen) == pytest.approx(best)
