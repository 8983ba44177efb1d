"""Sites, nodes, zones, links, tariffs, the fleet; policies, whose caps are those of sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from suanli.model import (
    AccessProfile,
    Dataset,
    Facility,
    Fleet,
    FleetRecord,
    LedgerOpening,
    Link,
    Network,
    Node,
    NodeGroup,
    Policy,
    PueCap,
    Site,
    SitePolicy,
    SiteRecord,
    SiteState,
    Tariff,
    Zone,
)
from suanli.model.problems import Malformed, validate
from suanli.v1 import fleet_pb2 as pb
from suanli.v1 import policies_pb2
from suanli.wire.codec import (
    NAMES,
    Codec,
    Field,
    JoinedCodec,
    choice,
    hours,
    id_from_name,
    instant_or_unset,
    joules_from_kwh,
    listed,
    mapped,
    need_micros,
    need_nanos,
    part,
    parts,
    ref,
    refs,
    same,
    seconds,
    watts_from_kw,
)
from suanli.wire.plans import LEDGER_BALANCE
from suanli.wire.reasons import WARNING
from suanli.wire.telemetry import SITE_METER

FLEET_NAME = "fleet"

_NAMES_AND_PLACE = (
    same("display_name"),
    same("display_name_zh"),
    same("x_km", "x_kilometers"),
    same("y_km", "y_kilometers"),
)

FACILITY = Codec(
    Facility,
    pb.Facility,
    [
        same("plant"),
        same("e0", "e0_fraction"),
        same("e1", "e1_fraction"),
        same("e2", "e2_fraction"),
        same("lighting", "lighting_fraction"),
        same("cooling_fixed", "cooling_fixed_fraction"),
        choice("cooling", "cooling", pb.CoolingPlant),
        same("cooling_factor"),
        same("cooling_constant", "cooling_constant_factor"),
        same("liquid_share", "liquid_share_fraction"),
        same("off_share", "off_share_fraction"),
        choice("metering", "metering", pb.MeteringCategory),
        seconds("site_start_s", "site_start_duration"),
    ],
    path="facility",
)

NODE_GROUP = Codec(
    NodeGroup,
    pb.NodeGroup,
    [
        same("group_id"),
        same("node_type"),
        same("node_count"),
        same("cpu_milli"),
        same("memory_mib", "memory_mebibytes"),
        same("gpu_model"),
        same("gpu_count"),
        same("gpu_memory_mib", "gpu_memory_mebibytes"),
        same("storage_gib", "storage_gibibytes"),
        same("idle_w", "idle_power_watts"),
        same("max_w", "max_power_watts"),
        same("gpu_dynamic_w", "gpu_dynamic_power_watts"),
        same("core_dynamic_w", "core_dynamic_power_watts"),
        same("island_node_count"),
        seconds("node_wake_s", "node_wake_duration"),
    ],
    path="group",
)

PUE_CAP = Codec(
    PueCap,
    pb.PueCap,
    [
        same("pue_cap_annual"),
        same("ipue_cap_hourly"),
        same("annual_is_hard"),
        same("debt_price_yuan_per_kwh", "debt_price_yuan_per_kilowatt_hour"),
        same("reference_load_frac", "reference_load_fraction"),
    ],
    path="caps",
)

LEDGER_OPENING = Codec(
    LedgerOpening,
    pb.LedgerOpening,
    [
        joules_from_kwh("it_energy_kwh", "it_energy_joules"),
        joules_from_kwh("facility_energy_kwh", "facility_energy_joules"),
        same("derivation"),
    ],
    path="ledger_opening",
)

SITE = Codec(
    Site,
    pb.Site,
    [
        ref("site_id", "name", "sites"),
        choice("kind", "kind", pb.SiteKind),
        choice("host_kind", "host_kind", pb.HostKind),
        *_NAMES_AND_PLACE,
        same("operator"),
        mapped("labels"),
        watts_from_kw("rated_it_kw", "rated_it_power_watts"),
        watts_from_kw("power_limit_kw", "power_limit_watts"),
        part("facility", "facility", FACILITY),
        same("tariff_id"),
        same("price_markup_frac", "price_markup_fraction"),
        same("has_upf"),
        listed("home_for"),
        part("caps", "caps", PUE_CAP),
        part("ledger_opening", "ledger_opening", LEDGER_OPENING),
        parts("groups", "groups", NODE_GROUP),
        same("cordoned"),
    ],
    path="site",
)

SITE_STATE = Codec(
    SiteState,
    pb.SiteState,
    [
        same("up"),
        same("open"),
        same("placed_replica_count"),
        same("placed_workload_count"),
        same("on_node_count"),
        same("installed_gpu_milli"),
        same("placed_gpu_milli"),
        same("placed_cpu_milli"),
        part("meter", "meter", SITE_METER),
        same("ipue"),
        part("ledger", "ledger", LEDGER_BALANCE),
        same("price_yuan_per_kwh", "price_yuan_per_kilowatt_hour"),
        need_micros("rtt_p99_ms", "rtt_p99_micros"),
        part("caps", "caps", PUE_CAP),
        watts_from_kw("power_limit_kw", "power_limit_watts"),
        same("reserved_floor_frac", "reserved_floor_fraction"),
        same("policy_revision"),
    ],
    path="status",
    output=True,
)

_RECORD = (
    same("etag"),
    instant_or_unset("created_at_s", "create_time"),
    instant_or_unset("updated_at_s", "update_time"),
)

SITE_RECORD = JoinedCodec(
    SiteRecord, "site", SITE, [*_RECORD, part("status", "status", SITE_STATE)], path="site"
)

_NODES = "/nodes/"


def node_name(site_id: str, node_id: str) -> str:
    """`sites/{site}/nodes/{node}`."""
    return f"sites/{site_id}{_NODES}{node_id}"


def _read_node(message: pb.Node, raw: dict[str, Any]) -> None:
    site, _, raw["node_id"] = message.name.partition(_NODES)
    raw["site_id"] = id_from_name(site, "sites")


NODE = Codec(
    Node,
    pb.Node,
    [
        same("group_id"),
        same("node_index"),
        choice("state", "state", pb.NodeState),
        same("cordoned"),
        same("cpu_free_milli", "free_cpu_milli"),
        same("memory_free_mib", "free_memory_mebibytes"),
        same("storage_free_gib", "free_storage_gibibytes"),
        listed("gpu_free_milli", "free_gpu_milli"),
        same("placed_replica_count"),
        same("etag"),
    ],
    path="node",
    output=True,
    read_more=_read_node,
    write_more=lambda value, given: given.update(name=node_name(value.site_id, value.node_id)),
    aliases={"node_id": "name", "site_id": "name"},
)

ACCESS_PROFILE = Codec(
    AccessProfile,
    pb.AccessProfile,
    [
        same("access_id"),
        need_micros("rtt_p50_ms", "rtt_p50_micros"),
        need_micros("rtt_p99_ms", "rtt_p99_micros"),
        same("down_mbps", "down_megabits_per_second"),
        same("up_mbps", "up_megabits_per_second"),
        same("via_upf"),
    ],
    path="access",
)

ZONE = Codec(
    Zone,
    pb.Zone,
    [
        ref("zone_id", "name", "zones"),
        *_NAMES_AND_PLACE,
        same("population_count"),
        same("hub_id"),
        mapped("access_mix", "access_mix_fractions"),
    ],
    path="zone",
)

LINK = Codec(
    Link,
    pb.Link,
    [
        ref("link_id", "name", "links"),
        listed("ends", "end_ids"),
        same("capacity_gbps", "capacity_gigabits_per_second"),
        same("hop_count"),
        same("length_km", "length_kilometers"),
        need_micros("extra_rtt_ms", "extra_rtt_micros"),
    ],
    path="link",
)


def _read_hubs(hubs: Iterable[pb.Hub]) -> dict[str, list[float]] | Malformed:
    out: dict[str, list[float]] = {}
    for hub in hubs:
        if hub.hub_id in out or not hub.hub_id:
            return Malformed(hub.hub_id, f"hub {hub.hub_id!r} is empty or given twice", "each hub once")
        out[hub.hub_id] = [hub.x_kilometers, hub.y_kilometers]
    return out


def _write_hubs(hubs: Mapping[str, tuple[float, float]]) -> list[pb.Hub]:
    return [pb.Hub(hub_id=k, x_kilometers=x, y_kilometers=y) for k, (x, y) in hubs.items()]


NETWORK = Codec(
    Network,
    pb.Network,
    [
        Field("hubs", "hubs", _read_hubs, _write_hubs),
        parts("links", "links", LINK),
        parts("access", "access", ACCESS_PROFILE),
        need_nanos("hop_rtt_ms", "hop_rtt_nanos"),
        need_nanos("km_rtt_ms", "kilometer_rtt_nanos"),
        need_nanos("queue_tau_ms", "queue_tau_nanos"),
        same("planning_load_frac", "planning_load_fraction"),
        need_micros("hairpin_p50_ms", "hairpin_p50_micros"),
        need_micros("hairpin_p99_ms", "hairpin_p99_micros"),
        same("hairpin_hub_id"),
        same("transfer_yuan_per_gb", "transfer_yuan_per_gigabyte"),
        mapped("transfer_yuan_per_gb_by_site", "transfer_yuan_per_gigabyte_by_site"),
    ],
    path="network",
)

TARIFF = Codec(
    Tariff,
    pb.Tariff,
    [
        same("tariff_id"),
        Field(
            "price_yuan_per_kwh_by_month",
            "prices_by_month",
            lambda v: {month: list(v[month].price_yuan_per_kilowatt_hour) for month in sorted(v)},
            lambda v: {m: pb.HourlyPrices(price_yuan_per_kilowatt_hour=prices) for m, prices in v.items()},
        ),
        same("demand_charge_yuan_per_kw_month", "demand_charge_yuan_per_kilowatt_month"),
        hours("utc_offset_hours", "utc_offset_duration"),
    ],
    path="tariff",
)

DATASET = Codec(
    Dataset,
    pb.Dataset,
    [same("dataset_id"), same("size_gib", "size_gibibytes"), refs("site_ids", "sites", "sites")],
    path="dataset",
)


FLEET = Codec(
    Fleet,
    pb.Fleet,
    [
        parts("sites", "sites", SITE),
        parts("zones", "zones", ZONE),
        part("network", "network", NETWORK),
        parts("tariffs", "tariffs", TARIFF),
        parts("datasets", "datasets", DATASET),
        listed("carbon_g_per_kwh_by_hour", "carbon_grams_per_kilowatt_hour"),
    ],
    path="fleet",
    write_more=lambda value, given: given.update(name=FLEET_NAME),
)

FLEET_RECORD = JoinedCodec(FleetRecord, "fleet", FLEET, _RECORD, path="fleet")

SITE_POLICY = Codec(
    SitePolicy,
    policies_pb2.SitePolicy,
    [
        same("target"),
        part("caps", "caps", PUE_CAP),
        watts_from_kw("power_limit_kw", "power_limit_watts"),
        same("reserved_floor_frac", "reserved_floor_fraction"),
    ],
    path="sites",
)

_REVISIONS = "/revisions/"


def policy_revision_name(policy_id: str, revision: int | str) -> str:
    """`policies/{policy}/revisions/{revision}`."""
    return f"policies/{policy_id}{_REVISIONS}{revision}"


def _read_policy(message: policies_pb2.PolicyRevision, raw: dict[str, Any]) -> None:
    if not message.name:
        return
    policy, _, revision = message.name.partition(_REVISIONS)
    raw["policy_id"] = id_from_name(policy, "policies")
    if revision and not revision.isdecimal():
        raw["revision"] = Malformed(revision, f"{message.name!r} names no revision", "a number")
    elif revision:
        raw["revision"] = int(revision)


def _write_policy(value: Policy, given: dict[str, Any]) -> None:
    given["name"] = policy_revision_name(value.policy_id, value.revision)


POLICY = Codec(
    Policy,
    policies_pb2.PolicyRevision,
    [
        parts("sites", "sites", SITE_POLICY),
        same("edge_portfolio_cap_annual", "edge_portfolio_pue_cap_annual"),
        choice("ledger_load", "ledger_load", policies_pb2.LedgerLoad),
        same("debt_price_yuan_per_kwh", "debt_price_yuan_per_kilowatt_hour"),
        same("migration_yuan_per_gpu"),
        same("move_budget_per_hour", "move_budget_count_per_hour"),
        same("carbon_price_yuan_per_kg", "carbon_price_yuan_per_kilogram"),
        hours("horizon_hours", "horizon_duration"),
        seconds("plan_every_s", "plan_interval_duration"),
        same("etag"),
        instant_or_unset("created_at_s", "create_time"),
        parts("warnings", "warnings", WARNING),
    ],
    path="policy_revision",
    read_more=_read_policy,
    write_more=_write_policy,
    aliases={"policy_id": "name", "revision": "name"},
)


def policy_from_create(request: policies_pb2.CreatePolicyRevisionRequest) -> Policy:
    """The policy of a create request; its id is the parent's, its revision is for the service to set.

    Raises:
        InvalidRequest: with every problem.
    """
    raw = POLICY.raw(request.policy_revision)
    for set_by_service in ("revision", "etag", "created_at_s", "warnings"):
        raw.pop(set_by_service, None)
    raw["policy_id"] = id_from_name(request.parent, "policies")
    return validate(Policy, raw, NAMES, "policy_revision")


def fleet_from_register(request: pb.RegisterFleetRequest) -> Fleet:
    """The fleet of a registration.

    Raises:
        InvalidRequest: with every problem.
    """
    return FLEET.from_proto(request.fleet)
