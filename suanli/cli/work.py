"""Commands of submitters: submit, get, list, watch, cancel, why, plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suanli.cli.common import (
    CLI_WATCH_RETRY_S,
    DEFAULT_TENANT,
    Address,
    CityClock,
    Files,
    Output,
    Tenant,
    WorkloadArgument,
    WorkloadFiles,
    city_clock,
    complete_workload,
    connect,
    fixed,
    for_each,
    gpus,
    place_name,
    read_workloads,
    site_labels,
    told_workload,
    workload_name,
    yuan,
)
from suanli.cli.lazy import EXIT_FAILED_CHECK, EXIT_WOULD_WAIT, warn
from suanli.cli.output import (
    Column,
    Format,
    both_names,
    dump_json,
    emit,
    heading,
    number,
    one_name,
    paragraph,
    print_table,
    tick,
)

if TYPE_CHECKING:
    from suanli.client import Client
    from suanli.model import (
        Candidate,
        Explanation,
        FieldProblem,
        PlannedWorkload,
        StartEstimate,
        SuanliError,
        Workload,
        WorkloadRecord,
        WorkloadsPlan,
    )

PANEL = "Work"
WHY_CANDIDATES = 12

_STATE_STYLE = {
    "pending": "yellow",
    "planned": "cyan",
    "starting": "cyan",
    "running": "green",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "dim",
}


def _state_style(record: Any) -> str:
    return _STATE_STYLE.get(str(record.state), "")


def _short(name: str) -> str:
    return name.rpartition("/")[2]


_RECORD_COLUMNS = (
    Column("WORKLOAD", lambda r: told_workload(r.name)),
    Column("STATE", lambda r: str(r.state), style=_state_style),
    Column("CLASS", lambda r: r.workload_class or str(r.kind), 3),
    Column(
        "NAME",
        lambda r: both_names(r.display_name, r.display_name_zh),
        5,
        short=lambda r: one_name(r.display_name, r.display_name_zh),
    ),
    number("RUNNING", lambda r: f"{r.running_replica_count}/{r.replica_count}", 2),
    number("DONE", lambda r: str(r.done_replica_count or ""), 2),
    number("GPUS", lambda r: gpus(r.gpu_milli), 4),
    Column("SITES", lambda r: ",".join(r.site_ids), 3),
    Column("SUMMARY", lambda r: r.summary, 7),
)


def record_columns(clock: CityClock) -> tuple[Column, ...]:
    """Columns of workloads."""
    *first, summary = _RECORD_COLUMNS
    return (*first, clock.column("CREATED", lambda r: r.created_at_s, 8), summary)


def submit(
    files: Files,
    tenant: Tenant = DEFAULT_TENANT,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and show where it would lie; nothing is stored.")
    ] = False,
    if_etag: Annotated[
        str, typer.Option(help="Etag of `suanli plan`: refuse (6) when what it rested on has changed.")
    ] = "",
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Submit workloads from files; up to 1000 at once are accepted all or none.

    Examples:

        suanli submit examples/training.yaml

        cat jobs.yaml | suanli submit - --tenant research -o name
    """
    from suanli.client.core import MAX_PAGE_SIZE
    from suanli.model import SuanliError

    read = read_workloads(files, tenant, _checked_at(address))
    batches = list(read.batches(MAX_PAGE_SIZE))
    records: list[WorkloadRecord] = []
    warnings: list[FieldProblem] = []
    with connect(address) as client:
        clock = city_clock(client, output)
        try:
            for batch in batches:
                with batch.located():
                    answered = client.batch_create_workloads(
                        batch.workloads, validate_only=dry_run, plan_etag=if_etag
                    )
                records += answered
                warnings += batch.warnings(answered)
        except SuanliError:
            if records and not dry_run:
                typer.echo(f"the first {len(records)} of {len(read.workloads)} were accepted", err=True)
            raise
        if dry_run and output is Format.TABLE:
            labels = site_labels(client.list_sites())
            for batch in batches:
                _print_plan(client.plan_workloads(batch.workloads), labels, clock, batch.workloads)
    if not (dry_run and output is Format.TABLE):
        emit(records, output, record_columns(clock), lambda r: r.name)
    for warning in warnings:
        warn(str(warning))


