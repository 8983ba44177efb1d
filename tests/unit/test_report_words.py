"""The day's sentence, figures and reasons, word by word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster_sim.day_values import Outage
from cluster_sim.day_words import (
    asked_in_words,
    below,
    event_in_words,
    gap_percent,
    in_order,
    ipue_in_words,
    learned_in_words,
    minutes,
    number,
    one_sentence,
    outage_in_words,
    outcomes_in_words,
    percent,
    reason_in_words,
    saved_in_words,
    signed,
    small_amount,
)
from cluster_sim.result import Comparison, build_day_result
from suanli.model import Event, EventKind, Explanation, Reason, ReasonCode, WorkloadState
from suanli.model.words import wrapped
from tests.unit._synthetic_day import START_S, synthetic_day, synthetic_fleet, synthetic_latency

SPACE = " "  # no-break


def sentence(days) -> str:
    return one_sentence(Comparison.of(days)).replace(SPACE, " ")


@pytest.fixture(scope="module")
def ours():
    return build_day_result(*synthetic_day(), latency=synthetic_latency())


@pytest.fixture(scope="module")
def theirs():
    return build_day_result(
        *synthetic_day(policy="least-loaded"), latency=synthetic_latency(), policy="least-loaded"
    )


def test_the_sentence_says_it_all(ours, theirs):
    said = sentence([("suanli", ours), ("least-loaded", theirs)])
    saving = (1 - ours.drained.yuan_per_gpu_h / theirs.drained.yuan_per_gpu_h) * 100
    assert said == (
        f"115 workloads placed, 0 outside their latency, caps held at 8 of 8 sites, "
        f"¥{number(ours.drained.cost_yuan).replace(SPACE, ' ')} for energy until drained "
        f"(¥{number(ours.day.cost_yuan).replace(SPACE, ' ')} in the day), {saving:.1f} % below least-loaded per "
        "GPU-hour, proven within 0.35 %."
    )


def test_a_day_without_a_drain_has_one_amount(ours):
    window = replace(ours.window, drained_until_s=ours.window.day_end_s)
    assert "until drained" not in sentence([("suanli", replace(ours, window=window))])


def test_every_workload_that_was_submitted_has_an_outcome(ours):
    counts = {WorkloadState.SUCCEEDED: 784, WorkloadState.FAILED: 40, WorkloadState.CANCELLED: 17}
    said = outcomes_in_words(replace(ours, state_counts={**counts, WorkloadState.RUNNING: 1247}))
    assert said == (
        "784 succeeded, 40 failed as the scenario has it, 17 cancelled by their owners, 1 247 still run"
    )
    every = outcomes_in_words(replace(ours, state_counts=dict.fromkeys(WorkloadState, 1)))
    assert len(every.split(", ")) == len(WorkloadState)


@pytest.mark.parametrize(
    ("yuan", "shown"),
    [(0.0, "0.00"), (0.0042, "0.0042"), (0.00049, "0.00049"), (0.005, "0.01"), (2, "2.00"), (-0.0042, "−0.0042"),
     (1e-9, "0.00"), (1234.5, "1 234.50")],
)  # fmt: skip
def test_an_amount_that_would_round_to_nothing_keeps_two_digits(yuan, shown):
    assert small_amount(yuan) == shown
    assert saved_in_words(yuan, 0, 0, decimals=2) == f"¥{shown} of energy"
    assert small_amount(yuan, 0) == number(yuan)


def test_money_is_never_torn_from_its_use():
    for width in range(15, 40):
        assert "¥144 for energy" in wrapped("caps held at 2 of 2 sites, ¥144 for energy until drained", width)


def test_a_dearer_day_is_said_to_be_above(ours, theirs):
    assert "% above least-loaded" in sentence([("suanli", theirs), ("least-loaded", ours)])


def test_nothing_is_compared_with_itself(ours):
    assert "least-loaded" not in sentence([("least-loaded", ours)])


def test_what_was_not_measured_or_proven_is_not_claimed(ours):
    bare = replace(ours, latency=None, plans=())
    assert "latency not measured" in sentence([("suanli", bare)])
    assert "without a proven bound" in sentence([("suanli", bare)])


def test_plans_without_a_bound_are_counted_in_the_proof(ours):
    plans = (*ours.plans[:-1], replace(ours.plans[-1], bounds=()))
    assert "in 23 of 24 plans" in sentence([("suanli", replace(ours, plans=plans))])


@pytest.mark.parametrize(
    ("value", "digits", "said"),
    [
        (1204, 0, "1 204"),
        (12.345, 1, "12.3"),
        (None, 0, "–"),
        (-0.2, 0, "0"),
        (-1234.5, 1, "−1 234.5"),
        (0, 2, "0.00"),
    ],
)
def test_numbers(value, digits, said):
    assert number(value, digits).replace(SPACE, " ") == said


@pytest.mark.parametrize(("value", "said"), [(3.0, "+3"), (-3.0, "−3"), (0.0, "0"), (0.2, "0"), (None, "–")])
def test_signed_numbers(value, said):
    assert signed(value) == said


@pytest.mark.parametrize(
    ("gap_frac", "said"),
    [
        (0.0035, "0.35 %"),
        (0.00351, "0.36 %"),
        (0.0, "0.00 %"),
        (0.031, "3.1 %"),
        (0.0311, "3.2 %"),
        (None, "–"),
    ],
)
def test_a_gap_is_never_rounded_down(gap_frac, said):
    assert gap_percent(gap_frac).replace(SPACE, " ") == said


def test_shares_and_durations():
    assert percent(0.1234).replace(SPACE, " ") == "12.3 %"
    assert below(0.1).replace(SPACE, " ") == "10.0 % below"
    assert below(-0.1).replace(SPACE, " ") == "10.0 % above"
    assert [minutes(s).replace(SPACE, " ") for s in (45, 720, 12_600)] == ["45 s", "12 min", "3.5 h"]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            Reason(code=ReasonCode.GANG_NOT_WHOLE, limit=16, actual=8, unit="GPUs", node_count=16),
            "room for 8 of the gang's 16 GPUs (16 nodes)",
        ),
        (
            Reason(code=ReasonCode.RTT_EXCEEDED, limit=20, actual=27.34, unit="ms"),
            "round trip p99 27.3 ms, limit 20",
        ),
        (Reason(code=ReasonCode.SITE_DOWN, detail="power"), "the site is down: power"),
        (Reason(code=ReasonCode.SITE_CORDONED), "closed to new work"),
    ],
)  # fmt: skip
def test_reasons(reason, said):
    assert reason_in_words(reason).replace(SPACE, " ") == said


def test_events_that_tell_something_have_words():
    events, fleet, _ = synthetic_day()
    said = {e.kind: words for e in events if (words := event_in_words(e, fleet))}
    assert said[EventKind.SITE_DOWN] == "Songjiang Hub is down: power failure of the room"
    assert said[EventKind.SITE_UP] == "Songjiang Hub is back"
    assert "moves from" in said[EventKind.REPLICA_MOVED]
    assert "of the best" in said[EventKind.PLAN_COMMITTED]
    assert said[EventKind.REPLICA_PREEMPTED].endswith(
        "gives way to w1-000, which starts now; 0.25 GPU-hours lost"
    )
    assert {EventKind.SITE_METERED, EventKind.REPLICA_RUNNING, EventKind.ROUND_COMMITTED}.isdisjoint(said)


def test_a_site_that_the_fleet_does_not_know_keeps_its_id():
    event = Event(revision=1, at_s=START_S, kind=EventKind.SITE_UP, subject="sites/e99", body={})
    assert event_in_words(event, synthetic_fleet()) == "e99 is back"


@pytest.mark.parametrize(
    ("it_kwh", "facility_kwh", "is_empty", "said"),
    [
        (100.0, 123.4, False, "1.234"),
        (0.36, 85.4, False, "idle"),  # an old data centre in which nothing ran: 237 is no PUE
        (0.2, 2.2, True, "idle"),
        (0.0, 3.0, False, "idle"),
        (0.0, 0.0, False, "–"),
    ],
)
def test_a_room_without_work_is_idle_and_has_no_ipue(it_kwh, facility_kwh, is_empty, said):
    assert ipue_in_words(it_kwh, facility_kwh, is_empty=is_empty) == said


def test_wrapping_keeps_figures_and_units_whole_and_counts_wide_characters_twice():
    text = "paid ¥6 361 for 12.5 % of it"
    assert wrapped(text, 10).splitlines() == ["paid", "¥6 361 for", "12.5 % of", "it"]
    assert wrapped("松江 枢纽", 5).splitlines() == ["松江", "枢纽"]


def test_classes_count_upwards(ours):
    first = ours.latency.classes[0]
    rows = [replace(first, workload_class=c) for c in ("W10", "W1h", "W2", "W1")]
    assert [r.workload_class for r in in_order(rows)] == ["W1", "W1h", "W2", "W10"]


def test_an_explanation_is_dated_in_the_fleets_local_time():
    fleet = synthetic_fleet()
    assert asked_in_words(fleet, Explanation(workload="w", state="pending", at_s=START_S + 59 * 60)) == (
        "at 00:59 on 15 July: "
    )
    assert asked_in_words(fleet, Explanation(workload="w", state="pending")) == ""


@pytest.mark.parametrize(
    ("lost", "again", "words"),
    [
        (0, 0, "fuse; nothing ran there"),
        (1, 1, "fuse; 1 replica lost, it started again"),
        (1, 0, "fuse; 1 replica lost, it did not start again"),
        (1200, 1200, "fuse; 1 200 replicas lost, all started again"),
        (12, 10, "fuse; 12 replicas lost, 10 started again"),
        (12, 0, "fuse; 12 replicas lost, none started again"),
    ],
)
def test_an_outage_says_what_it_lost(lost, again, words):
    assert outage_in_words(Outage("e01-hub", 0, 60, "fuse", lost, again)) == words


def test_an_outage_without_a_cause_still_says_what_it_lost():
    assert outage_in_words(Outage("e01-hub", 0, 60, "")) == "nothing ran there"


def test_sites_that_never_ran_are_named_beside_those_that_learned(ours):
    ran = tuple(replace(s, placed_count=max(s.placed_count, 1)) for s in ours.sites)
    assert learned_in_words(replace(ours, sites=ran)).endswith("settled below 3 %")
    two = tuple(replace(s, placed_count=0) if i < 2 else s for i, s in enumerate(ran))
    assert learned_in_words(replace(ours, sites=two)).endswith("settled below 3 %; 2 sites never ran")
