"""Live progress: one plain line an hour without a terminal, the same figures with one."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading

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


def played_on_a_pty(columns: int, until_s: int, **console_options) -> str:
    """What a pseudo-terminal of that width receives while the synthetic day is played, its control codes removed."""
    events, fleet, window = synthetic_day()
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    received = bytearray()

    def read_to_the_end() -> None:
        while True:
            try:
                part = os.read(reader, 65536)
            except OSError:  # the other end is closed
                return
            if not part:
                return
            received.extend(part)

    listening = threading.Thread(target=read_to_the_end)
    listening.start()
    try:
        with os.fdopen(writer, "w") as screen:
            console = Console(file=screen, **console_options)
            with LiveDay(console, fleet, window, title="songjiang-test") as live:
                live.advance(until_s, [e for e in events if e.at_s <= until_s])
    finally:
        listening.join()
        os.close(reader)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received.decode())


@pytest.mark.parametrize("options", [{"color_system": "truecolor"}, {"no_color": True}])
@pytest.mark.parametrize("columns", [80, 160])
def test_a_real_terminal_shows_clock_counts_power_and_money(columns, options):
    environment = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    text = played_on_a_pty(columns, START_S + 10 * 3600, _environ=environment, **options)
    last = re.split(r"[\r\n]+", text.rstrip())[-1]
    assert re.match(r"10:00  running \d+  pending \d+  [\d ]+ kW  ¥[\d ]+  ", last), text


def test_a_dumb_terminal_gets_the_plain_lines_of_a_log():
    text = played_on_a_pty(80, START_S + 3600, _environ={"TERM": "dumb"})
    assert re.match(r"01:00  running \d+  pending \d+  [\d ]+ kW  ¥[\d ]+  ", text), text


def test_a_cancelled_workload_leaves_the_counts():
    events, _, _ = synthetic_day()
    cancelled = next(e for e in events if e.kind is EventKind.WORKLOAD_CANCELLED)
    before, after = (played(False, s)[0].splitlines()[-1] for s in (START_S + 14 * 3600, START_S + 15 * 3600))
    assert START_S + 14 * 3600 < cancelled.at_s <= START_S + 15 * 3600
    assert before[:5] == "14:00"
    assert after[:5] == "15:00"