def _checked_at(address: str | None) -> Callable[[WorkloadFiles], None]:
    """Has the service name what is impossible in well-formed workloads; nothing is stored."""

    def check(read: WorkloadFiles) -> None:
        from suanli.client.core import MAX_PAGE_SIZE

        with connect(address) as client:
            for batch in read.batches(MAX_PAGE_SIZE):
                with batch.located():
                    client.batch_create_workloads(batch.workloads, validate_only=True)

    return check


def get(
    names: Annotated[
        list[str],
        typer.Argument(metavar="WORKLOAD...", autocompletion=complete_workload, show_default=False),
    ],
    tenant: Tenant = DEFAULT_TENANT,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Show workloads with their state.

    Examples:

        suanli get llm-chat

        suanli get tenants/city/workloads/v2x-07 -o yaml
    """
    with connect(address) as client:
        clock = city_clock(client, output)
        records, refused = for_each(names, lambda n: client.get_workload(workload_name(n, tenant)))
    _emit_done(records, refused, output, clock, single=len(names) == 1)
    if output is Format.TABLE and len(names) == 1:
        _print_record(records[0], clock)


def _emit_done(
    records: list[WorkloadRecord],
    refused: list[SuanliError],
    output: Format,
    clock: CityClock,
    single: bool = False,
) -> None:
    """What was done, then every refusal as an error."""
    if records:
        emit(records, output, record_columns(clock), lambda r: r.name, single=single)
    if refused:
        raise refused[0] if len(refused) == 1 else ExceptionGroup("refused", refused)


def list_(
    tenant: Annotated[
        str | None, typer.Option("--tenant", "-t", envvar="SUANLI_TENANT", help="One tenant; else all.")
    ] = None,
    state: Annotated[str | None, typer.Option(help="Only in this state, e.g. pending.")] = None,
    workload_class: Annotated[
        str | None, typer.Option("--class", help="Only of this class, e.g. W9.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="training, inference, twin or batch.")] = None,
    filter: Annotated[
        str, typer.Option(help="Comparisons joined by AND, e.g. 'state = PENDING AND labels.team = \"x\"'.")
    ] = "",
    sort: Annotated[str, typer.Option(help="name, create_time or update_time, with ' desc' if wanted.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """List workloads.

    Examples:

        suanli list --state pending

        suanli list --class W12 --sort 'create_time desc' -o json
    """
    from itertools import islice

    parts = [filter] if filter else []
    for field, value in (("state", state), ("kind", kind)):
        if value:
            parts.append(f"{field} = {value.upper()}")
    if workload_class:
        parts.append(f'workload_class = "{workload_class}"')
    with connect(address) as client:
        found = client.list_workloads(f"tenants/{tenant or '-'}", filter=" AND ".join(parts), order_by=sort)
        records = list(islice(found, limit + 1))
        clock = city_clock(client, output)
        classes = _known_classes(client) if workload_class and not records else []
    emit(records[:limit], output, record_columns(clock), lambda r: r.name, empty="no workloads")
    if workload_class and not records and workload_class not in classes:
        warn(f"no workload is of class {workload_class!r}; there are {', '.join(classes) or 'none'}")
    if len(records) > limit and output is Format.TABLE:
        typer.echo(f"(only the first {limit}; --limit shows more)")


def _known_classes(client: Client) -> list[str]:
    """Classes that workloads name, of a thousand of them: a class is free text, nobody registers it."""
    from itertools import islice

    from suanli.client.core import MAX_PAGE_SIZE

    return sorted(
        {r.workload_class for r in islice(client.list_workloads("tenants/-"), MAX_PAGE_SIZE)} - {""}
    )


def watch(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[WORKLOAD]", autocompletion=complete_workload, show_default=False),
    ] = None,
    tenant: Tenant = DEFAULT_TENANT,
    all_tenants: Annotated[bool, typer.Option("--all", help="Workloads of all tenants.")] = False,
    until: Annotated[
        str | None,
        typer.Option(help="End when the named workload is running or ended; 1 when it failed."),
    ] = None,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Follow changes as they happen; goes on over restarts of the service. Ctrl-C ends it.

    Examples:

        suanli watch

        suanli watch render-1 --until running
    """
    from suanli.model import NotFound

    _check_until(name, until)
    wanted = workload_name(name, tenant) if name else ""
    parent = (
        "tenants/-" if all_tenants else "/".join(wanted.split("/")[:2]) if wanted else f"tenants/{tenant}"
    )
    with connect(address) as client:
        client.get_policy()  # that nobody is there is told at once
        clock = city_clock(client, output)
    with connect(address, CLI_WATCH_RETRY_S) as client:
        for change in client.watch_workloads(parent):
            if change.type == "bookmark" and wanted and change.resume_token:
                client.get_workload(wanted)
            if change.type == "bookmark" or (wanted and change.name != wanted):
                continue
            _print_change(change, output, clock)
            if until and change.record is not None and _reached(change.record, until):
                return
            if wanted and change.type == "deleted":
                raise NotFound(f"{wanted} is gone")


def cancel(
    names: Annotated[
        list[str],
        typer.Argument(metavar="WORKLOAD...", autocompletion=complete_workload, show_default=False),
    ],
    tenant: Tenant = DEFAULT_TENANT,
    cause: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    if_etag: Annotated[str, typer.Option(help="Only if unchanged since this etag.")] = "",
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """End workloads and free what they hold: all that can be ended, whatever is refused beside them.

    Example:

        suanli cancel render-1 --cause 'wrong scene'
    """
    with connect(address) as client:
        clock = city_clock(client, output)
        records, refused = for_each(
            names, lambda n: client.cancel_workload(workload_name(n, tenant), cause=cause, etag=if_etag)
        )
    _emit_done(records, refused, output, clock)


def why(
    name: WorkloadArgument,
    not_at: Annotated[
        str, typer.Option("--not-at", help="Why not there: a site (e04) or a node (e04/l20x4-3).")
    ] = "",
    fix: Annotated[bool, typer.Option("--fix", help="Also look for changes that would help.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Why a workload waits, or why it lies where it lies.

    Shows every blocking reason, the smallest set of rules that conflict, and each site considered.

    Examples:

        suanli why v2x-07

        suanli why v2x-07 --not-at e04-iiot-w --fix
    """
    with connect(address) as client:
        explanation = client.explain_workload(
            workload_name(name, tenant), why_not=place_name(not_at) if not_at else "", with_relaxations=fix
        )
        if output is Format.TABLE:
            print_explanation(explanation, site_labels(client.list_sites()), city_clock(client))
            if fix and explanation.state == "pending" and not explanation.relaxations:
                paragraph("\nNo single change helps.")
            return
    emit([explanation], output, (), lambda e: e.workload, single=True)


def plan(
    files: Files,
    tenant: Tenant = DEFAULT_TENANT,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Show what would happen if workloads were submitted now; changes nothing.

    Exit code 5 when any of them would wait. The etag printed makes `submit --if-etag` refuse when things have changed.

    Example:

        suanli plan examples/twin.yaml && suanli submit examples/twin.yaml
    """
    read = read_workloads(files, tenant, _checked_at(address))
    with connect(address) as client:
        with read.located():
            answer = client.plan_workloads(read.workloads)
        labels = site_labels(client.list_sites()) if output is Format.TABLE else {}
        clock = city_clock(client, output)
    if output is Format.TABLE:
        _print_plan(answer, labels, clock, read.workloads)
    else:
        emit([answer], output, (), lambda a: a.etag, single=True)
    for warning in read.warnings(answer.workloads):
        warn(str(warning))
    if any(str(w.state) == "pending" for w in answer.workloads):
        raise typer.Exit(EXIT_WOULD_WAIT)


def print_explanation(explanation: Explanation, labels: dict[str, str], clock: CityClock) -> None:
    """An explanation for people."""
    from suanli.model.words import blocked_places

    summary = _sentence(explanation.summary)
    paragraph(f"{_short(explanation.workload)} is {explanation.state}. {summary}".strip())
    if explanation.queue_position:
        ahead = explanation.other_work_ahead_count
        paragraph(f"Place {explanation.queue_position} in the queue, {ahead} of other work ahead.")
    start = explanation.expected_start
    if start is not None:
        paragraph(f"Expected to start {_start_text(start, clock)}")
    if explanation.conflict:
        title = _conflict_title(explanation)
        heading(title[:1].upper() + title[1:])
        for rule in explanation.conflict:
            paragraph(f"  - {rule}")
    if explanation.reasons:
        heading("Blocking reasons")
        for place in blocked_places(explanation.reasons):
            where = f"{', '.join(place.site_ids)}: " if place.site_ids else ""
            paragraph(f"  - {where}{place}")
    if explanation.candidates:
        heading("Considered")
        _print_candidates(explanation.candidates, labels)
    if explanation.relaxations:
        heading("Would help")
        for r in explanation.relaxations:
            price = "" if r.price_yuan is None else f"  (¥{yuan(r.price_yuan)})"
            paragraph(f"  - {r.change}{price}")


def _conflict_title(found: Explanation) -> str:
    """What the rules of the conflict do together; of one rule under which part is placed, that its room is taken."""
    if len(found.conflict) > 1:
        return "these cannot all hold at once, without any one it could be placed"
    if any(c.chosen for c in found.candidates):
        return "where this allows it, all room is taken"
    return "without this it could be placed"


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a name such as `e09-gov:`."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first.isalpha() else text


def _part_here(candidate: Candidate, placed: Mapping[tuple[str, str], int], wanted: Mapping[str, int]) -> str:
    """`86 of 200 here; then full` at a site that takes only part of a stage."""
    here = placed[candidate.stage_id, candidate.site_id]
    total = wanted.get(candidate.stage_id, 0)
    if not here or here == total:
        return ""
    placed_in_all = sum(n for (stage_id, _), n in placed.items() if stage_id == candidate.stage_id)
    is_full = placed_in_all < total and not candidate.has_room
    return f"{here} of {total} here{'; then full' if is_full else ''}"


def _print_candidates(
    candidates: tuple[Candidate, ...],
    labels: dict[str, str],
    part_here: Callable[[Candidate], str] = lambda _: "",
) -> None:
    mark = tick()
    several = len({c.stage_id for c in candidates}) > 1
    shown = sorted(candidates, key=lambda c: (c.stage_id if several else "", not c.chosen, not c.feasible))
    columns = (
        Column("", lambda c: mark if c.chosen else "", style=lambda c: "green"),
        Column("SITE", lambda c: c.site_id),
        Column("NAME", lambda c: labels.get(c.site_id, ""), 3),
        *((Column("STAGE", lambda c: c.stage_id),) if several else ()),
        number("KW", lambda c: fixed(None if c.power_w is None else c.power_w / 1000, 2), 3),
        number("IPUE", lambda c: fixed(c.ipue_marginal, 2), 2),
        number("RTT MS", lambda c: fixed(c.rtt_p99_ms), 1),
        number("¥/H", lambda c: yuan(c.cost_yuan_per_hour), 1),
        Column("WHY NOT", lambda c: part_here(c) or _why_lost(c)),
    )
    print_table(shown[:WHY_CANDIDATES], columns)
    if any("wake" in c.cost_terms_yuan_per_hour for c in shown[:WHY_CANDIDATES]):
        paragraph(
            "(KW is the work alone; ¥/H also holds the idle power of a node to be woken where none awake has room)"
        )
    if len(shown) > WHY_CANDIDATES:
        typer.echo(f"({len(shown) - WHY_CANDIDATES} more with -o json)")


def _why_lost(candidate: Candidate) -> str:
    if candidate.chosen:
        return ""
    if candidate.reasons:
        from suanli.model.words import reason_words

        first = reason_words(candidate.reasons[0])
        more = len(candidate.reasons) - 1
        return f"{first}; {more} more" if more else first
    return candidate.lost_because


def _print_plan(
    answer: WorkloadsPlan, labels: dict[str, str], clock: CityClock, asked: Sequence[Workload]
) -> None:
    stages = {w.name: {s.stage_id: s for s in w.stages} for w in asked}
    columns = (
        Column("WORKLOAD", lambda w: _short(w.workload)),
        Column("WOULD BE", _fate, style=_state_style),
        Column("SITES", _sites_of, 1),
        number("KW", lambda w: fixed(w.it_power_w / 1000, 2), 3),
        number("FACILITY KW", lambda w: fixed(w.facility_power_w / 1000, 2), 4),
        number("RTT MS", lambda w: fixed(w.rtt_p99_ms) if w.rtt_p99_ms else "", 2),
        number("¥/H", lambda w: yuan(w.cost_yuan_per_hour), 2),
        Column("WHY", lambda w: w.explanation.summary, 5),
    )
    print_table(answer.workloads, columns)
    for planned in answer.workloads:
        own = [s for s in stages[planned.workload].values() if s.shared_with is None]
        wanted_count = sum(s.replicas for s in own)
        _print_wait(planned, clock, wanted_count)
        if planned.explanation.candidates and len(answer.workloads) <= 3:
            heading(f"Considered for {_short(planned.workload)}")
            placed = Counter((p.stage_id, p.site_id) for p in planned.placements)
            wanted = {stage_id: s.replicas for stage_id, s in stages[planned.workload].items()}
            _print_candidates(
                planned.explanation.candidates, labels, partial(_part_here, placed=placed, wanted=wanted)
            )
    if answer.moves:
        heading("Would move")
        for move in answer.moves:
            paragraph(f"  - {_short(move.workload)}: {move.from_site_id} to {move.to_site_id}, {move.reason}")
    typer.echo("")
    paragraph(
        f"Together {fixed(answer.it_power_w / 1000, 2)} kW IT, {fixed(answer.facility_power_w / 1000, 2)} kW facility, "
        f"¥{yuan(answer.cost_yuan_per_hour)} an hour. Etag {answer.etag}"
    )


def _print_wait(planned: PlannedWorkload, clock: CityClock, wanted_count: int) -> None:
    """Why one of the workloads would wait, and how long."""
    found = planned.explanation
    if str(planned.state) != "pending" or not found.conflict:
        return
    waiting_count = wanted_count - len(planned.placements)
    what = f"{waiting_count} of {wanted_count} replicas of " if planned.placements else ""
    heading(f"{what}{_short(planned.workload)} would wait; {_conflict_title(found)}")
    for rule in found.conflict:
        paragraph(f"  - {rule}")
    if found.expected_start is not None:
        paragraph(f"It would start {_start_text(found.expected_start, clock)}")


def _start_text(start: StartEstimate, clock: CityClock) -> str:
    return (
        f"about {clock.told(start.likely_at_s)} (between {clock.told(start.earliest_at_s)} and "
        f"{clock.told(start.latest_at_s)}); {start.assumption}"
    )


def _fate(planned: PlannedWorkload) -> str:
    """What would become of it; a workload may be placed in part."""
    if str(planned.state) != "pending":
        return "placed"
    return "part waiting" if planned.placements else "waiting"


def _sites_of(planned: PlannedWorkload) -> str:
    return ",".join(sorted({p.site_id for p in planned.placements}))


def _print_record(record: WorkloadRecord, clock: CityClock) -> None:
    if record.summary:
        paragraph(f"\n{record.summary}")
    if record.pending_reasons:
        heading("Held back by")
        for code, count in sorted(record.pending_reasons.items(), key=lambda item: -item[1]):
            paragraph(f"  - {code.replace('_', ' ')} at {count} {'site' if count == 1 else 'sites'}")
    if record.queue_position:
        paragraph(f"\nPlace {record.queue_position} in the queue.")
    if record.expected_start is not None:
        paragraph(f"Expected to start {_start_text(record.expected_start, clock)}")
    if record.pending_reasons:
        paragraph(f"\nsuanli why {record.name} says more.")


def _print_change(change: Any, output: Format, clock: CityClock) -> None:
    if output in (Format.JSON, Format.YAML):
        typer.echo(dump_json(change, indent=None))
    elif output is Format.NAME:
        typer.echo(change.name)
    elif change.record is None:
        typer.echo(f"{told_workload(change.name)}  gone")
    else:
        r = change.record
        typer.echo(
            f"{clock.told_s(r.updated_at_s)}  {told_workload(r.name)}  {r.state}  {r.summary}".rstrip()
        )


def _check_until(name: str | None, until: str | None) -> None:
    if until is None:
        return
    if until not in ("running", "ended"):
        raise typer.BadParameter(f"{until!r} is not running or ended", param_hint="--until")
    if name is None:
        raise typer.BadParameter("needs a workload to wait for", param_hint="--until")


def _reached(record: WorkloadRecord, until: str) -> bool:
    """Whether the wait is over; a bad end is exit code 1."""
    if str(record.state) in ("failed", "cancelled"):
        raise typer.Exit(EXIT_FAILED_CHECK)
    return record.state.is_final or (until == "running" and str(record.state) == "running")
