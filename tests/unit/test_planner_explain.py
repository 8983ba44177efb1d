"""Explanations: the words (golden), the candidates that lost, why not there, the smallest change that would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.planner.explain import describe
from suanli.model import NotFound, Reason, ReasonCode
from tests.builders import START_S, PlainScorer, a_fleet, a_site, a_twin, a_workload, given, name_of

GOLDEN = Path(__file__).parent.parent / "golden" / "explanations.txt"


def near_and_far(near_cost: float = 1.0) -> a_fleet:
    return a_fleet(
        a_site("e01").gpus("l20", nodes=1, per_node=2, cores=8).labels(residency="medical"),
        a_site("e02").cpus(nodes=1, cores=8).rtt(4),
        a_site("dc", "cloud").gpus("h20", nodes=1, per_node=2, cores=8).rtt(20),
    )


def test_the_words_of_explanations(golden):
    """Every way of saying no, and whole answers, as people read them."""
    lines = ["reasons", *("  " + describe(Reason(code=code, site_id="e01")) for code in ReasonCode)]
    lines += [
        "  "
        + describe(
            Reason(code=ReasonCode.RTT_EXCEEDED, limit=20, actual=27.3, unit="ms", detail="from z1 by pon")
        ),
        "  " + describe(Reason(code=ReasonCode.NODE_TOO_SMALL, limit=8000, actual=16000, unit="cpu_milli")),
        "  " + describe(Reason(code=ReasonCode.GPU_SHORT, node_count=12)),
    ]
    city = given(near_and_far(), PlainScorer({"e01": 1.0, "e02": 2.0, "dc": 3.0}, closed=frozenset({"dc"})))
    city.submits(a_workload("placed").within(30.0)).when_planned()
    city.submits(
        a_workload("gpu").gpus(l20=2000),
        a_workload("full").gpus(l20=1000).within(5.0).resides({"residency": "medical"}),
        a_workload("gang").gpus(l20=1000).gang(2),
        a_workload("later").not_before(START_S + 3600),
    ).when_planned()
    for name in ("placed", "gpu", "full", "gang", "later"):
        found = city.explain(name)
        lines += ["", f"{name}: {found.summary}"]
        lines += [f"  reason {r.site_id or 'whole'}: {describe(r)}" for r in found.reasons]
        lines += [f"  conflict {c}" for c in found.conflict]
        lines += [f"  candidate {c.site_id}: {c.lost_because or 'chosen'}" for c in found.candidates]
        lines += [f"  relax {r.change}" for r in found.relaxations]
    golden(GOLDEN, "\n".join(lines) + "\n")


def test_the_chosen_site_and_why_each_other_lost():
    city = given(near_and_far(), PlainScorer({"e01": 1.0, "e02": 2.5, "dc": 1.0}, closed=frozenset({"dc"})))
    city.submits(a_workload("w")).when_planned()
    lost = {c.site_id: c.lost_because for c in city.explain("w").candidates}
    assert lost == {"e01": "", "e02": "dearer by 1.5000 yuan/h", "dc": "the plan keeps this site closed"}


def test_a_node_that_only_this_work_keeps_awake_counts_at_the_chosen_site_as_it_does_elsewhere():
    """Else a site that is 0.5 dearer would be told to be dearer by the idle power of a node as well."""
    city = given(near_and_far(), PlainScorer({"e01": 1.0, "e02": 1.5, "dc": 9.0})).submits(a_workload("w"))
    asked = city.when_planned().explain("w")
    costs = {c.site_id: c.cost_terms_yuan_per_hour for c in asked.candidates}
    assert costs["e01"] == {"energy": 1.0, "wake": 0.001}
    assert costs["e02"] == {"energy": 1.5, "wake": 0.001}
    # beside other work the node is awake anyway
    city.submits(a_workload("neighbour").at("e01")).when_planned()
    costs = {c.site_id: c.cost_terms_yuan_per_hour for c in city.explain("w").candidates}
    assert costs["e01"] == {"energy": 1.0}


def test_a_full_site_lost_because_it_is_full():
    city = (
        given(near_and_far(), PlainScorer({"e02": 5.0}))
        .submits(a_workload("big").cpu(8).at("e01"))
        .when_planned()
    )
    city.submits(a_workload("w").cpu(8).at("e01", "e02")).when_planned().expect("w", on="e02")
    assert {c.site_id: c.lost_because for c in city.explain("w").candidates}["e01"] == "cpu short on 1 node"


def test_why_not_there():
    city = given(near_and_far()).submits(a_workload("w").within(10.0)).when_planned()
    found = city.explain("w", "dc")
    assert found.why_not == "dc"
    assert [c.site_id for c in found.candidates] == ["dc"]
    assert found.summary == "dc: rtt exceeded (21 against 10 ms): from z1 by pon"
    with pytest.raises(NotFound):
        city.explain("w", "mars")


def test_the_smallest_limit_that_would_do_is_named_and_is_accepted():
    city = given(near_and_far()).submits(a_workload("full").gpus(l20=2000)).when_planned()
    city.submits(a_workload("w").gpus(l20=1000, h20=1000).within(9.0)).when_planned()
    (found,) = city.explain("w").relaxations
    assert (found.field, found.from_value, found.to_value) == ("flows[0].rtt_p99_max_ms", 9.0, 21.0)
    city.submits(a_workload("w2").gpus(l20=1000, h20=1000).within(21.0)).when_planned().expect("w2", on="dc")


def test_the_place_in_the_queue():
    city = given(a_fleet(a_site("e01").cpus(nodes=1, cores=1))).submits(a_workload("first")).when_planned()
    city.submits(a_workload("second").cpu(0.6), a_workload("third").cpu(0.7)).when_planned()
    assert [city.explain(n).queue_position for n in ("first", "second", "third")] == [0, 1, 2]
    assert city.explain("third").other_work_ahead_count == 1


def test_an_expected_start_rests_on_declared_ends():
    city = (
        given(a_fleet(a_site("e01").cpus(nodes=1, cores=1)))
        .submits(a_workload("a").lasts(1000))
        .when_planned()
    )
    city.all_run(after_s=0).submits(a_workload("b")).when_planned()
    found = city.explain("b").expected_start
    assert found is not None
    assert found.earliest_at_s == city.now_s + 1000


def test_a_twin_names_each_stage_and_its_sites():
    city = given(near_and_far()).submits(a_twin("t", 60)).when_planned()
    chosen = {(c.stage_id, c.site_id) for c in city.explain("t").candidates if c.chosen}
    assert chosen == {(s, city.stage_sites("t")[s]) for s in ("ingest", "sync", "render")}


def test_a_workload_that_nobody_knows():
    city = given(near_and_far())
    with pytest.raises(NotFound):
        city.explain("nobody")


def test_other_tenants_are_not_named():
    city = (
        given(a_fleet(a_site("e01").cpus(nodes=1, cores=1)))
        .submits(a_workload("secret", "rival"))
        .when_planned()
    )
    city.submits(a_workload("mine")).when_planned()
    assert "rival" not in city.explain(name_of("mine")).model_dump_json()


def test_work_whose_latest_start_has_come_does_not_wait_for_a_price():
    """The plan holds all of them back; those that are late may start, and only room is missing."""
    city = given(a_fleet(a_site("e01").cpus(nodes=1, cores=1)), PlainScorer(wanted_deferred=0))
    city.submits(a_workload("full")).when_planned()
    city.submits(
        a_workload("late").lasts(600).deferrable(START_S + 900),
        a_workload("gang").cpu(0.5).gang(2).lasts(600).deferrable(START_S + 900),
    ).when_planned()
    assert city.explain("late").conflict == ("capacity in use by other work",)
    assert city.explain("gang").conflict == ("capacity in use by other work",)
    free = given(a_fleet(a_site("e01").cpus()).cheaper_from(6), PlainScorer(wanted_deferred=0))
    free.submits(a_workload("early").lasts(600).deferrable(START_S + 90_000)).when_planned()
    assert free.explain("early").conflict == ("waits for a cheaper hour (deferrable)",)


def test_a_site_that_would_be_cheaper_says_why_it_is_not_the_one():
    """Placed when e01 was cheap, or because the plan wants it there."""
    scorer = PlainScorer({"e01": 1.0, "e02": 2.0})
    city = given(near_and_far(), scorer).submits(a_workload("w").at("e01", "e02")).when_planned()
    scorer.cost_by_site = {"e01": 3.0, "e02": 2.0}
    lost = {c.site_id: c.lost_because for c in city.explain("w").candidates}
    assert lost["e02"] == "cheaper by 1.0000 yuan/h now, but not when the work was placed"
    scorer.quotas = {0: {0: 1.0}}
    lost = {c.site_id: c.lost_because for c in city.explain("w").candidates}
    assert lost["e02"] == "cheaper by 1.0000 yuan/h now, but the plan wants its replicas elsewhere"


def test_what_is_short_names_the_most_that_a_short_node_has_free():
    """One node is free but of another kind: of those that are short, the fullest but one has two cores left."""
    city = given(a_fleet(a_site("e01").cpus(nodes=3, cores=8))).submits(
        a_workload("a").cpu(6), a_workload("b").cpu(7), a_workload("c").cpu(8)
    )
    city.when_planned().submits(a_workload("w").cpu(3)).when_planned()
    (reason,) = city.explain("w").reasons
    assert (reason.code, reason.actual, reason.limit, reason.unit) == (ReasonCode.CPU_SHORT, 3, 2, "cores")
    assert reason.node_count == 3


def test_a_site_without_power_is_not_called_open():
    city = given(a_fleet(a_site("e01").cpus(nodes=2, cores=8).power_limit_kw(0.4)))
    city.submits(a_workload("a").cpu(8)).when_planned().submits(a_workload("w")).when_planned()
    (candidate,) = city.explain("w").candidates
    assert "power limit on 1 node" in candidate.lost_because


def test_work_without_users_has_no_round_trip():
    city = given(near_and_far()).submits(a_workload("w"), a_workload("v").within(30.0)).when_planned()
    assert all(c.rtt_p99_ms is None for c in city.explain("w").candidates)
    assert all(c.rtt_p99_ms is not None for c in city.explain("v").candidates)


def test_replicas_that_take_turns_are_told_so():
    """Three that end on a fleet that holds two at once: the third waits for its own kin."""
    city = given(a_fleet(a_site("e01").cpus(nodes=2, cores=8)))
    city.submits(a_workload("frames").cpu(8).replicas(3).lasts(600)).when_planned()
    asked = city.explain("frames")
    assert asked.conflict == (
        "all its replicas at once: more than the installed fleet holds, so they take turns",
    )
    assert asked.relaxations == ()
