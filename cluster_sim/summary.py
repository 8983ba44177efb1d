"""The day in a terminal: live progress while it is played, then one sentence, the tables, and what to type next.

Reads as well at 60 columns, without colour and in a log file: tables fold their columns by width, nothing depends on
colour alone, and where there is no terminal the live part is one plain line per simulated hour.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster_sim.day_tables import clock, price_yuan_per_kwh
from cluster_sim.day_values import Comparison, DayResult, Outage, SiteDay
from cluster_sim.day_words import (
    MODE_NAMES,
    NONE,
    asked_in_words,
    blocked_in_words,
    event_in_words,
    gap_percent,
    in_order,
    ipue_in_words,
    learned_in_words,
    number,
    one_sentence,
    outage_in_words,
    outcomes_in_words,
    percent,
    reason_in_words,
    saved_in_words,
    signed,
)
from cluster_sim.result import DayStory, DayWindow
from suanli.model import Event, EventKind, Explanation, Fleet, WorkloadState
from suanli.model.units import SECONDS_PER_HOUR
from suanli.model.words import wrapped

MEDIUM_COLUMNS = 96
"""From here a candidate's row also shows its power and marginal iPUE."""
NAMES_COLUMNS = 120
"""From here a candidate's row also names the site in words; below, why it lost needs the room."""
COLUMN_GAP = 2
COMMAND_MARK = "$"


def print_summary(console: Console, story: DayStory) -> None:
    """Write the whole summary to the console in its width."""
    day = story.comparison.ours
    console.print()
    console.print(Text(wrapped(one_sentence(story.comparison, story.versus), console.width), style="bold"))
    if outcomes := outcomes_in_words(day):
        console.print(Text(wrapped(f"At the end of the drain: {outcomes}.", console.width)))
    hours = number((day.window.day_end_s - day.window.start_s) / SECONDS_PER_HOUR)
    _section(console, f"Sites over the {hours} h of the day, tightest cap first")
    _print_sites(console, day)
    _section(console, "Moves")
    _print_moves(console, day)
    _section(console, "Latency")
    _print_latency(console, day)
    _section(console, "GPUs")
    _print_gpus(console, day)
    alone = len(story.comparison.rows) == 1
    _section(console, "Energy and money, drained" if alone else "The same day under other policies, drained")
    _print_comparison(console, story.comparison)
    _section(console, "One that waits")
    _print_pending(console, day, story.pending)
    _section(console, "One that was placed, and who lost")
    _print_placed(console, day, story.placed)
    _section(console, "How far from the best")
    _print_optimality(console, day)
    _section(console, "Checked")
    _print_checks(console, story)
    _print_next(console, story)


def render_summary(story: DayStory, width: int) -> str:
    """The summary as plain text of that width, as a log file shows it."""
    out = io.StringIO()
    print_summary(Console(width=width, color_system=None, force_terminal=False, file=out), story)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


# ----------------------------------------------------------------------------------------------- sections


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, style="bold cyan"))


