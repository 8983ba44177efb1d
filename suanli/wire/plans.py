"""Placements, moves, plans, rounds, ledgers."""

from __future__ import annotations

from typing import Any

from suanli.model import BindingConstraint, Bound, LedgerBalance, Move, Placement, Plan, Round
from suanli.model.units import kw_from_w, w_from_kw
from suanli.v1 import plans_pb2 as pb
from suanli.wire.codec import (
    Codec,
    choice,
    instant,
    joules_from_kwh,
    listed,
    mapped,
    need_micros,
    parts,
    ref,
    same,
    seconds,
    seconds_from_h,
)
from suanli.wire.reasons import REASON, reason_counts

_PLACEMENTS = "/placements/"


def placement_name(workload: str, placement_id: str) -> str:
    """`tenants/{t}/workloads/{w}/placements/{p}`."""
    return f"{workload}{_PLACEMENTS}{placement_id}"


def _read_placement(message: pb.Placement, raw: dict[str, Any]) -> None:
    raw["workload"], _, raw["placement_id"] = message.name.partition(_PLACEMENTS)


def _write_placement(value: Placement, given: dict[str, Any]) -> None:
    given["name"] = placement_name(value.workload, value.placement_id)


PLACEMENT = Codec(
    Placement,
    pb.Placement,
    [
        same("stage_id"),
        same("replica_index"),
        same("incarnation", "incarnation_index"),
        ref("site_id", "site", "sites"),
        same("group_id"),
        same("node_id"),
        listed("gpu_ids", "gpu_device_indices"),
        same("gpu_milli"),
        instant("start_at_s", "start_time"),
        need_micros("rtt_p99_ms", "rtt_p99_micros"),
        same("power_w", "power_watts"),
        same("price_yuan_per_hour"),
    ],
    path="placement",
    output=True,
    read_more=_read_placement,
    write_more=_write_placement,
    aliases={"workload": "name", "placement_id": "name"},
)

MOVE = Codec(
    Move,
    pb.Move,
    [
        same("workload"),
        same("stage_id"),
        same("replica_index"),
        ref("from_site_id", "from_site", "sites"),
        ref("to_site_id", "to_site", "sites"),
        choice("mode", "mode", pb.MoveMode),
        same("reason"),
        same("cost_yuan"),
        same("gain_yuan"),
        seconds_from_h("saved_wait_gpu_h", "saved_wait_gpu_seconds"),
        same("saved_lateness_yuan"),
    ],
    path="move",
    output=True,
)

BOUND = Codec(
    Bound,
    pb.Bound,
    [
        same("model"),
        same("scope"),
        same("objective_yuan"),
        same("bound_yuan"),
        same("gap_frac", "gap_fraction"),
    ],
    path="bound",
    output=True,
)

BINDING_CONSTRAINT = Codec(
    BindingConstraint,
    pb.BindingConstraint,
    [same("constraint"), same("value"), same("limit"), same("unit"), same("shadow_price_yuan")],
    path="binding_constraint",
    output=True,
)

LEDGER_BALANCE = Codec(
    LedgerBalance,
    pb.LedgerBalance,
    [
        ref("site_id", "site", "sites"),
        same("pue_cap_annual"),
        joules_from_kwh("balance_before_kwh", "balance_before_joules"),
        joules_from_kwh("balance_after_kwh", "balance_after_joules"),
        joules_from_kwh("released_kwh", "released_joules"),
        joules_from_kwh("used_kwh", "used_joules"),
        joules_from_kwh("debt_kwh", "debt_joules"),
    ],
    path="ledger",
    output=True,
)


def _read_forecasts(message: pb.Plan, raw: dict[str, Any]) -> None:
    for name, proto, convert in (
        ("sites_on", "open", bool),
        ("forecast_it_kw", "it_power_watts", kw_from_w),
        ("forecast_facility_kw", "facility_power_watts", kw_from_w),
    ):
        raw[name] = {
            f.site.removeprefix("sites/"): [convert(v) for v in getattr(f, proto)]
            for f in message.site_forecasts
            if len(getattr(f, proto))
        }


def _write_forecasts(value: Plan, given: dict[str, Any]) -> None:
    site_ids = sorted({*value.sites_on, *value.forecast_it_kw, *value.forecast_facility_kw})
    given["site_forecasts"] = [
        pb.SiteForecast(
            site=f"sites/{s}",
            open=value.sites_on.get(s, ()),
            it_power_watts=[w_from_kw(v) for v in value.forecast_it_kw.get(s, ())],
            facility_power_watts=[w_from_kw(v) for v in value.forecast_facility_kw.get(s, ())],
        )
        for s in site_ids
    ]


PLAN = Codec(
    Plan,
    pb.Plan,
    [
        ref("plan_id", "name", "plans"),
        instant("at_s", "plan_time"),
        seconds("horizon_s", "horizon_duration"),
        same("policy_revision"),
        same("base_revision"),
        choice("status", "status", pb.SolveStatus),
        parts("bounds", "bounds", BOUND),
        mapped("unplaced", "unplaced_counts"),
        same("input_sha256"),
        same("violations", "violation_count"),
        parts("ledgers", "ledgers", LEDGER_BALANCE),
        parts("moves", "moves", MOVE),
        parts("binding_constraints", "binding_constraints", BINDING_CONSTRAINT),
        same("cap_exceeded_count"),
        joules_from_kwh("cap_excess_kwh", "cap_excess_joules"),
    ],
    path="plan",
    output=True,
    read_more=_read_forecasts,
    write_more=_write_forecasts,
    aliases=dict.fromkeys(("sites_on", "forecast_it_kw", "forecast_facility_kw"), "site_forecasts"),
)

ROUND = Codec(
    Round,
    pb.Round,
    [
        ref("round_id", "name", "rounds"),
        instant("at_s", "round_time"),
        same("considered", "considered_count"),
        same("placed", "placed_count"),
        same("moved", "moved_count"),
        same("preempted", "preempted_count"),
        same("paused", "paused_count"),
        same("pending", "pending_count"),
        reason_counts("pending_by_reason", "pending_reasons"),
        parts("sample_reasons", "sample_reasons", REASON),
        parts("moves", "moves", MOVE),
    ],
    path="round",
    output=True,
)
