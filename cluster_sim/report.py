"""One self-contained HTML file about a played day: readable without a network, in light, dark and on paper.

    write_report    story → file; ECharts, style and data lie inside it, and its policy forbids it any request
    main            `python -m cluster_sim.report EVENTS.jsonl --fleet FLEET.json --out report.html`

Tables are written here as plain HTML, so the file says everything without scripts; charts are drawn by
`report_assets/report.js` from the document that `report_data.chart_data` makes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cluster_sim.day_tables import clock
from cluster_sim.day_values import DayResult, SiteDay
from cluster_sim.day_words import (
    MODE_NAMES,
    NONE,
    asked_in_words,
    below,
    blocked_in_words,
    gap_percent,
    in_order,
    ipue_in_words,
    minutes,
    number,
    one_sentence,
    outcomes_in_words,
    percent,
    reason_in_words,
    saved_in_words,
    signed,
)
from cluster_sim.report_data import DRAWN_SHARE, chart_data
from cluster_sim.result import (
    BrokenLogError,
    ClassLatency,
    Comparison,
    DayStory,
    DayWindow,
    LatencyMeasured,
    build_day_result,
    fleet_of_log,
    read_log,
    window_of_log,
)
from suanli.model import Explanation, Fleet, SiteKind
from suanli.model.units import SECONDS_PER_HOUR, utc

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The page may run and style itself and nothing else: no request leaves it, whatever it holds."""
HOURS_SHOWN = 24
BAR_PX = 22