def _table(*columns: tuple[str, str]) -> Table:
    """Headed table; "<" are words that may fold, "|" names and ">" figures that may not."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="dim"
    )
    for title, side in columns:
        if side == ">":
            table.add_column(title, justify="right", no_wrap=True)
        elif side == "|":
            table.add_column(title, justify="left", no_wrap=True)
        else:
            table.add_column(title, justify="left", overflow="fold")
    return table


def _indented(console: Console, text: str, style: str = "", by: int = 2) -> None:
    console.print(Padding(Text(wrapped(text, console.width - by), style=style), (0, 0, 0, by)))


def _fits(console: Console, table: Table, indent: int = 0) -> bool:
    """Whether the table's names and figures stand whole in the console's width after `indent`; only words may fold."""
    needed = 0
    for column in table.columns:
        cells = [str(column.header), *map(str, column.cells)]
        parts = cells if column.no_wrap else [word for cell in cells for word in cell.split()]
        needed += max(map(cell_len, parts), default=0)
    return indent + needed + COLUMN_GAP * (len(table.columns) - 1) <= console.width


def _print_legend(console: Console, names: Sequence[tuple[str, str, str]]) -> None:
    """Ids with their English and Chinese names, one a line; in a narrow console as running text."""
    table = Table.grid(padding=(0, COLUMN_GAP, 0, 0))
    for _ in range(3):
        table.add_column(no_wrap=True, style="dim")
    for row in names:
        table.add_row(*row)
    if _fits(console, table, indent=2):
        console.print(Padding(table, (0, 0, 0, 2)))
    else:
        _indented(console, "; ".join(" ".join(filter(None, row)) for row in names), "dim")


def _print_first_fitting(console: Console, *layouts: Callable[[], Sequence[Table]]) -> None:
    """Print the first layout of which every table fits; the last one whatever the width."""
    for layout in layouts:
        tables = layout()
        if layout is layouts[-1] or all(_fits(console, t) for t in tables):
            break
    for i, table in enumerate(tables):
        if i:
            console.print()
        console.print(table)


def _print_sites(console: Console, day: DayResult) -> None:
    _print_first_fitting(
        console,
        lambda: [_sites_whole(day, names=True)],
        lambda: [_sites_whole(day, names=False)],
        lambda: _sites_halves(day),
    )
    marked = {(m.site_id, m.from_s, m.until_s) for m in day.marks}
    for outage in day.outages:
        if (outage.site_id, outage.from_s, outage.until_s) not in marked:
            _print_outage(console, day, outage)
    down = {(o.site_id, o.from_s, o.until_s): o for o in day.outages}
    for mark in day.marks:
        made = down.get((mark.site_id, mark.from_s, mark.until_s))
        if made is not None:
            _print_outage(console, day, replace(made, cause=mark.label))
        else:
            _print_span(console, day, mark.site_id, mark.from_s, mark.until_s, mark.label)
    _indented(console, "balance = cap × IT energy − facility energy, since 1 January", "dim")
    if any(s.room_frac is not None for s in day.sites):
        _indented(console, "room = what the day could still have used, of its facility energy", "dim")
    if any(s.cap_held is not None for s in day.sites):
        _indented(
            console,
            "held = the day took no more from that balance than the year leaves for such a day; a cap is an "
            "annual mean, so a July day may lie above it",
            "dim",
        )
    if any(_ipue(s) == "idle" for s in day.sites):
        _indented(
            console,
            "idle: nothing ran there, or too little for the ratio to tell anything",
            "dim",
        )
    if any(s.rtt_p99_ms is not None and not s.rtt_is_measured for s in day.sites):
        _indented(console, "* RTT as predicted when placed; the network did not measure it", "dim")
    if not _fits(console, _sites_whole(day, names=True)):
        sites = [day.fleet.site(s.site_id) for s in day.sites]
        _print_legend(console, [(s.site_id, s.display_name, s.display_name_zh) for s in sites])


def _print_outage(console: Console, day: DayResult, outage: Outage) -> None:
    was_down = f"{outage.site_id} was down"
    _print_span(console, day, was_down, outage.from_s, outage.until_s, outage_in_words(outage))


def _print_span(console: Console, day: DayResult, what: str, from_s: int, until_s: int, cause: str) -> None:
    said = f"{what} {clock(day.fleet, from_s)}–{clock(day.fleet, until_s)}"
    _indented(console, f"{said}: {cause}" if cause else said)


def _sites_halves(day: DayResult) -> list[Table]:
    """Two tables under each other: what ran, then what it did to the ledger."""
    first = _table(
        ("site", "|"), ("placed", ">"), ("IT kWh", ">"), ("fac. kWh", ">"), ("iPUE", ">"), ("p99 ms", ">")
    )
    second = _table(
        ("site", "|"),
        ("cap", ">"),
        ("before", ">"),
        ("after kWh", ">"),
        ("room", ">"),
        ("held", ">"),
        ("¥/kWh", ">"),
    )
    for s in day.sites:
        first.add_row(
            s.site_id,
            number(s.placed_count),
            number(s.it_kwh),
            number(s.facility_kwh),
            _ipue(s),
            _rtt(s),
        )
        second.add_row(
            s.site_id,
            _cap(s),
            signed(s.balance_before_kwh),
            signed(s.balance_after_kwh),
            percent(s.room_frac),
            _held(s),
            number(s.price_yuan_per_kwh, 3),
        )
    return [first, second]


def _sites_whole(day: DayResult, *, names: bool) -> Table:
    """All of a site in one row."""
    table = _table(
        ("site", "|"),
        *([("name", "|"), ("名称", "|")] if names else []),
        ("placed", ">"),
        ("IT kWh", ">"),
        ("facil. kWh", ">"),
        ("iPUE", ">"),
        ("cap", ">"),
        ("bal. before", ">"),
        ("after kWh", ">"),
        ("room", ">"),
        ("down min", ">"),
        ("held", ">"),
        ("¥/kWh", ">"),
        ("p99 ms", ">"),
    )
    for s in day.sites:
        table.add_row(
            s.site_id,
            *((s.name, s.name_zh) if names else ()),
            number(s.placed_count),
            number(s.it_kwh),
            number(s.facility_kwh),
            _ipue(s),
            _cap(s),
            signed(s.balance_before_kwh),
            signed(s.balance_after_kwh),
            percent(s.room_frac),
            number(s.outage_min) if s.outage_min else "",
            _held(s),
            number(s.price_yuan_per_kwh, 3),
            _rtt(s),
        )
    return table


def _ipue(site: SiteDay) -> str:
    return ipue_in_words(site.it_kwh, site.facility_kwh, is_empty=not site.placed_count)


def _cap(site: SiteDay) -> str:
    if site.pue_cap_annual is not None:
        return number(site.pue_cap_annual, 2)
    return f"{number(site.ipue_cap_hourly, 2)}/h" if site.ipue_cap_hourly is not None else NONE


def _held(site: SiteDay) -> str:
    return {True: "yes", False: "NO", None: ""}[site.cap_held]


def _rtt(site: SiteDay) -> str:
    return number(site.rtt_p99_ms, 1) + ("" if site.rtt_is_measured or site.rtt_p99_ms is None else "*")


def _print_moves(console: Console, day: DayResult) -> None:
    for move in day.moves:
        english, chinese = MODE_NAMES[move.mode]
        _indented(
            console,
            f"{english} {chinese}: {number(move.count)}"
            + (f", {number(move.within_site_count)} of them within a site" if move.within_site_count else "")
            + (
                f", cost ¥{number(move.cost_yuan, 2)}, saves "
                + saved_in_words(move.gain_yuan, move.saved_wait_gpu_h, move.saved_lateness_yuan, decimals=2)
                if move.count
                else ""
            ),
        )
        if move.example:
            _indented(console, f"e.g. {move.example}", "dim", by=4)


def _print_latency(console: Console, day: DayResult) -> None:
    if day.latency is None:
        _indented(console, "not measured")
        return
    if not day.latency.classes:
        _indented(console, "nothing that ran has a latency budget")
        return
    _print_first_fitting(
        console, lambda: [_latency_table(day, names=True)], lambda: [_latency_table(day, names=False)]
    )
    if day.class_names and not _fits(console, _latency_table(day, names=True)):
        ids = [c.workload_class for c in in_order(day.latency.classes)]
        _print_legend(console, [(i, *day.class_names.get(i, ("", ""))) for i in ids])


def _latency_table(day: DayResult, *, names: bool) -> Table:
    assert day.latency is not None
    table = _table(
        ("class", "|"),
        ("hard", ">"),
        ("inside", ">"),
        ("p99 ms", ">"),
        ("budget", ">"),
        ("outside", ">"),
        ("down min", ">"),
    )
    for c in in_order(day.latency.classes):
        table.add_row(
            day.class_name(c.workload_class) if names else c.workload_class,
            "hard" if c.is_hard else "",
            percent(c.inside_frac, 2),
            number(c.p99_ms, 1),
            number(c.budget_ms),
            number(c.outside_count),
            number(c.outage_min),
        )
    return table


def _print_gpus(console: Console, day: DayResult) -> None:
    if not day.gpu_models:
        _indented(console, "no GPU is installed")
        return
    table = _table(("model", "|"), ("installed", ">"), ("in use", ">"), ("mean", ">"), ("peak", ">"))
    for g in day.gpu_models:
        table.add_row(
            g.model,
            number(g.installed_count),
            number(g.mean_allocated, 1),
            percent(g.mean_allocated / g.installed_count),
            percent(g.peak_allocated / g.installed_count),
        )
    console.print(table)
    installed = sum(g.installed_count for g in day.gpu_models)
    allocated = np.sum(list(day.gpus.values.values()), axis=0)
    _indented(
        console,
        f"all {number(installed)} GPUs: {percent(float(allocated.mean()) / installed)} promised to replicas in the "
        f"mean of the day, {percent(float(allocated.max()) / installed)} at most, "
        f"{percent(float(allocated[-1]) / installed)} at its end",
    )


def _print_comparison(console: Console, comparison: Comparison) -> None:
    money, promises = (
        (("MWh", ">"), ("¥", ">"), ("GPU-h", ">"), ("¥/GPU-h", ">"), ("ours", ">")),
        (("caps", ">"), ("outside", ">"), ("hard", ">"), ("waits", ">")),
    )
    rows = []
    for row in comparison.rows:
        is_ours = row is comparison.rows[0]
        below_frac = None if is_ours else comparison.below_frac(row.policy)
        versus = "" if is_ours else NONE if below_frac is None else f"{signed(-below_frac * 100, 1)} %"
        mwh, yuan = number(row.facility_kwh / 1000, 2), number(row.cost_yuan)
        costs = (mwh, yuan, number(row.delivered_gpu_h), number(row.yuan_per_gpu_h, 3), versus)
        kept = (
            f"{row.caps_held}/{row.caps_count}",
            number(row.outside_count),
            number(row.hard_outside_count),
            number(row.pending_count),
        )
        rows.append((row.policy, costs, kept))

    def whole() -> list[Table]:
        table = _table(("policy", "|"), *money, *promises)
        for policy, costs, kept in rows:
            table.add_row(policy, *costs, *kept)
        return [table]

    def halves() -> list[Table]:
        first, second = _table(("policy", "|"), *money), _table(("policy", "|"), *promises)
        for policy, costs, kept in rows:
            first.add_row(policy, *costs)
            second.add_row(policy, *kept)
        return [first, second]

    _print_first_fitting(console, whole, halves)
    _indented(
        console,
        "energy of all facilities; ours: our ¥/GPU-h against theirs; outside, hard: workloads (of hard classes) "
        "outside their latency; waits: pending or planned",
        "dim",
    )


def _print_pending(console: Console, day: DayResult, pending: Explanation | None) -> None:
    waiting, planned = (day.state_counts.get(s, 0) for s in (WorkloadState.PENDING, WorkloadState.PLANNED))
    if waiting or planned:
        _indented(
            console,
            f"at the end of the drain {number(waiting)} pending and {number(planned)} planned for later",
        )
    if day.pending_by_reason:
        reasons = ", ".join(f"{r.replace('_', ' ')} {number(n)}" for r, n in day.pending_by_reason.items())
        _indented(console, f"replicas that waited in the last round of the day, by reason: {reasons}")
    if pending is None:
        if not (waiting or planned or day.pending_by_reason):
            _indented(console, "nothing waits at the end of the day")
        return
    _indented(console, asked_in_words(day.fleet, pending) + _explained(pending))
    for where, blocks in blocked_in_words(pending.reasons):
        _indented(console, f"• {where}: {blocks}", "", by=4)
    if pending.conflict:
        _indented(console, "smallest set that conflicts (drop any one and it runs):")
        for rule in pending.conflict:
            _indented(console, f"× {rule}", "", by=4)
    if pending.relaxations:
        _indented(console, "what would let it run, and its price:")
    for relaxation in pending.relaxations:
        price = f" (¥{number(relaxation.price_yuan, 2)})" if relaxation.price_yuan is not None else ""
        _indented(console, f"+ {relaxation.change}{price}", "", by=4)


def _explained(answer: Explanation) -> str:
    return f"{answer.workload} {answer.state}" + (f": {answer.summary}" if answer.summary else "")


def _print_placed(console: Console, day: DayResult, placed: Explanation | None) -> None:
    if placed is None:
        _indented(console, "no placement was explained")
        return
    _indented(console, asked_in_words(day.fleet, placed) + _explained(placed))
    wide, named = console.width >= MEDIUM_COLUMNS, console.width >= NAMES_COLUMNS
    table = _table(
        ("", "|"),
        ("site", "|"),
        ("p99 ms", ">"),
        *((("W", ">"), ("marg. iPUE", ">")) if wide else ()),
        ("¥/h", ">"),
        ("why not", "<"),
    )
    for c in placed.candidates:
        table.add_row(
            "✓" if c.chosen else "",
            f"{c.site_id} {day.site_name(c.site_id)}" if named else c.site_id,
            number(c.rtt_p99_ms, 1),
            *((number(c.power_w), number(c.ipue_marginal, 3)) if wide else ()),
            number(c.cost_yuan_per_hour, 2),
            "chosen" if c.chosen else c.lost_because or "; ".join(map(reason_in_words, c.reasons)) or NONE,
        )
    console.print(Padding(table, (0, 0, 0, 2)))


def _print_optimality(console: Console, day: DayResult) -> None:
    if not day.gaps:
        _indented(console, "no plan carried a bound")
    first = {b.scope: b for p in reversed(day.plans) for b in p.bounds}
    for gap in day.gaps:
        bound = first[gap.scope]
        _indented(
            console,
            f"{gap.scope}: gap at most {gap_percent(gap.max_frac)}, mean {gap_percent(gap.mean_frac)}, proven for "
            f"{gap.bounded_count} of {gap.plan_count} plans; first plan ¥{number(bound.objective_yuan)} against a "
            f"bound of {NONE if bound.bound_yuan is None else '¥' + number(bound.bound_yuan)} ({bound.model})",
        )
    for cut in day.cut_offs:
        _indented(console, f"solver cut off at {clock(day.fleet, cut.at_s)} ({cut.status}): {cut.cause}")


def _print_checks(console: Console, story: DayStory) -> None:
    checks, day = story.checks, story.comparison.ours
    if checks is None:
        _indented(console, "verify: not run on this log")
    else:
        found, looked = len(checks.violations), number(checks.checked_count)
        _indented(console, f"verify: {found} violations in {looked} checks")
    if learned := learned_in_words(day):
        _indented(console, learned)
    closes = "close" if not day.account_problems else "DO NOT CLOSE"
    _indented(console, f"accounts of {number(day.event_count)} events {closes}")
    if checks is None:
        for problem in day.account_problems:
            _indented(console, f"• {problem}", "", by=4)
    for breach in day.breaches:
        _indented(
            console,
            f"cap breach reported at {day.site_name(breach.site_id)}, {clock(day.fleet, breach.from_s)}–"
            f"{clock(day.fleet, breach.until_s)}, debt {number(breach.debt_kwh, 1)} kWh: {breach.cause}",
        )
    for failure in story.failures:
        _indented(console, f"FAILED: {failure}", "bold red")


def _print_next(console: Console, story: DayStory) -> None:
    console.print()
    if story.report_path:
        console.print(Text("Report: ").append(story.report_path, style="bold"), soft_wrap=True)
    if story.next_commands:
        console.print("Next:")
    for command in story.next_commands:
        console.print(Text(f"  {COMMAND_MARK} {command}", style="green"), soft_wrap=True)


# ------------------------------------------------------------------------------------------- live progress


class LiveDay:
    """Progress while a day is played: feed it every new event; it never reads anything else.

    On a terminal a bar and one line that change; elsewhere one line per simulated hour.
    """

    def __init__(self, console: Console, fleet: Fleet, window: DayWindow, *, title: str = "") -> None:
        self._console = console
        self._fleet = fleet
        self._window = window
        self._title = title
        self._state: dict[str, WorkloadState] = {}
        self._counts: Counter[WorkloadState] = Counter()
        self._site = {s.site_id: i for i, s in enumerate(fleet.sites)}
        self._power_kw = np.zeros(len(fleet.sites))
        self._cost_yuan = 0.0
        self._last = "the day begins"
        self._at_s = window.start_s
        self._next_line_s = window.start_s + SECONDS_PER_HOUR
        moves_its_cursor = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if moves_its_cursor else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def cost_yuan(self) -> float:
        """Energy cost of all meters seen so far."""
        return self._cost_yuan

    def advance(self, at_s: int, events: Sequence[Event]) -> None:
        """Take over what happened until `at_s` and show it."""
        for event in events:
            self._take(event)
        self._at_s = at_s
        if self._live is not None:
            self._draw()
        elif at_s >= self._next_line_s:
            self._console.print(self._line(), soft_wrap=True, highlight=False)
            self._next_line_s = (at_s // SECONDS_PER_HOUR + 1) * SECONDS_PER_HOUR

    def _take(self, event: Event) -> None:
        if event.kind is EventKind.WORKLOAD_SUBMITTED:
            self._enter(event.subject, WorkloadState.PENDING)
        elif event.kind is EventKind.WORKLOAD_STATE:
            self._enter(event.subject, WorkloadState(event.body["state"]))
        elif event.kind is EventKind.SITE_METERED:
            self._meter(event)
        self._last = event_in_words(event, self._fleet) or self._last

    def _enter(self, name: str, state: WorkloadState) -> None:
        before = self._state.get(name)
        if before is not None:
            self._counts[before] -= 1
        self._state[name] = state
        self._counts[state] += 1

    def _meter(self, event: Event) -> None:
        meters = event.body["meters"]
        rows = [self._site[m["site_id"]] for m in meters]
        energy_kwh = np.array([m["facility_energy_kwh"] for m in meters])
        at_s = np.array(sorted({m["from_s"] for m in meters}), np.int64)
        prices = price_yuan_per_kwh(self._fleet, at_s)
        columns = np.searchsorted(at_s, [m["from_s"] for m in meters])
        self._cost_yuan += float((energy_kwh * prices[rows, columns]).sum())
        self._power_kw[rows] = [m["facility_power_kw"] for m in meters]

    def _line(self) -> str:
        drained = " (draining)" if self._at_s > self._window.day_end_s else ""
        return (
            f"{clock(self._fleet, self._at_s)}{drained}  running {number(self._counts[WorkloadState.RUNNING])}  "
            f"pending {number(self._counts[WorkloadState.PENDING])}  {number(float(self._power_kw.sum()))} kW  "
            f"¥{number(self._cost_yuan)}  {self._last}"
        )

    def _draw(self) -> None:
        assert self._live is not None
        span_s = self._window.drained_until_s - self._window.start_s
        bar = ProgressBar(total=span_s, completed=self._at_s - self._window.start_s, width=None)
        head = Text(self._title, style="bold") if self._title else Text("")
        figures = Text(self._line(), overflow="ellipsis", no_wrap=True)
        # a bar ends without a new line: unpadded, the figures would stand behind it, off the screen
        self._live.update(Group(head, Padding(bar), figures), refresh=True)
