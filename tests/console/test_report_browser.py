"""The report in a real browser: it draws, says nothing in its console, and asks for nothing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster_sim.report import write_report
from cluster_sim.result import Comparison, DayStory, RunChecks, build_day_result
from tests.unit._synthetic_day import (
    CLASS_NAMES,
    pending_explanation,
    placed_explanation,
    synthetic_day,
    synthetic_latency,
    synthetic_marks,
)

CHART_COUNT = 12
LOADS_MS = 4000
BROWSERS_OWN = ("google.com", "googleapis.com", "gstatic.com", "gvt1.com")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    day = build_day_result(
        *synthetic_day(), latency=synthetic_latency(), marks=synthetic_marks(), class_names=CLASS_NAMES
    )
    other = build_day_result(*synthetic_day(policy="least-loaded"), policy="least-loaded")
    story = DayStory(
        Comparison.of([("suanli", day), ("least-loaded", other)]),
        RunChecks(24),
        pending_explanation(),
        placed_explanation(),
    )
    return write_report(tmp_path_factory.mktemp("report") / "report.html", story)


def browse(chromium: str, page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Load the page in headless Chromium with a fresh profile and every outside host unreachable."""
    return subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            f"--user-data-dir={folder / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--window-size=1240,900",
            f"--virtual-time-budget={LOADS_MS}",
            "--enable-logging=stderr",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )


def hosts(net_log: Path) -> set[str]:
    """Hosts that were asked for, but for those of the browser's own maker (time, updates, accounts)."""
    seen = set(re.findall(r'"url":"https?://([^/"]+)', net_log.read_text(encoding="utf-8", errors="replace")))
    return {host for host in seen if not host.endswith(BROWSERS_OWN)}


@pytest.fixture(scope="module")
def loaded(page: Path, require_tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("browser")
    log = folder / "net.json"
    return browse(require_tool("chromium"), page, folder, "--dump-dom", f"--log-net-log={log}"), log


def test_all_charts_are_drawn(loaded):
    dom = loaded[0].stdout
    assert f'data-drawn="{CHART_COUNT}"' in dom
    drawn = re.findall(r'<div id="(\w+)" class="chart[^>]*>.*?<svg', dom)
    assert len(drawn) == CHART_COUNT


def test_the_console_stays_silent(loaded):
    assert [line for line in loaded[0].stderr.splitlines() if ":CONSOLE" in line] == []


def test_no_request_leaves_the_page(loaded):
    assert hosts(loaded[1]) == set()


def with_an_outside_image(page: Path, folder: Path, policy: bool) -> Path:
    html = page.read_text(encoding="utf-8").replace(
        "<main>", '<main><img src="http://example.invalid/x.png">'
    )
    leaky = folder / "leaky.html"
    leaky.write_text(html if policy else re.sub(r"<meta http-equiv[^>]*>", "", html), encoding="utf-8")
    return leaky


def test_the_pages_own_policy_stops_what_would_leave_it(page, require_tool, tmp_path):
    log = tmp_path / "net.json"
    leaky = with_an_outside_image(page, tmp_path, policy=True)
    seen = browse(require_tool("chromium"), leaky, tmp_path, "--dump-dom", f"--log-net-log={log}")
    assert "Content Security Policy" in seen.stderr
    assert hosts(log) == set()


def test_a_request_would_be_noticed(page, require_tool, tmp_path):
    log = tmp_path / "net.json"
    leaky = with_an_outside_image(page, tmp_path, policy=False)
    browse(require_tool("chromium"), leaky, tmp_path, "--dump-dom", f"--log-net-log={log}")
    assert hosts(log) == {"example.invalid"}
