"""Commands of operators: sites, nodes, cordon, uncordon, drain, policy, placements, rounds, plans, operations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suanli.cli.common import (
    DEFAULT_TENANT,
    Address,
    CityClock,
    Output,
    Tenant,
    city_clock,
    complete_site,
    complete_workload,
    connect,
    fixed,
    gpus,
    place_in_file,
    place_name,
    read_text,
    site_name,
    told_workload,
    workload_name,
)
from suanli.cli.lazy import warn
from suanli.cli.output import (
    Column,
    Format,
    both_names,
    emit,
    heading,
    number,
    one_name,
    paragraph,
    print_table,
)

if TYPE_CHECKING:
    from suanli.client import Client
    from suanli.model import Plan, Policy, Round, SiteRecord
    from suanli.yaml_io import ReadPolicy

FLEET_PANEL = "Fleet"
DECISIONS_PANEL = "Policies and decisions"

policy_app = typer.Typer(help="Read and revise policies.", no_args_is_help=True)
fleet_app = typer.Typer(help="Read and register the fleet: sites, nodes, links, zones.", no_args_is_help=True)

Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]
Place = Annotated[
    str,
    typer.Argument(
        metavar="PLACE",
        help="A site (e04) or a node (e04/l20x4-3).",
        autocompletion=complete_site,
        show_default=False,
    ),
]
Cause = Annotated[str, typer.Option(help="Why, for the log.")]
PolicyId = Annotated[str, typer.Option("--policy", help="Which policy.")]


def _site_state(record: SiteRecord) -> str:
    if not record.status.up:
        return "down"
    if record.site.cordoned:
        return "cordoned"
    return "open" if record.status.open else "closed"


def _meter(record: SiteRecord, name: str) -> str:
    meter = record.status.meter
    return "" if meter is None else fixed(getattr(meter, name), 1)


def _cap(record: SiteRecord) -> str:
    """Caps in force; `*` marks what the policy overrides."""
    own, caps = record.site.caps, record.status.caps or record.site.caps
    parts = [
        (caps.pue_cap_annual, own.pue_cap_annual, "/y"),
        (caps.ipue_cap_hourly, own.ipue_cap_hourly, "/h"),
    ]
    return " ".join(f"{now:g}{per}{'' if now == before else '*'}" for now, before, per in parts if now)


def _limit_kw(record: SiteRecord) -> str:
    """IT power limit in force; `*` marks one that the policy sets."""
    from suanli.model.words import grouped

    own_kw = record.site.power_limit_kw
    now_kw = own_kw if record.status.power_limit_kw is None else record.status.power_limit_kw
    return f"{grouped(now_kw, '.5g')}{'' if now_kw == own_kw else '*'}"


def _floor(record: SiteRecord) -> str:
    floor = record.status.reserved_floor_frac
    return f"{floor:.0%}" if floor else ""


def _balance(record: SiteRecord) -> str:
    ledger = record.status.ledger
    return "" if ledger is None else fixed(ledger.balance_after_kwh, 0)


_SITE_STYLE = {"down": "red", "cordoned": "yellow", "closed": "dim", "open": "green"}

SITE_COLUMNS = (
    Column("SITE", lambda r: r.site.site_id),
    Column(
        "NAME",
        lambda r: both_names(r.site.display_name, r.site.display_name_zh),
        6,
        short=lambda r: one_name(r.site.display_name, r.site.display_name_zh),
    ),
    Column("KIND", lambda r: str(r.site.kind), 8),
    Column("STATE", _site_state, style=lambda r: _SITE_STYLE[_site_state(r)]),
    number(
        "GPUS",
        lambda r: f"{gpus(r.status.placed_gpu_milli) or 0}/{gpus(r.status.installed_gpu_milli) or 0}",
        1,
    ),
    number("REPLICAS", lambda r: str(r.status.placed_replica_count), 7),
    number("IT KW", lambda r: _meter(r, "it_power_kw"), 4),
    number("FACILITY KW", lambda r: _meter(r, "facility_power_kw"), 5),
    number("IPUE", lambda r: fixed(r.status.ipue, 2), 2),
    number("CAP", _cap, 2),
    number("LIMIT KW", _limit_kw, 9),
    number("FLOOR", _floor, 10),
    number("LEDGER KWH", _balance, 5),
    number("¥/KWH", lambda r: fixed(r.status.price_yuan_per_kwh, 3), 8),
    number("RTT MS", lambda r: fixed(r.status.rtt_p99_ms), 9),
)

NODE_COLUMNS = (
    Column("NODE", lambda n: f"{n.site_id}/{n.node_id}"),
    Column("GROUP", lambda n: n.group_id, 4),
    Column("STATE", lambda n: "cordoned" if n.cordoned else str(n.state)),
    number("REPLICAS", lambda n: str(n.placed_replica_count), 2),
    number("FREE CORES", lambda n: fixed(n.cpu_free_milli / 1000), 3),
    number("FREE GIB", lambda n: fixed(n.memory_free_mib / 1024), 3),
    number("FREE GPUS", lambda n: gpus(sum(n.gpu_free_milli)), 1),
)


def placement_columns(clock: CityClock) -> tuple[Column, ...]:
    """Columns of placements."""
    return (*_PLACEMENT_COLUMNS, clock.column("SINCE", lambda p: p.start_at_s, 6))


_PLACEMENT_COLUMNS = (
    Column("WORKLOAD", lambda p: told_workload(p.workload)),
    Column("STAGE", lambda p: p.stage_id, 2),
    number("REPLICA", lambda p: str(p.replica_index), 3),
    Column("NODE", lambda p: f"{p.site_id}/{p.node_id}"),
    number("GPUS", lambda p: gpus(p.gpu_milli), 2),
    number("RTT MS", lambda p: fixed(p.rtt_p99_ms), 3),
    number("W", lambda p: fixed(p.power_w, 0), 4),
    number("¥/H", lambda p: fixed(p.price_yuan_per_hour, 3), 4),
)


def _first_reason(found: Round) -> str:
    return max(found.pending_by_reason, key=lambda c: found.pending_by_reason[c], default="").replace(
        "_", " "
    )


_ROUND_COLUMNS = (
    Column("ROUND", lambda r: r.round_id),
    number("CONSIDERED", lambda r: str(r.considered), 3),
    number("PLACED", lambda r: str(r.placed)),
    number("MOVED", lambda r: str(r.moved), 2),
    number("PREEMPTED", lambda r: str(r.preempted), 4),
    number("PAUSED", lambda r: str(r.paused), 4),
    number("PENDING", lambda r: str(r.pending)),
    Column("FIRST REASON", _first_reason, 5),
)


def round_columns(clock: CityClock) -> tuple[Column, ...]:
    """Columns of rounds."""
    first, *rest = _ROUND_COLUMNS
    return (first, clock.column("AT", lambda r: r.at_s, 1), *rest)


_PLAN_COLUMNS = (
    Column("PLAN", lambda p: p.plan_id),
    number("HOURS", lambda p: f"{p.horizon_s / 3600:g}", 4),
    Column("STATUS", lambda p: str(p.status)),
    number("GAP FLEET", lambda p: _gap(p, "fleet"), 2),
    number("GAP EDGE", lambda p: _gap(p, "edge"), 3),
    number("VIOLATIONS", lambda p: str(p.violations), 5),
    number("EXCEEDED", lambda p: str(p.cap_exceeded_count), 4),
)


def plan_columns(clock: CityClock) -> tuple[Column, ...]:
    """Columns of plans."""
    first, *rest = _PLAN_COLUMNS
    return (first, clock.column("AT", lambda p: p.at_s, 1), *rest)


FLEET_COLUMNS = (
    number("SITES", lambda r: str(len(r.fleet.sites))),
    number("NODES", lambda r: fixed(sum(g.node_count for s in r.fleet.sites for g in s.groups), 0)),
    number(
        "GPUS",
        lambda r: fixed(sum(g.node_count * g.gpu_count for s in r.fleet.sites for g in s.groups), 0),
    ),
    number("ZONES", lambda r: str(len(r.fleet.zones)), 2),
    number("LINKS", lambda r: str(len(r.fleet.network.links)), 3),
    number("RATED IT KW", lambda r: fixed(sum(s.rated_it_kw for s in r.fleet.sites)), 1),
    Column("ETAG", lambda r: r.etag, 4),
)

_POLICY_COLUMNS = (
    number("REVISION", lambda p: str(p.revision)),
    Column("LEDGER", lambda p: p.ledger_load, 4),
    number("DEBT ¥/KWH", lambda p: f"{p.debt_price_yuan_per_kwh:g}", 3),
    number("MOVE ¥/GPU", lambda p: f"{p.migration_yuan_per_gpu:g}", 3),
    number("MOVES/H", lambda p: str(p.move_budget_per_hour), 5),
    number("HORIZON H", lambda p: str(p.horizon_hours), 5),
    number("OVERRIDES", lambda p: str(len(p.sites)), 2),
)


def policy_columns(clock: CityClock) -> tuple[Column, ...]:
    """Columns of policies."""
    first, *rest = _POLICY_COLUMNS
    return (first, clock.column("CREATED", lambda p: p.created_at_s, 1), *rest)


OPERATION_COLUMNS = (
    Column("OPERATION", lambda o: o.name.rpartition("/")[2]),
    Column("VERB", lambda o: o.verb, 2),
    Column("TARGET", lambda o: o.target, 1),
    Column("STATE", lambda o: "failed" if o.error else "done" if o.done else "running"),
    number("DONE", lambda o: f"{o.progress_frac:.0%}", 3),
    Column("MESSAGE", lambda o: o.error or o.message, 4),
)


def _gap(plan: Plan, scope: str) -> str:
    gap = next((b.gap_frac for b in plan.bounds if b.scope == scope), None)
    return "" if gap is None else f"{gap:.2%}"


def sites(
    name: Annotated[
        str | None, typer.Argument(metavar="[SITE]", autocompletion=complete_site, show_default=False)
    ] = None,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Sites with power, iPUE, caps and ledger.

    Examples:

        suanli sites

        suanli sites e01-hub -o yaml
    """
    with connect(address) as client:
        records = [client.get_site(site_name(name))] if name else list(client.list_sites())
    shown = emit(
        records,
        output,
        SITE_COLUMNS,
        lambda r: f"sites/{r.site.site_id}",
        single=name is not None,
        empty="no sites: no fleet is registered",
    )
    in_force = [title for title in ("CAP", "LIMIT KW", "FLOOR") if title in shown]
    if in_force and records[0].status.policy_revision:
        is_marked = any("*" in _cap(r) + _limit_kw(r) for r in records)
        mark = "; * differs from the site's own" if is_marked else ""
        typer.echo(
            f"({', '.join(in_force)} in force under policy revision {records[0].status.policy_revision}{mark})"
        )


