"""Live progress: one plain line an hour without a terminal, the same figures with one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cluster_sim.result import build_day_result
from cluster_sim.summary import LiveDay
from suanli.model import EventKind
from tests.unit._synthetic_day import DAY_S, START_S, synthetic_day

STEP_S = 900


def played(terminal: bool, until_s: int):
    """The synthetic day fed to a LiveDay window by window; (text, live)."""
    events, fleet, window = synthetic_day()
    out = io.StringIO()
    console = Console(file=out, width=160, force_terminal=terminal, color_system=None)
    taken = 0
    with LiveDay(console, fleet, window, title="songjiang-test") as live:
        for at_s in range(START_S, until_s + 1, STEP_S):
            first = taken
            while taken < len(events) and events[taken].at_s <= at_s:
                taken += 1
            live.advance(at_s, events[first:taken])
    return out.getvalue(), live


def test_without_a_terminal_every_simulated_hour_has_one_line():
    text, _ = played(False, START_S + DAY_S)
    lines = text.splitlines()
    assert [line[:5] for line in lines] == [f"{h % 24:02d}:00" for h in range(1, 25)]


def test_lines_tell_the_last_event_in_words():
    text, _ = played(False, START_S + 10 * 3600)
    assert "Songjiang Hub is down" in text.splitlines()[-1] or "new plan" in text.splitlines()[-1]
    assert "running" in text and "pending" in text and "kW" in text


def test_counts_and_cost_agree_with_the_tables():
    events, fleet, window = synthetic_day()
    day = build_day_result(events, fleet, window)
    text, live = played(False, window.drained_until_s)
    assert live.cost_yuan == pytest.approx(day.drained.cost_yuan)
    last = text.splitlines()[-1]
    assert f"running {day.drained.running_count}  pending {day.drained.pending_count}" in last.replace(
        " ", " "
    )
    assert "(draining)" in last


def test_on_a_terminal_one_line_changes_and_vanishes():
    text, _ = played(True, START_S + 3600)
    assert "songjiang-test" in text
    assert "\x1b[" in text  # it moved the cursor instead of scrolling


def test_a_cancelled_workload_leaves_the_counts():
    events, _, _ = synthetic_day()
    cancelled = next(e for e in events if e.kind is EventKind.WORKLOAD_CANCELLED)
    before, after = (played(False, s)[0].splitlines()[-1] for s in (START_S + 14 * 3600, START_S + 15 * 3600))
    assert START_S + 14 * 3600 < cancelled.at_s <= START_S + 15 * 3600
    assert before[:5] == "14:00"
    assert after[:5] == "15:00"
