"""The terminal summary of the synthetic day at five widths, without colour, as a log file would hold it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from cluster_sim.result import Comparison, DayStory, RunChecks, build_day_result
from cluster_sim.summary import print_summary, render_summary
from tests.unit._synthetic_day import (
    CLASS_NAMES,
    pending_explanation,
    placed_explanation,
    synthetic_day,
    synthetic_latency,
    synthetic_marks,
)

GOLDENS = Path(__file__).parent / "goldens"
COMMANDS = (
    "suanli why tenants/city/workloads/w12-waits",
    "suanli sites",
    "suanli demo --scenario songjiang-m",
)


@pytest.fixture(scope="module")
def story() -> DayStory:
    ours = build_day_result(
        *synthetic_day(), latency=synthetic_latency(), marks=synthetic_marks(), class_names=CLASS_NAMES
    )
    theirs = build_day_result(
        *synthetic_day(policy="least-loaded"), latency=synthetic_latency(3), policy="least-loaded"
    )
    comparison = Comparison.of([("suanli", ours), ("least-loaded", theirs)])
    return DayStory(
        comparison,
        RunChecks(24),
        pending_explanation(),
        placed_explanation(),
        "runs/day/report.html",
        COMMANDS,
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_the_summary_reads_as_committed(story, golden, width):
    text = render_summary(story, width)
    golden(GOLDENS / f"summary_{width}.txt", text)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…" not in text, "a column was cut"


@pytest.mark.parametrize("width", range(60, 200, 7))
def test_no_width_cuts_a_column_or_tears_a_figure(story, width):
    text = render_summary(story, width)
    assert "…" not in text
    assert max(cell_len(line) for line in text.splitlines()) <= width
    torn = re.search(r"\d\n *(\d{3}\b|%|ms\b|kWh\b)", text)
    assert torn is None, torn


def test_a_failed_day_reads_as_committed(story, golden):
    failed = replace(story, checks=RunChecks(24, ("e01-hub: 9 GPUs placed on 8",)), pending=None, placed=None)
    text = render_summary(failed, 80)
    golden(GOLDENS / "summary_failed_80.txt", text)
    assert "FAILED: the independent checker found 1 violations: e01-hub: 9 GPUs placed on 8" in " ".join(
        text.split()
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_colour_changes_no_word(story, width):
    out = io.StringIO()
    console = Console(width=width, color_system="truecolor", force_terminal=True, file=out, record=True)
    print_summary(console, story)
    plain = "\n".join(line.rstrip() for line in console.export_text(styles=False).splitlines()) + "\n"
    assert "\x1b[" in out.getvalue()
    assert plain == render_summary(story, width)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_sentence_and_comparison_name_one_difference_and_the_order_of_sites_can_be_seen(story, width):
    text = render_summary(story, width)
    below_frac = story.comparison.below_frac("least-loaded")
    assert f"{below_frac * 100:.1f} % below least-loaded" in " ".join(text.split())
    (row,) = re.findall(r"^least-loaded .* −([\d.]+) %", text, re.MULTILINE)
    assert row == f"{below_frac * 100:.1f}"
    assert re.search(r"^site .* room ", text, re.MULTILINE)
    rooms = [
        f"{site.room_frac * 100:.1f} %" for site in story.comparison.ours.sites if site.room_frac is not None
    ]
    assert all(room in text for room in rooms)


def test_a_long_name_below_the_table_is_never_cut(story):
    day = story.comparison.ours
    name = "Tencent Yangtze delta AI centre, second hall"
    sites = tuple(replace(s, name=name) if s.site_id == "ai-core" else s for s in day.sites)
    fleet_sites = tuple(
        s.model_copy(update={"display_name": name}) if s.site_id == "ai-core" else s for s in day.fleet.sites
    )
    named = replace(day, sites=sites, fleet=day.fleet.model_copy(update={"sites": fleet_sites}))
    long = replace(story, comparison=Comparison((("suanli", named), *story.comparison.days[1:])))
    for width in range(60, 100):
        assert "…" not in render_summary(long, width), width
