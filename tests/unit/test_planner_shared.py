"""A stage that others share: placed with them where all together cost least, and nobody moves it away from them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from scheduler.planner.consolidate import consolidate
from scheduler.planner.moves import propose_moves
from suanli.model import EventKind, ReplicaPhase
from tests.builders import City, PlainScorer, a_fleet, a_site, a_workload, given, name_of
from tests.placement_oracle import violations_of

SITES = ("e01", "e02", "e03", "e04")
STAGES = ("ingest", "sync", "render")


def a_sharing_twin(name: str, owner: str = "", **limits: Any) -> a_workload:
    """ingest → sync → render without paths; `limits`: RTT between the stages, in order."""
    twin = a_workload(name)
    for stage_id in STAGES:
        twin.stage(stage_id)
    if owner:
        twin.stages[1]["shared_with"] = name_of(owner)
    for (a, b), limit in zip(itertools.pairwise(STAGES), limits["rtt_ms"], strict=True):
        twin.flow(f"stages/{a}", f"stages/{b}", limit)
    return twin


def rtt_ms(a: str, b: str, legs: dict[str, float]) -> float:
    return 0.0 if a == b else legs[a] + legs[b]


@pytest.mark.parametrize("seed", range(40))
def test_owner_and_sharers_that_arrive_together_cost_least_together(seed: int):
    """Against all ways to lay eight stages on four sites; sites differ in price, and stages in where they may lie."""
    rng = np.random.default_rng(seed)
    legs = {s: float(rng.choice([1.0, 6.0])) for s in SITES}
    price = {s: float(rng.integers(1, 30)) for s in SITES}
    limits = {n: tuple(float(x) for x in rng.choice([3.0, 8.0, 30.0], 2)) for n in ("o", "a", "b")}
    may = {
        (n, s): tuple(sorted(rng.choice(SITES, int(rng.integers(2, 4)), replace=False)))
        for n in ("o", "a", "b")
        for s in STAGES
    }
    twins = {n: a_sharing_twin(n, "" if n == "o" else "o", rtt_ms=limits[n]) for n in ("o", "a", "b")}
    for (n, s), sites in may.items():
        if not (n != "o" and s == "sync"):
            twins[n].stages[STAGES.index(s)]["site_ids"] = sites
    fleet = a_fleet(*(a_site(s).cpus(nodes=8, cores=4).rtt(legs[s]) for s in SITES))
    city = given(fleet, PlainScorer(price))
    works = [t.build() for t in twins.values()]
    if any(city.cycle.admit(city.state, works)):
        return

    def least(name: str, store: str) -> float:
        """Cheapest places of the stages beside a store at that site, on two sites at most; the owner's includes it."""
        costs = [
            price[i] + price[r] + (price[store] if name == "o" else 0.0)
            for i in may[name, "ingest"]
            for r in may[name, "render"]
            if rtt_ms(i, store, legs) <= limits[name][0] and rtt_ms(store, r, legs) <= limits[name][1]
            if len({i, store, r}) <= 2
        ]
        return min(costs, default=np.inf)

    city.submits(*twins.values()).when_planned()
    assert violations_of(city) == []
    options = [
        (
            sum(least(n, store) == np.inf for n in "ab"),
            sum(c for n in "oab" if (c := least(n, store)) < np.inf),
        )
        for store in may["o", "sync"]
        if least("o", store) < np.inf
    ]
    if not options:
        city.expect_waiting("o")
        return
    cost = sum(price[p.site_id] for n in "oab" for p in city.placements(n).values())
    waiting = sum(not city.placements(n) for n in "ab")
    assert (waiting, cost) == min(options)


def test_an_owner_pays_more_where_its_sharers_pay_much_less():
    """At e01 the owner costs 3 · 1, but its sharers reach only e03 from there: 4 · 20. At e02 it is 3 · 6 + 4 · 6."""
    sites = (a_site("e01").rtt(1.0), a_site("e02").rtt(6.0), a_site("e03").rtt(1.0))
    fleet = a_fleet(*(s.cpus(nodes=8, cores=4) for s in sites))
    guests = [a_sharing_twin(n, "o", rtt_ms=(3.0, 3.0)).at("e02", "e03") for n in "ab"]
    for guest in guests:
        guest.stages[0]["site_ids"] = guest.stages[2]["site_ids"]
    owner = a_sharing_twin("o", rtt_ms=(3.0, 3.0))
    city = given(fleet, PlainScorer({"e01": 1.0, "e02": 6.0, "e03": 20.0})).submits(owner, *guests)
    city.when_planned().expect("o", on="e02", replicas=3)
    city.expect("a", on="e02", replicas=2).expect("b", on="e02", replicas=2)


