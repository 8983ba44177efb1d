"""Conflict sets proven by enumeration: with all of a set nothing places the workload, without any one member something.

The judge is `tests.placement_oracle.ask`: it tries every node for every replica of a tiny city and shares no code with
the planner.
"""

from __future__ import annotations

import random

from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from suanli.model import ReasonCode
from tests.builders import START_S, City, PlainScorer, PlainStrategy, a_fleet, a_site, a_workload, name_of
from tests.placement_oracle import ask

SEEDS = st.integers(0, 2**32 - 1)
TOO_LARGE = "needs more than the installed fleet has"


def tiny_city(rng: random.Random) -> City:
    """Two or three sites with at most six nodes, some of them full, some shut."""
    fleet = a_fleet()
    for i in range(rng.randint(2, 3)):
        site = (
            a_site(f"s{i}").rtt(rng.choice((0.0, 4.0, 9.0))).labels(residency=rng.choice(("open", "closed")))
        )
        if rng.random() < 0.7:
            site.cpus(nodes=rng.randint(1, 2), cores=2)
        if rng.random() < 0.6 or not site.groups:
            site.gpus(rng.choice(("l20", "t4")), nodes=rng.randint(1, 2), per_node=2, cores=2)
        fleet.site(site)
    city = City(fleet.build(), PlainStrategy(PlainScorer()))
    load = [
        a_workload(f"load{i}").cpu(rng.choice((1, 2))).at(f"s{rng.randrange(2)}")
        for i in range(rng.randint(0, 6))
    ]
    city.submits(*load).when_planned()
    if rng.random() < 0.4:
        city.apply(city.cycle.cordon(city.state, city.now_s, f"s{rng.randrange(2)}", True))
    return city


def asked_work(rng: random.Random) -> a_workload:
    """One workload with several rules, so that they may conflict."""
    work = a_workload("asked")
    if rng.random() < 0.3:
        work.stage("ingest", processing_p99_ms={"cpu": 3.0}).stage("sync", processing_p99_ms={"cpu": 3.0})
        work.flow("stages/ingest", "stages/sync", rng.choice((None, 6.0)))
        if rng.random() < 0.5:
            work.path(rng.choice((8.0, 14.0, 30.0)), "zones/z1", "stages/ingest", "stages/sync")
        if rng.random() < 0.4:
            work.stages[1]["colocate_with"] = "ingest"
    else:
        work.cpu(rng.choice((1, 2)))
        if rng.random() < 0.5:
            work.gpus(**{rng.choice(("l20", "t4")): rng.choice((500, 1000, 2000))})
            work.stages[-1]["gpu_memory_mib"] = rng.choice((0, 24 * 1024))
        count = rng.randint(1, 3)
        kind = rng.choice(("plain", "gang", "spread"))
        if kind == "gang":
            work.gang(count)
        elif kind == "spread":
            work.replicas(count).spread(rng.choice(("node", "site")), rng.randint(1, count))
        else:
            work.replicas(count)
        if rng.random() < 0.4:
            work.path(rng.choice((2.0, 6.0, 11.0)), "zones/z1", "stages/main")
    if rng.random() < 0.5:
        work.within(rng.choice((1.5, 5.5, 11.0)))
    for stage in work.stages:
        if rng.random() < 0.4:
            stage["require_any"] = ({"residency": rng.choice(("open", "closed"))},)
        if rng.random() < 0.3:
            stage["site_ids"] = tuple(rng.sample(("s0", "s1"), rng.randint(1, 2)))
    if rng.random() < 0.1:
        work.not_before(START_S + 3600)
    return work


def possible(city: City, work: a_workload) -> bool:
    """Whether it is accepted."""
    return not city.cycle.admit(city.state, [work.build()])[0]


def check(seed: int) -> str:
    """Ask about one random workload; what was found out about it."""
    rng = random.Random(seed)
    city = tiny_city(rng)
    work = next((w for w in (asked_work(rng) for _ in range(20)) if possible(city, w)), None)
    if work is None:
        return "impossible"
    city.submits(work).when_planned().when_planned()
    name = name_of("asked")
    found = city.explain(name)
    if not found.reasons and not found.conflict:
        return "placed"
    assert found.conflict, f"it waits, and no rule is named: {found.summary}"
    rules = frozenset(found.conflict)
    if TOO_LARGE in rules:
        assert not ask(city, name, frozenset()), "it would fit if nothing else were asked of it"
        return "too large"
    windows = {r for r in rules if r.startswith("not before")}
    if windows:
        assert rules == windows, "a start time blocks on its own"
        return "window"
    assert not ask(city, name, rules), f"placeable with all of {sorted(rules)}"
    for rule in found.conflict:
        assert ask(city, name, rules - {rule}), f"not placeable without {rule!r} of {sorted(rules)}"
    return "conflict"


@for_all(SEEDS)
@settings(max_examples=150)
def test_the_conflict_is_sufficient_and_minimal(seed):
    check(seed)


def test_the_random_cases_do_reach_conflicts_of_many_kinds():
    """The property above is worth something only if it meets conflicts often."""
    outcomes = [check(seed) for seed in range(80)]
    assert outcomes.count("conflict") >= 20
    assert "placed" in outcomes


@for_all(SEEDS)
@settings(max_examples=60)
def test_every_site_is_chosen_or_has_a_reason_or_says_why_it_lost(seed):
    rng = random.Random(seed)
    city, work = tiny_city(rng), asked_work(rng)
    if not possible(city, work):
        return
    city.submits(work).when_planned()
    stages = {s.stage_id for s in work.build().stages}
    found = city.explain("asked")
    assert {(c.stage_id, c.site_id) for c in found.candidates} == {
        (s, site.site_id) for s in stages for site in city.fleet.sites
    }
    for c in found.candidates:
        assert c.chosen != bool(c.lost_because), (
            f"{c.site_id}: chosen {c.chosen}, lost because {c.lost_because!r}"
        )
        assert c.feasible or c.reasons, f"{c.site_id} is ruled out without a reason"
    if found.reasons:
        named = {r.site_id for r in found.reasons if r.site_id}
        blocked = {r for r in found.reasons if r.code is ReasonCode.NOT_BEFORE}
        free = [s.site_id for s in city.fleet.sites if s.site_id not in named]
        assert blocked or not free or len(stages) > 1 or not _one_replica(work), f"nothing said about {free}"


def _one_replica(work: a_workload) -> bool:
    return all(s.get("replicas", 1) == 1 for s in work.stages)