def write_report(
    path: Path, story: DayStory, *, title: str = "A day of Songjiang", title_zh: str = "松江一日"
) -> Path:
    """Write the report and return its path; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_report(story, title=title, title_zh=title_zh), encoding="utf-8")
    return path


def render_report(story: DayStory, *, title: str = "A day of Songjiang", title_zh: str = "松江一日") -> str:
    """The whole file as text."""
    day = story.comparison.ours
    body = "\n".join(
        (
            _header(story, title, title_zh),
            "<main>",
            _sites_section(day),
            _map_section(day) if day.fleet.zones else "",
            _power_section(day),
            _pair(_prices_section(), _gpu_section(day)),
            _pair(_queue_section(day), _waits_section(day)),
            _latency_section(day),
            _learning_section(day),
            _pair(_ledger_section(day), _moves_section(day)),
            _comparison_section(story) if len(story.comparison.rows) > 1 else "",
            _explanations(story),
            _optimality_section(day),
            "</main>",
            _footer(),
        )
    )
    data = json.dumps(chart_data(story), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # the element ends, or changes its mode, at tags inside strings too: none may stand there
    data = data.replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Suanli</title>\n<style>\n{_asset('report.css')}</style></head>\n<body>\n{body}\n"
        f'<script type="application/json" id="day">{data}</script>\n'
        f"<script>{_asset('echarts.min.js')}</script>\n<script>{_asset('report.js')}</script>\n</body></html>\n"
    )


def _asset(name: str) -> str:
    return (resources.files("cluster_sim") / "report_assets" / name).read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------- small parts


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1, caption: str = "") -> str:
    """HTML table; the first `words` columns are words, the rest figures; a row may start with `class=…`."""
    cells = [f'<th scope="col"{" class=word" if i < words else ""}>{h}</th>' for i, h in enumerate(head)]
    lines = []
    for row in rows:
        css, values = (row[0].removeprefix("class="), row[1:]) if row[0].startswith("class=") else ("", row)
        tds = "".join(f"<td{' class=word' if i < words else ''}>{v}</td>" for i, v in enumerate(values))
        lines.append(f"<tr{f' class={css}' if css else ''}>{tds}</tr>")
    name = f"<caption class=sub>{escape(caption)}</caption>" if caption else ""
    return (
        f"<div class=scroll><table>{name}<thead><tr>{''.join(cells)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _section(anchor: str, title: str, zh: str, note: str, body: str) -> str:
    return (
        f'<section id="{anchor}" class=card><h2>{escape(title)}<span class=zh lang=zh>{zh}</span></h2>'
        f"<p class=note>{note}</p>{body}</section>"
    )


def _chart(name: str, said: str, size: str = "", bar_count: int = 0) -> str:
    """Place of a chart, `bar_count` bars high; `said` is what a reader who cannot see it is told."""
    height = f' style="height:{max(BAR_PX * bar_count, 160) + 90}px"' if bar_count else ""
    return f'<div id="{name}" class="chart {size}" role="img" aria-label="{escape(said)}"{height}></div>'


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _pair(left: str, right: str) -> str:
    return f"<div class=pair>{left}{right}</div>"


def _site_cell(kind: SiteKind, name: str, name_zh: str, after: str = "") -> str:
    zh = f"<small lang=zh class=under>{escape(name_zh)}</small>" if name_zh else ""
    return f"<span class='dot {kind.value}' title='{kind.value}'></span>{escape(name)}{after}{zh}"


# -------------------------------------------------------------------------------------------------- sections


def _header(story: DayStory, title: str, title_zh: str) -> str:
    day = story.comparison.ours
    offset_s = day.fleet.utc_offset_hours * SECONDS_PER_HOUR
    date = utc(day.window.start_s + offset_s)
    hours = number((day.window.drained_until_s - day.window.day_end_s) / SECONDS_PER_HOUR, 1)
    links = (
        ("sites", "Sites"),
        *([("city", "Map")] if day.fleet.zones else []),
        ("curves", "Power"),
        ("waiting", "Queue"),
        ("rtt", "Latency"),
        ("learning", "Forecast"),
        *([("against", "Comparison")] if len(story.comparison.rows) > 1 else []),
        ("why", "Why"),
        ("proof", "Proof"),
    )
    return (
        f"<header><p class=eyebrow><strong>{escape(title)}</strong> <span lang=zh>{escape(title_zh)}</span> · "
        f"{date:%A} {date.day} {date:%B %Y} · {len(day.fleet.sites)} sites · "
        f"policy <strong>{escape(day.policy)}</strong> · drained for {hours} h</p>"
        f"<h1>{escape(one_sentence(story.comparison, story.versus))}</h1>{_tiles(story)}{_verdict(story)}</header>"
        f"<nav aria-label='Sections'>{''.join(f'<a href=#{a}>{t}</a>' for a, t in links)}"
        "<button id=theme type=button>Light / dark</button></nav>"
    )


def _tiles(story: DayStory) -> str:
    day = story.comparison.ours
    held, capped = day.caps
    outside = None if day.latency is None else day.latency.outside_count
    saving = story.comparison.below_frac(story.versus)
    tiles = [
        (f"{number(day.placed_count)}", f"of {number(day.submitted_count)} workloads placed", ""),
        (number(outside), "outside their latency", "" if outside is None else "bad" if outside else "good"),
        (f"{held} / {capped}", "sites held their cap", "good" if held == capped else "bad"),
        (f"¥{number(day.drained.cost_yuan)}", "paid for energy until drained", ""),
        (number(day.drained.delivered_gpu_h), "GPU-hours delivered until drained", ""),
        (number(day.day.ipue, 3), "iPUE of all sites in the day", ""),
    ]
    if saving is not None:
        tiles.insert(4, (below(saving), f"{story.versus}, per GPU-hour", "good" if saving >= 0 else "bad"))
    if day.drained.carbon_kg:
        tiles.append((f"{number(day.drained.carbon_kg / 1000, 2)} t", "CO₂ of the energy until drained", ""))
    return (
        "<div class=tiles>"
        + "".join(
            f"<div class='tile {c}'><b>{escape(v)}</b><span>{escape(t)}</span></div>" for v, t, c in tiles
        )
        + "</div>"
    )


def _verdict(story: DayStory) -> str:
    if story.failures:
        items = "".join(f"<li>{escape(f)}</li>" for f in story.failures)
        return f"<div class='verdict bad' role=alert><b>This day failed.</b><ul>{items}</ul></div>"
    day, checks = story.comparison.ours, story.checks
    closes = "the accounts close" if not day.account_problems else "the accounts do not close"
    if checks is None:
        shown = "".join(f"<li>{escape(p)}</li>" for p in day.account_problems)
        problems = f"<ul>{shown}</ul>" if shown else ""
        return (
            f"<div class=verdict>Made from a saved log of {number(day.event_count)} events: {closes}; "
            f"the checker did not run.{problems}</div>"
        )
    return (
        f"<div class=verdict>The independent checker found {len(checks.violations)} violations in "
        f"{number(checks.checked_count)} checks; {closes} over {number(day.event_count)} events.</div>"
    )


def _sites_section(day: DayResult) -> str:
    rows = [_site_row(s) for s in day.sites]
    total = day.day
    rows.append(
        (
            "class=sum",
            "all sites",
            "",
            number(total.it_kwh),
            number(total.facility_kwh),
            number(total.ipue, 3),
            *[""] * 4,
            f"¥{number(total.cost_yuan)}",
            number(total.cost_yuan / total.facility_kwh, 3) if total.facility_kwh else NONE,
            "",
        )
    )
    head = (
        "site",
        "workloads<br>placed",
        "IT energy<br>kWh",
        "facility<br>kWh",
        "iPUE",
        "cap",
        "balance<br>before kWh",
        "balance<br>after kWh",
        "room left",
        "paid",
        "mean price<br>yuan/kWh",
        "p99 RTT<br>ms",
    )
    hours = number((day.window.day_end_s - day.window.start_s) / SECONDS_PER_HOUR)
    predicted = any(s.rtt_p99_ms is not None and not s.rtt_is_measured for s in day.sites)
    note = (
        f"Tightest cap first, over the {hours} hours of the day. Balance is cap × IT energy − facility energy "
        "since 1 January; room left is what the day could still have used, as a share of its facility "
        "energy." + (" A p99 RTT with * was predicted when the work was placed." if predicted else "")
    )
    return _section("sites", "Sites", "站点", note, _table(head, rows))


def _site_row(s: SiteDay) -> Sequence[str]:
    verdict = {
        True: " <span class='chip good'>held</span>",
        False: " <span class='chip bad'>broken</span>",
        None: "",
    }
    cap = number(s.pue_cap_annual, 2) if s.pue_cap_annual is not None else NONE
    if s.ipue_cap_hourly is not None:
        cap += f" <small>{number(s.ipue_cap_hourly, 2)}/h</small>"
    down = f" <span class='chip'>down {number(s.outage_min)} min</span>" if s.outage_min else ""
    star = "" if s.rtt_is_measured or s.rtt_p99_ms is None else "*"
    return (
        _site_cell(s.kind, s.name or s.site_id, s.name_zh, down),
        number(s.placed_count),
        number(s.it_kwh),
        number(s.facility_kwh),
        ipue_in_words(s.it_kwh, s.facility_kwh, is_empty=not s.placed_count),
        cap + verdict[s.cap_held],
        signed(s.balance_before_kwh),
        signed(s.balance_after_kwh),
        percent(s.room_frac),
        f"¥{number(s.cost_yuan)}",
        number(s.price_yuan_per_kwh, 3),
        number(s.rtt_p99_ms, 1) + star,
    )


def _map_section(day: DayResult) -> str:
    zones = {z.zone_id: z for z in day.fleet.zones}
    serves = sorted(day.flows.zone_to_site, key=lambda f: (f[0], -f[2]))
    table = _table(
        ("zone", "served from", "placements"),
        [(escape(zones[z].display_name or z), escape(day.site_name(s)), number(n)) for z, s, n in serves],
        words=2,
    )
    return _section(
        "city",
        "The city: sites, zones and what flowed between them",
        "城市地图",
        "Circles are sites, sized by facility energy; diamonds are zones where people and devices attach. Grey lines "
        f"show from where zones were served (the largest flows, {DRAWN_SHARE:.0%} of placements), arrows show moves. "
        "Sites ringed in red were down for part of the day.",
        _chart("map", "Map of sites and zones with flows; the table below holds the same counts", "tall")
        + _folded("Table: zones and the sites that served them", table),
    )


def _power_section(day: DayResult) -> str:
    options = "".join(
        f'<option value="{s.site_id}">{escape(f"{s.display_name or s.site_id} {s.display_name_zh}".strip())}</option>'
        for s in day.fleet.sites
    )
    choice = (
        '<label class=sub>Site <select id="site-choice"><option value="">all sites together</option>'
        f"{options}</select></label>"
    )
    head = (
        "site",
        *(clock(day.fleet, day.window.start_s + h * SECONDS_PER_HOUR) for h in range(0, HOURS_SHOWN, 2)),
    )
    return _section(
        "curves",
        "Power and iPUE over the day",
        "功率与电能利用",
        "Facility power is IT power plus cooling and losses; iPUE is their ratio in each quarter of an "
        "hour. The dashed line is what the newest plan had promised. Shaded: the site was down, or the "
        "scenario broke something.",
        f"<div class=head>{choice}</div>"
        + _chart(
            "power", "Facility power, IT power, forecast and iPUE of the chosen site over the day", "tall"
        )
        + '<p class=note id="power-note"></p>'
        + _folded(
            "Table: mean facility power per two hours, kW",
            _table(head, _two_hourly(day, day.power.facility_kw, 1)),
        )
        + _folded("Table: iPUE per two hours", _table(head, _two_hourly_ipue(day))),
    )


def _two_hours(day: DayResult) -> np.ndarray[Any, np.dtype[np.int64]]:
    return (day.power.at_s - day.window.start_s) // (2 * SECONDS_PER_HOUR)


def _two_hourly(
    day: DayResult, values: np.ndarray[Any, np.dtype[np.float64]], digits: int
) -> list[list[str]]:
    into = _two_hours(day)
    rows = []
    for site, row in zip(day.fleet.sites, values, strict=True):
        means = (float(row[into == b].mean()) if (into == b).any() else None for b in range(HOURS_SHOWN // 2))
        rows.append(
            [
                _site_cell(site.kind, site.display_name or site.site_id, ""),
                *(number(m, digits) for m in means),
            ]
        )
    return rows


def _two_hourly_ipue(day: DayResult) -> list[list[str]]:
    into = _two_hours(day)
    rows = []
    for i, site in enumerate(day.fleet.sites):
        cells = []
        for b in range(HOURS_SHOWN // 2):
            it, facility = day.power.it_kw[i, into == b].sum(), day.power.facility_kw[i, into == b].sum()
            cells.append(ipue_in_words(float(it), float(facility)))
        rows.append([_site_cell(site.kind, site.display_name or site.site_id, ""), *cells])
    return rows


def _prices_section() -> str:
    return _section(
        "price",
        "Price and weather",
        "电价与天气",
        "Published price of a kWh with each site's mark-up, and the outdoor air that cooling has to work "
        "against.",
        _chart("prices", "Price per kWh and outdoor temperature over the day"),
    )


def _gpu_section(day: DayResult) -> str:
    means = [
        (tier, number(installed), number(float(day.gpus.values[tier].mean()), 1),
         percent(float(day.gpus.values[tier].mean()) / installed if installed else None))
        for tier, installed in day.gpu_installed.items()
    ] + [
        (escape(g.model), number(g.installed_count), number(g.mean_allocated, 1),
         percent(g.mean_allocated / g.installed_count))
        for g in day.gpu_models
    ]  # fmt: skip
    return _section(
        "allocation",
        "GPU allocation",
        "算力分配",
        "Share of the installed GPUs that is promised to replicas, from the order until the end.",
        _chart("gpus", "Allocated share of installed GPUs in cloud and edge over the day")
        + _folded(
            "Table: mean over the day",
            _table(("tier or model", "installed GPUs", "allocated", "share"), means),
        ),
    )


def _queue_section(day: DayResult) -> str:
    reasons = _table(
        ("reason", "replicas"),
        [(escape(r.replace("_", " ")), number(n)) for r, n in day.pending_by_reason.items()],
    )
    return _section(
        "waiting",
        "Queue",
        "排队",
        f"Workloads over the day. At the end of the drain: {escape(outcomes_in_words(day))}.",
        _chart("queue", "Running, starting and pending workloads over the day")
        + _folded("Table: why work waited in the last round of the day", reasons),
    )


def _waits_section(day: DayResult) -> str:
    rows = [
        (
            escape(day.class_name(w.workload_class)),
            number(w.workload_count),
            minutes(w.p50_s),
            minutes(w.p90_s),
            number(w.waiting_count),
        )
        for w in day.waits
    ]  # fmt: skip
    return _section(
        "waits-by-class",
        "Waiting per class",
        "等待时间",
        "From submission, or the earliest start asked for, until every replica ran. Deferrable work "
        "waits for cheap hours.",
        _chart("waits", "Median and 90 % quantile of waiting time per class", bar_count=len(day.waits))
        + _folded(
            "Table: waiting per class",
            _table(("class", "workloads", "half within", "90 % within", "still wait"), rows),
        ),
    )


def _latency_section(day: DayResult) -> str:
    if day.latency is None:
        return _section("rtt", "Latency", "时延", "The network did not measure latency on this log.", "")
    if not day.latency.classes:
        return _section("rtt", "Latency", "时延", "Nothing that ran has a latency budget.", "")
    rows = [
        (
            escape(day.class_name(c.workload_class)) + (" <span class=chip>hard</span>" if c.is_hard else ""),
            percent(c.inside_frac, 2),
            number(c.p99_ms, 1),
            number(c.budget_ms),
            number(c.workload_count),
            number(c.outside_count),
            number(c.outage_min),
        )
        for c in in_order(day.latency.classes)
    ]
    head = ("class", "samples inside", "p99 RTT ms", "budget ms", "workloads", "outside", "outage min")
    return _section(
        "rtt",
        "Latency per class",
        "时延",
        "Measured network p99 of every hour as a share of the class's budget. Minutes in which work "
        "restarted elsewhere are outage, not lateness; a hard class may never be outside.",
        _chart(
            "latency", "p99 RTT per class and hour as share of the budget", bar_count=len(day.latency.classes)
        )
        + _table(head, rows),
    )


def _learning_section(day: DayResult) -> str:
    last = day.learned.error_frac[-1] if day.learned.at_s.size else np.full(len(day.fleet.sites), np.nan)
    rows = [
        (
            _site_cell(s.kind, s.display_name or s.site_id, s.display_name_zh),
            percent(float(last[i])) if np.isfinite(last[i]) else NONE,
            NONE if (at := day.learned.settled_s[i]) is None else clock(day.fleet, at),
            percent(day.forecast_error_frac.get(s.site_id)),
        )
        for i, s in enumerate(day.fleet.sites)
    ]
    head = ("site", "model error at the end", "under 3 % since", "plans against meters")
    return _section(
        "learning",
        "Forecast against measurement",
        "预测与实测",
        "The planner starts with site coefficients that are wrong and learns them from the meters. The "
        "curves show how far its model of facility power was off, given the IT power; the last column "
        "also holds what it did not foresee in demand.",
        _chart("learned", "Error of the learned site models over the day with the goal of 3 %")
        + _folded("Table: errors per site", _table(head, rows)),
    )


def _ledger_section(day: DayResult) -> str:
    rows = [
        (
            _site_cell(s.kind, s.name or s.site_id, ""),
            number(s.pue_cap_annual, 2),
            signed(s.balance_before_kwh),
            signed(s.balance_after_kwh),
            signed(s.used_kwh, 1),
            number(s.released_kwh, 1),
            number(s.debt_kwh, 1),
        )
        for s in day.sites
        if s.pue_cap_annual is not None
    ]
    head = ("site", "cap", "before kWh", "after kWh", "used", "released", "debt")
    breaches = "".join(
        f"<li>{escape(day.site_name(b.site_id))}, {clock(day.fleet, b.from_s)}–{clock(day.fleet, b.until_s)}: "
        f"{escape(b.cause)}; debt {number(b.debt_kwh, 1)} kWh</li>"
        for b in day.breaches
    )
    return _section(
        "ledger-balance",
        "Room under the annual cap",
        "能耗台账",
        "A year's cap is an account: hours below the cap pay in, hot hours take out. What a July day may "
        "take is released by the season.",
        _chart(
            "ledger",
            "Room left under the annual cap per site, share of the day's facility energy",
            bar_count=sum(s.room_frac is not None for s in day.sites),
        )
        + _folded("Table: ledger per site, kWh", _table(head, rows))
        + (f"<h3>Reported breaches</h3><ul class=list>{breaches}</ul>" if breaches else ""),
    )


def _moves_section(day: DayResult) -> str:
    examples = "".join(
        f"<li><b>{MODE_NAMES[m.mode][0]}</b> <span lang=zh class=sub>{MODE_NAMES[m.mode][1]}</span> "
        + (f"— {escape(m.example)}." if m.example else "— none today.")
        + "</li>"
        for m in day.moves
    )
    cost_yuan = sum(m.cost_yuan for m in day.moves)
    saved = saved_in_words(
        sum(m.gain_yuan for m in day.moves),
        sum(m.saved_wait_gpu_h for m in day.moves),
        sum(m.saved_lateness_yuan for m in day.moves),
    )
    within = sum(m.within_site_count for m in day.moves)
    return _section(
        "moved",
        "Moves",
        "云边协同",
        "Running work that changed its place, in the plan's three modes: "
        f"moving cost ¥{number(cost_yuan)} and is expected to save {saved}"
        + (f"; {number(within)} of the moves stayed within their site." if within else "."),
        _chart("moves", "Number of moves per mode", "low") + f"<ul class=list>{examples}</ul>",
    )


def _comparison_section(story: DayStory) -> str:
    rows = [
        (
            *(("class=ours",) if i == 0 else ()),
            escape(r.policy),
            number(r.facility_kwh),
            f"¥{number(r.cost_yuan)}",
            number(r.delivered_gpu_h),
            number(r.yuan_per_gpu_h, 3),
            "" if i == 0 else below(story.comparison.below_frac(r.policy)),
            f"{r.caps_held} of {r.caps_count}",
            number(r.debt_kwh),
            number(r.outside_count),
            number(r.hard_outside_count),
            number(r.pending_count),
        )
        for i, r in enumerate(story.comparison.rows)
    ]
    head = (
        "policy", "energy kWh", "cost", "GPU-hours", "yuan per<br>GPU-hour", "we are", "caps held", "debt kWh",
        "outside<br>latency", "of these<br>hard", "pending",
    )  # fmt: skip
    return _section(
        "against",
        "The same day under other policies",
        "策略对比",
        "Same arrivals, same world, same hard filters and node-sleep rules; each policy then drains for "
        "at most 24 h, and what still runs counts the GPU-hours delivered so far.",
        _chart("comparison", "Yuan per GPU-hour, energy and caps held per policy", "low")
        + _table(head, rows),
    )


def _explanations(story: DayStory) -> str:
    day = story.comparison.ours
    count = day.day.pending_count
    silent = (
        f"{number(count)} workloads wait, none was explained."
        if count
        else "Nothing waits at the end of the day."
    )
    pending = _pending(day, story.pending) if story.pending else f"<p>{silent}</p>"
    placed = _placed(day, story.placed) if story.placed else "<p>No placement was explained.</p>"
    return _section(
        "why",
        "Why here, why not yet",
        "为什么",
        "One workload that waits with everything that blocks it, and one that runs with the places that "
        "lost.",
        f"<h3>Waits</h3>{pending}<h3>Runs</h3>{placed}",
    )


def _asked(day: DayResult, e: Explanation) -> str:
    said = asked_in_words(day.fleet, e)
    said = said[:1].upper() + said[1:]
    return (
        f"<p>{escape(said)}<code>{escape(e.workload)}</code> <span class=chip>{escape(e.state)}</span> "
        f"{escape(e.summary)}</p>"
    )


def _pending(day: DayResult, e: Explanation) -> str:
    # every reason, not the first
    rows = [(escape(where), escape(blocks)) for where, blocks in blocked_in_words(e.reasons)]
    conflict = "".join(f"<li>{escape(rule)}</li>" for rule in e.conflict)
    relaxations = "".join(
        f"<li>{escape(x.change)}{f' (¥{number(x.price_yuan, 2)})' if x.price_yuan is not None else ''}</li>"
        for x in e.relaxations
    )
    return (
        _asked(day, e)
        + _table(("where", "what blocks it"), rows, words=2)
        + _noted_list(
            "Smallest set of rules that conflict; without any one of them it runs:", "conflict", conflict
        )
        + _noted_list("It would run with:", "list", relaxations)
    )


def _noted_list(note: str, css: str, items: str) -> str:
    return f"<p class=note>{note}</p><ul class={css}>{items}</ul>" if items else ""


def _placed(day: DayResult, e: Explanation) -> str:
    rows = []
    for c in e.candidates:
        why = "chosen" if c.chosen else c.lost_because or "; ".join(map(reason_in_words, c.reasons))
        site = day.fleet.site(c.site_id)
        rows.append(
            (
                *(("class=ours",) if c.chosen else ()),
                "✓" if c.chosen else "",
                _site_cell(site.kind, site.display_name or c.site_id, site.display_name_zh),
                escape(why),
                number(c.rtt_p99_ms, 1),
                number(c.power_w),
                number(c.ipue_marginal, 3),
                number(c.cost_yuan_per_hour, 3),
            )
        )
    head = (
        "<span hidden>chosen</span>",
        "site",
        "why",
        "p99 RTT ms",
        "power W",
        "marginal iPUE",
        "yuan per hour",
    )
    return _asked(day, e) + _table(head, rows, words=3)


def _optimality_section(day: DayResult) -> str:
    stats = [
        (
            escape(g.scope),
            f"{g.bounded_count} of {g.plan_count}",
            gap_percent(g.max_frac),
            gap_percent(g.mean_frac),
        )
        for g in day.gaps
    ]
    plans = [
        (
            clock(day.fleet, p.at_s),
            escape(b.scope),
            p.status.value,
            f"¥{number(b.objective_yuan, 1)}",
            NONE if b.bound_yuan is None else f"¥{number(b.bound_yuan, 1)}",
            gap_percent(b.gap_frac),
            number(p.unplaced_count),
            escape(b.model),
        )
        for p in day.plans
        for b in p.bounds
    ]
    cuts = "".join(
        f"<li>{clock(day.fleet, c.at_s)}: {escape(c.status)}, {escape(c.cause)}</li>" for c in day.cut_offs
    )
    return _section(
        "proof",
        "How far from the best",
        "最优性",
        "Each plan carries an objective and a bound below which no plan of its model can go; the gap is "
        "what could at most still be won. Edge sites are a small part of the city's cost, so they are "
        "judged apart as well.",
        _table(("scope", "plans with a bound", "largest gap", "mean gap"), stats)
        + _chart("gaps", "Gap of each plan, fleet and edge", "low")
        + (f"<h3>Solvers cut off</h3><ul class=list>{cuts}</ul>" if cuts else "")
        + _folded(
            "Table: every plan",
            _table(
                ("plan of", "scope", "status", "objective", "bound", "gap", "unplaced", "model"),
                plans,
                words=2,
            ),
        ),
    )


def _footer() -> str:
    terms = (
        (
            "iPUE",
            "facility energy over IT energy in any period under a year; the legal figure is that of a year",
        ),
        (
            "balance",
            "cap × IT energy − facility energy since 1 January: what a site still has before its year is "
            "over the cap",
        ),
        ("GPU-hour", "an hour of useful work of one reference GPU, as the sites counted it"),
        ("p99 RTT", "round trip over access, core and queues that 99 of 100 messages do not exceed"),
        ("gap", "(objective − bound) / objective of the model that the bound names"),
    )
    items = "".join(f"<dt>{t}</dt><dd>{d}</dd>" for t, d in terms)
    return (
        f"<footer><dl>{items}</dl><p style='margin-top:18px'>Everything here was read from the event log of the run. "
        "Charts by Apache ECharts, Apache License 2.0; this file makes no network request.</p></footer>"
    )


# ---------------------------------------------------------------------------------------------- command line


def latency_from_json(document: dict[str, Any]) -> LatencyMeasured:
    """`{"classes": [fields of ClassLatency], "site_p99_ms": {site: ms}}`, as `latency_to_json` writes it."""
    known = {f.name for f in fields(ClassLatency)}
    classes = []
    for row in document.get("classes", ()):
        unknown = sorted(set(row) - known)
        if unknown:
            raise ValueError(f"latency class has unknown fields {unknown}; known: {sorted(known)}")
        classes.append(ClassLatency(**{**row, "hour_p99_ms": tuple(row.get("hour_p99_ms", ()))}))
    return LatencyMeasured(tuple(classes), dict(document.get("site_p99_ms", {})))


def latency_to_json(latency: LatencyMeasured) -> dict[str, Any]:
    """Plain JSON of a measurement, to be kept beside the log."""
    names = [f.name for f in fields(ClassLatency)]
    return {
        "classes": [{n: getattr(c, n) for n in names} for c in latency.classes],
        "site_p99_ms": dict(latency.site_p99_ms),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the report of a saved log; 0, or 2 with what is wrong with the input."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_sim.report", description="HTML report of a saved event log"
    )
    parser.add_argument("events", type=Path, help="canonical event log, one JSON event a line")
    parser.add_argument(
        "--fleet", type=Path, help="fleet document (JSON); default: the one the log registered"
    )
    parser.add_argument("--latency", type=Path, help="measured latency (JSON), if it was kept")
    parser.add_argument(
        "--against", action="append", default=[], metavar="NAME=EVENTS.jsonl", help="another policy's log"
    )
    parser.add_argument(
        "--day-hours", type=float, default=None, help="length of the day with arrivals; default 24"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    args = parser.parse_args(arguments)
    try:
        story = DayStory(_saved_comparison(args), checks=None)
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(write_report(args.out, story))
    return 0


def _saved_comparison(args: argparse.Namespace) -> Comparison:
    latency = (
        latency_from_json(json.loads(args.latency.read_text(encoding="utf-8"))) if args.latency else None
    )
    fleet = Fleet.model_validate_json(args.fleet.read_text(encoding="utf-8")) if args.fleet else None
    days = [("suanli", _saved_day(args.events, "suanli", fleet, args.day_hours, latency))]
    for pair in args.against:
        name, found, path = pair.partition("=")
        if not found:
            raise BrokenLogError(f"--against {pair!r}: expected NAME=EVENTS.jsonl")
        days.append((name, _saved_day(Path(path), name, fleet, args.day_hours, None)))
    return Comparison.of(days)


def _saved_day(
    path: Path, policy: str, fleet: Fleet | None, day_hours: float | None, latency: LatencyMeasured | None
) -> DayResult:
    events = read_log(path)
    window = window_of_log(events)
    if day_hours is not None:
        end_s = min(window.start_s + round(day_hours * SECONDS_PER_HOUR), window.drained_until_s)
        window = DayWindow(window.start_s, end_s, window.drained_until_s)
    return build_day_result(events, fleet or fleet_of_log(events), window, policy=policy, latency=latency)


if __name__ == "__main__":
    sys.exit(main())