def a_store_and_its_users(store: a_workload) -> City:
    """Three guests who keep their data at e02, and a store of one stage that would be cheaper at e01."""
    fleet = a_fleet(a_site("e01").cpus(nodes=8, cores=4), a_site("e02").cpus(nodes=8, cores=4).rtt(10.0))
    guests = []
    for name in ("a", "b", "c"):
        guest = (
            a_workload(name).stage("ingest", site_ids=("e02",)).stage("sync", shared_with=name_of("store"))
        )
        guests.append(guest.flow("stages/ingest", "stages/sync", 5.0))
    return given(fleet, PlainScorer({"e02": 3.0})).submits(store, *guests)


def test_a_store_of_one_stage_lies_where_its_users_can_follow():
    city = a_store_and_its_users(a_workload("store").stage("sync").replicas(2)).when_planned()
    city.expect("store", on="e02", replicas=2)
    for name in "abc":
        city.expect(name, on="e02", replicas=1)
    assert violations_of(city) == []


def test_nobody_moves_a_store_away_from_its_users():
    city = a_store_and_its_users(a_workload("store").stage("sync")).when_planned().all_run()
    city.strategy.plain.cost_by_site = {"e02": 90.0}
    city.strategy.plain.quotas = {0: {0: 1.0}}
    assert propose_moves(city.moving(), 100) == []
    assert consolidate(city.moving(), 100) == []


def test_a_store_leaves_a_site_that_closes_when_its_users_can_follow():
    city = a_store_and_its_users(a_workload("store").stage("sync"))
    for name in "abc":
        city.cancels(name)
    guest = a_workload("d").stage("ingest").stage("sync", shared_with=name_of("store"))
    city.submits(guest).when_planned().all_run().expect("store", on="e01").expect("d", on="e01")
    city.strategy.plain.closed = frozenset({"e01"})
    city.strategy.guide = {"closing_yuan_per_hour": [9.0, 0.0]}
    city.when_planned(after_s=60).all_run()
    stopped = [e.subject for e in city.events(EventKind.REPLICA_STOP_ORDERED)]
    city.reports(*((i, ReplicaPhase.STOPPED) for i in stopped)).expect("store", on="e02").expect(
        "d", on="e02"
    )
    assert violations_of(city) == []


def test_a_stage_is_not_placed_beside_one_that_the_same_round_sends_elsewhere():
    """The owner lost its ingest and has to go to e02; its guest, which lost its own, waits until the store is there."""
    fleet = a_fleet(
        a_site("e01").cpus(nodes=8, cores=4).rtt(10), a_site("e02").cpus(nodes=8, cores=4).rtt(10)
    )
    owner = a_sharing_twin("o", rtt_ms=(5.0, 5.0))
    city = given(fleet, PlainScorer({"e02": 2.0})).submits(owner).when_planned().all_run()
    guest = a_sharing_twin("g", "o", rtt_ms=(None, None))
    guest.stages[2]["site_ids"] = ("e02",)
    city.submits(guest).when_planned().all_run().expect("o", on="e01")
    city.apply(city.cycle.cordon(city.state, city.now_s, "e01", True))
    lost = [i for n in ("o", "g") for i in city.placements(n) if "/ingest/" in i]
    city.reports(*((i, ReplicaPhase.LOST) for i in lost)).when_planned()
    started = [
        e.subject
        for e in city.log[-20:]
        if e.kind is EventKind.REPLICA_START_ORDERED and e.at_s == city.now_s
    ]
    assert not [i for i in started if "/g/" in i]
    city.reports(
        *((e.subject, ReplicaPhase.STOPPED) for e in city.events(EventKind.REPLICA_STOP_ORDERED)), after_s=5
    ).when_planned(after_s=60).expect("o", on="e02", replicas=3)
    city.expect("g", replicas=2)
    assert violations_of(city) == []