def nodes(
    name: Annotated[
        str | None, typer.Argument(metavar="[PLACE]", help="A site or a node; else all.", show_default=False)
    ] = None,
    limit: Limit = 200,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Nodes with what is free on them.

    Examples:

        suanli nodes e01-hub

        suanli nodes e01-hub/l20x4-3 -o json
    """
    from itertools import islice

    place = place_name(name) if name else "sites/-"
    with connect(address) as client:
        found = (
            [client.get_node(place)] if "/nodes/" in place else list(islice(client.list_nodes(place), limit))
        )
    emit(found, output, NODE_COLUMNS, lambda n: f"sites/{n.site_id}/nodes/{n.node_id}", empty="no nodes")


def cordon(place: Place, cause: Cause = "", output: Output = Format.TABLE, address: Address = None) -> None:
    """Close a site or a node to new work; what runs there stays.

    Example:

        suanli cordon e04-iiot-w --cause 'chiller service'
    """
    with connect(address) as client:
        name = place_name(place)
        on_node = "/nodes/" in name
        done: Any = (
            client.cordon_node(name, cause=cause) if on_node else client.cordon_site(name, cause=cause)
        )
    _emit_place(done, on_node, name, output)


def uncordon(place: Place, cause: Cause = "", output: Output = Format.TABLE, address: Address = None) -> None:
    """Open a site or a node again.

    Example:

        suanli uncordon e04-iiot-w
    """
    with connect(address) as client:
        name = place_name(place)
        on_node = "/nodes/" in name
        done: Any = (
            client.uncordon_node(name, cause=cause) if on_node else client.uncordon_site(name, cause=cause)
        )
    _emit_place(done, on_node, name, output)


def drain(
    place: Place,
    cause: Cause = "",
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Wait so many seconds for the end.")] = 0,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Close a site or a node and move what runs there elsewhere.

    Example:

        suanli drain e04-iiot-w --wait 60
    """
    with connect(address) as client:
        name = place_name(place)
        start = client.drain_node if "/nodes/" in name else client.drain_site
        operation = start(name, cause=cause)
        if wait_s and not operation.done:
            operation = client.wait_operation(operation.name, wait_s=wait_s)
    emit([operation], output, OPERATION_COLUMNS, lambda o: o.name, single=True)


def placements(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[WORKLOAD]", autocompletion=complete_workload, show_default=False),
    ] = None,
    site: Annotated[str, typer.Option(help="Only on this site.", autocompletion=complete_site)] = "",
    tenant: Tenant = DEFAULT_TENANT,
    limit: Limit = 200,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Where replicas lie, of one workload or of all.

    Examples:

        suanli placements llm-chat

        suanli placements --site e01-hub
    """
    from itertools import islice

    parent = workload_name(name, tenant) if name else "tenants/-/workloads/-"
    filter = f'site = "{site_name(site)}"' if site else ""
    with connect(address) as client:
        found = list(islice(client.list_placements(parent, filter=filter), limit + 1))
        clock = city_clock(client, output)
    emit(
        found[:limit],
        output,
        placement_columns(clock),
        lambda p: f"{p.workload}/placements/{p.placement_id}",
        empty="no placements",
    )
    if len(found) > limit and output is Format.TABLE:
        typer.echo(f"(only the first {limit}; --limit shows more)")


def rounds(
    name: Annotated[str | None, typer.Argument(metavar="[ROUND]", show_default=False)] = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Rounds of the planner, newest first; with a name one of them with its reasons.

    Examples:

        suanli rounds

        suanli rounds 42
    """
    from itertools import islice

    with connect(address) as client:
        if name:
            found = [client.get_round(name if name.startswith("rounds/") else f"rounds/{name}")]
        else:
            found = list(islice(client.list_rounds(), limit))
        clock = city_clock(client, output)
    emit(
        found,
        output,
        round_columns(clock),
        lambda r: f"rounds/{r.round_id}",
        single=bool(name),
        empty="no rounds yet",
    )
    if name and output is Format.TABLE:
        _print_round(found[0])


def plans(
    name: Annotated[
        str | None, typer.Argument(metavar="[PLAN]", help="An id, or latest.", show_default=False)
    ] = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Horizon plans with their gaps, newest first; with a name one of them with bounds and ledgers.

    Examples:

        suanli plans

        suanli plans latest
    """
    from itertools import islice

    with connect(address) as client:
        if name:
            found = [client.get_plan(name if name.startswith("plans/") else f"plans/{name}")]
        else:
            found = list(islice(client.list_plans(), limit))
        clock = city_clock(client, output)
    emit(
        found,
        output,
        plan_columns(clock),
        lambda p: f"plans/{p.plan_id}",
        single=bool(name),
        empty="no plans yet",
    )
    if name and output is Format.TABLE:
        _print_plan_details(found[0])


def operations(
    name: Annotated[str | None, typer.Argument(metavar="[OPERATION]", show_default=False)] = None,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Wait so many seconds for its end.")] = 0,
    cancel: Annotated[bool, typer.Option("--cancel", help="Ask it to end early.")] = False,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Long-running work such as drains.

    Example:

        suanli operations drain-1 --wait 60
    """
    with connect(address) as client:
        if name is None:
            found = list(client.list_operations())
        else:
            full = name if name.startswith("operations/") else f"operations/{name}"
            one = client.cancel_operation(full) if cancel else client.get_operation(full)
            found = [client.wait_operation(full, wait_s=wait_s) if wait_s and not one.done else one]
    emit(found, output, OPERATION_COLUMNS, lambda o: o.name, single=name is not None, empty="no operations")


@policy_app.command("get")
def policy_get(
    revision: Annotated[int | None, typer.Option(help="Which; else the current one.")] = None,
    policy: PolicyId = "default",
    output: Output = Format.YAML,
    address: Address = None,
) -> None:
    """Show a policy, ready to be changed and set again.

    Example:

        suanli policy get > policy.yaml
    """
    with connect(address) as client:
        found = client.get_policy(policy, revision)
        clock = city_clock(client, output)
    emit([found], output, policy_columns(clock), _policy_name, single=True, complete=True)


@policy_app.command("set")
def policy_set(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON; - reads standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only; nothing is stored.")] = False,
    if_etag: Annotated[
        str | None,
        typer.Option(help="Etag of the revision it replaces; else that in the file. Changed meanwhile: 6."),
    ] = None,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Add a revision, current from then on. What of it cannot come true is told, and set all the same.

    Example:

        suanli policy set policy.yaml --dry-run
    """
    from suanli import yaml_io
    from suanli.model import InvalidRequest

    read = yaml_io.read_policy(read_text(file), str(file))
    with connect(address) as client:
        policy = _sound_policy(client, read)
        etag = policy.etag if if_etag is None else if_etag
        clock = city_clock(client, output)
        before = _policy_in_force(client, policy.policy_id)
        try:
            revised = client.create_policy_revision(policy, etag=etag, validate_only=dry_run)
        except InvalidRequest as error:
            raise InvalidRequest(read.located(error.problems)) from None
    emit([revised], output, policy_columns(clock), _policy_name, single=True)
    if output is Format.TABLE and before is not None:
        _print_differences(before, revised)
    for warning in read.located(revised.warnings):
        warn(str(warning))


def _sound_policy(client: Client, read: ReadPolicy) -> Policy:
    """The policy, or every problem of it: those of the text, and those that the service finds in what is left of it."""
    from suanli.model import InvalidRequest, SuanliError

    if not read.problems:
        assert read.policy is not None
        return read.policy
    problems = list(read.problems)
    try:
        if read.policy is not None:
            client.create_policy_revision(read.policy, validate_only=True)
    except InvalidRequest as error:
        problems += read.located(error.problems)
    except SuanliError:
        pass  # what stands in the file is wrong with or without a service
    raise InvalidRequest(sorted(problems, key=place_in_file))


def _policy_in_force(client: Client, policy_id: str) -> Policy | None:
    from suanli.model import NotFound

    try:
        return client.get_policy(policy_id)
    except NotFound:
        return None


def _print_differences(before: Policy, after: Policy) -> None:
    """What the revision changes, field by field, old → new."""
    old, new = _policy_settings(before), _policy_settings(after)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not changed:
        paragraph(f"\nNo difference to revision {before.revision}.")
        return
    heading(f"Against revision {before.revision}")
    for name in changed:
        paragraph(f"  - {name}: {_setting(old.get(name))} → {_setting(new.get(name))}")


def _policy_settings(policy: Policy) -> dict[str, Any]:
    """Dotted name → value of everything that an operator may set; overrides are named by their target."""
    tree = policy.model_dump(mode="json", exclude={"policy_id", "revision", "etag", "created_at_s", "sites"})
    for override in policy.sites:
        for name, value in override.model_dump(
            mode="json", exclude={"target"}, exclude_defaults=True
        ).items():
            parts = value if isinstance(value, dict) else {}
            tree.update({f"{override.target} {name}.{k}": v for k, v in parts.items() if v is not None})
            if not parts:
                tree[f"{override.target} {name}"] = value
    return tree


def _setting(value: Any) -> str:
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@policy_app.command("list")
def policy_list(
    policy: PolicyId = "default",
    limit: Limit = 20,
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Revisions, newest first.

    Example:

        suanli policy list
    """
    from itertools import islice

    with connect(address) as client:
        found = list(islice(client.list_policy_revisions(policy), limit))
        clock = city_clock(client, output)
    emit(found, output, policy_columns(clock), _policy_name, empty="no revisions")


@fleet_app.command("get")
def fleet_get(output: Output = Format.YAML, address: Address = None) -> None:
    """Show the registered fleet, ready to be changed and set again, here or at another service.

    Example:

        suanli fleet get > fleet.yaml
    """
    with connect(address) as client:
        record = client.get_fleet()
    shown = [record] if output is Format.TABLE else [record.fleet]
    emit(shown, output, FLEET_COLUMNS, lambda _: "fleet", single=True)


@fleet_app.command("set")
def fleet_set(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON; - reads standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only; nothing is stored.")] = False,
    if_etag: Annotated[str, typer.Option(help="Only if unchanged since this etag; else 6.")] = "",
    output: Output = Format.TABLE,
    address: Address = None,
) -> None:
    """Register the whole fleet; a new service places nothing before that.

    Example:

        suanli fleet set fleet.yaml --dry-run
    """
    from suanli import yaml_io

    fleet = yaml_io.load_fleet(read_text(file), str(file))
    with connect(address) as client:
        record = client.register_fleet(fleet, etag=if_etag, validate_only=dry_run)
    emit([record], output, FLEET_COLUMNS, lambda _: "fleet", single=True)


def _policy_name(policy: Any) -> str:
    return f"policies/{policy.policy_id}/revisions/{policy.revision}"


def _emit_place(done: Any, on_node: bool, name: str, output: Format) -> None:
    emit([done], output, NODE_COLUMNS if on_node else SITE_COLUMNS, lambda _: name, single=True)


def _print_round(found: Round) -> None:
    from suanli.model.words import nodes_words, reason_words

    if found.pending_by_reason:
        heading("Waiting by reason")
        for code, count in sorted(found.pending_by_reason.items(), key=lambda item: -item[1]):
            paragraph(f"  {count:>6}  {code.replace('_', ' ')}")
    for reason in found.sample_reasons:
        where = f"{reason.site_id}: " if reason.site_id else ""
        paragraph(f"  - {where}{reason_words(reason)}{nodes_words(reason.node_count)}")


MOST_BINDING_SHOWN = 12
"""The dearest binding constraints, for people."""


def _print_plan_details(plan: Plan) -> None:
    if plan.bounds:
        heading("Bounds")
        print_table(
            plan.bounds,
            (
                Column("SCOPE", lambda b: b.scope),
                Column("MODEL", lambda b: b.model, 2),
                number("OBJECTIVE ¥", lambda b: fixed(b.objective_yuan, 2)),
                number("BOUND ¥", lambda b: fixed(b.bound_yuan, 2), 1),
                number("GAP", lambda b: "" if b.gap_frac is None else f"{b.gap_frac:.3%}"),
            ),
        )
    if plan.ledgers:
        heading("Annual ledgers, kWh")
        print_table(
            plan.ledgers,
            (
                Column("SITE", lambda b: b.site_id),
                number("CAP", lambda b: fixed(b.pue_cap_annual, 2), 1),
                number("BEFORE", lambda b: fixed(b.balance_before_kwh, 0), 2),
                number("USED", lambda b: fixed(b.used_kwh, 0), 3),
                number("AFTER", lambda b: fixed(b.balance_after_kwh, 0)),
                number("DEBT", lambda b: fixed(b.debt_kwh, 0), 1),
            ),
        )
    if plan.cap_exceeded_count:
        paragraph(
            f"\nHourly caps are exceeded in {plan.cap_exceeded_count} slots of a site, "
            f"by {fixed(plan.cap_excess_kwh)} kWh of facility energy together."
        )
    if plan.binding_constraints:
        heading("What limits it")
        dearest = sorted(plan.binding_constraints, key=lambda c: -(c.shadow_price_yuan or 0.0) * abs(c.limit))
        for c in dearest[:MOST_BINDING_SHOWN]:
            price = "" if c.shadow_price_yuan is None else f", ¥{c.shadow_price_yuan:.4g} per {c.unit} more"
            paragraph(f"  - {c.constraint}: {c.value:g} of {c.limit:g} {c.unit}{price}")
        if len(dearest) > MOST_BINDING_SHOWN:
            paragraph(f"  and {len(dearest) - MOST_BINDING_SHOWN} more (-o json tells all)")
    if plan.input_sha256:
        paragraph(f"Made from problem {plan.input_sha256[:16]} under policy revision {plan.policy_revision}.")
