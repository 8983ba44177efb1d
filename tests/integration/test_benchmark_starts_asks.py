"""Asking for expected starts leaves no trace: a day with questions has the log of the day without them."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.starts import AskingGateway, fold, with_outcomes
from cluster_sim.in_process import InProcessGateway
from cluster_sim.play import play_day
from cluster_sim.scenarios.loader import load_scenario
from scheduler.planner.horizon import HorizonStrategy
from scheduler.workers import InlineSolverPool

SEED = 42


def test_questions_change_nothing_and_all_of_them_have_answers():
    tiny = load_scenario("tiny-cloud-edge")
    asking = AskingGateway(HorizonStrategy(), InlineSolverPool(), SEED, each_hour=20)
    quiet = InProcessGateway(HorizonStrategy(), InlineSolverPool())
    day = play_day(tiny, SEED, "suanli", asking, "local")
    play_day(tiny, SEED, "suanli", quiet, "local")
    assert len(asking.questions.estimates) > 100
    assert asking.log == quiet.log
    for _, asked_s, _, start in asking.questions.estimates:
        assert asked_s <= start.earliest_at_s <= start.likely_at_s <= start.latest_at_s
    told = with_outcomes(asking.questions, asking.state, asking.log, day.window.drained_until_s).told
    of_log = {(t.workload, t.asked_s): t for t in fold(day, SEED, each_hour=20).told}
    both = [(t, of_log[t.workload, t.asked_s]) for t in told if (t.workload, t.asked_s) in of_log]
    assert len(both) > 50
    for live, folded in both:
        assert replace(folded, on_arrival=live.on_arrival) == live, "a saved day gives the same answers"
