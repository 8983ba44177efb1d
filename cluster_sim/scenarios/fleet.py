"""From a scenario to the fleet and policy that the planner is told: sizes scaled, units of `suanli.model`.

build_fleet     sites (scaled node groups, plant with its planted error, ledger opening), zones, links, tariffs
build_policy    prices of debt and moves
node_counts     the rounding rule of the scales: nearest, halves up, at least one
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cluster_sim.scenarios.tables import Plant, ScenarioTables, SiteSpec
from cluster_sim.world.carbon import carbon_g_by_hour
from cluster_sim.world.tariff import prices_by_hour
from suanli.model import (
    AccessProfile,
    Dataset,
    Facility,
    Fleet,
    LedgerOpening,
    Link,
    Network,
    NodeGroup,
    Policy,
    PueCap,
    Site,
    Tariff,
    Zone,
)
from suanli.model.units import MIB_PER_GIB, MILLI, SECONDS_PER_HOUR, W_PER_KW

HAIRPIN_HUB = "upf-exchange"


def half_up(value: float) -> int:
    """Nearest integer, halves up."""
    return math.floor(value + 0.5)


def node_counts(scenario: ScenarioTables, site_id: str) -> dict[str, int]:
    """Nodes of each type at the scenario's scale; a teaching scenario's own counts are taken as they are."""
    if site_id in scenario.nodes:
        return dict(scenario.nodes[site_id])
    spec = scenario.sites.rows[site_id]
    divisor = scenario.divisor(spec.kind)
    return {node_type: max(1, half_up(count / divisor)) for node_type, count in spec.nodes.items()}


def rated_it_kw(scenario: ScenarioTables, site_id: str) -> float:
    """Rated IT power: the full site's, in proportion to the largest power of the nodes that remain after rounding."""
    spec = scenario.sites.rows[site_id]
    full_w = _largest_power_w(scenario, spec.nodes)
    return round(spec.rated_it_kw * _largest_power_w(scenario, node_counts(scenario, site_id)) / full_w, 3)


def all_idle_load_frac(scenario: ScenarioTables, site_id: str) -> float:
    """IT load when every node idles, as a share of rated IT power."""
    idle_w = sum(scenario.node_types.rows[t].idle_w * n for t, n in node_counts(scenario, site_id).items())
    return idle_w / (rated_it_kw(scenario, site_id) * W_PER_KW)


def build_fleet(scenario: ScenarioTables, *, exact: bool) -> Fleet:
    """Sites, zones, network, tariffs, data sets and carbon as `suanli.model` values."""
    return Fleet(
        sites=tuple(
            _site(scenario, site_id, spec, 0.0 if exact else coefficient_error_frac(scenario, site_id))
            for site_id, spec in scenario.sites.rows.items()
        ),
        zones=tuple(
            Zone(
                zone_id=zone_id,
                display_name=spec.name.en,
                display_name_zh=spec.name.zh,
                x_km=spec.position_km[0],
                y_km=spec.position_km[1],
                population_count=round(spec.population_k * 1000),
                hub_id=access_hub(zone_id),
                access_mix=dict(spec.access),
            )
            for zone_id, spec in scenario.zones.rows.items()
        ),
        network=_network(scenario),
        tariffs=tuple(_tariff(scenario, tariff_id) for tariff_id in scenario.tariffs.rows),
        datasets=tuple(
            Dataset(dataset_id=i, size_gib=d.size_gib, site_ids=d.sites)
            for i, d in scenario.datasets.rows.items()
        ),
        carbon_g_per_kwh_by_hour=carbon_g_by_hour(
            scenario.carbon.mean_g_per_kwh, ((step.hours, step.factor) for step in scenario.carbon.shape)
        ),
    )


def build_policy(scenario: ScenarioTables) -> Policy:
    """Revision 0 of the default policy; the budget of moves grows with the fleet."""
    nodes = sum(sum(node_counts(scenario, site_id).values()) for site_id in scenario.sites.rows)
    return Policy(
        policy_id="default",
        debt_price_yuan_per_kwh=scenario.caps.debt_price_yuan_per_kwh,
        migration_yuan_per_gpu=scenario.penalties.migration_yuan_per_gpu,
        move_budget_per_hour=round(scenario.penalties.moves_per_node_hour * nodes),
    )


def access_hub(zone_id: str) -> str:
    """Hub where a zone's devices attach; a short link joins it to the zone's own edge site."""
    return f"access-{zone_id}"


def coefficient_error_frac(scenario: ScenarioTables, site_id: str) -> float:
    """Signed error of the plant coefficients that the planner starts from: up and down by turns of the site list."""
    sign = 1 if list(scenario.sites.rows).index(site_id) % 2 == 0 else -1
    return sign * scenario.planner_start.coefficient_error_frac


def _largest_power_w(scenario: ScenarioTables, counts: Mapping[str, int]) -> float:
    return sum(scenario.node_types.rows[node_type].max_w * n for node_type, n in counts.items())


def _site(scenario: ScenarioTables, site_id: str, spec: SiteSpec, error_frac: float) -> Site:
    rated_kw = rated_it_kw(scenario, site_id)
    plant = scenario.plants.rows[spec.plant]
    return Site(
        site_id=site_id,
        kind=spec.kind,
        host_kind=spec.host_kind,
        display_name=spec.name.en,
        display_name_zh=spec.name.zh,
        operator=spec.operator,
        x_km=spec.position_km[0],
        y_km=spec.position_km[1],
        labels={**spec.labels, "tier": spec.kind.value},
        rated_it_kw=rated_kw,
        power_limit_kw=rated_kw,
        facility=facility_of(scenario, spec.plant, error_frac),
        tariff_id=spec.tariff,
        price_markup_frac=spec.price_markup_frac,
        has_upf=spec.has_upf,
        home_for=tuple(c for c in spec.home_for if c in scenario.classes.rows),
        caps=PueCap(
            pue_cap_annual=spec.pue_cap_annual,
            ipue_cap_hourly=spec.ipue_cap_hourly,
            debt_price_yuan_per_kwh=scenario.caps.debt_price_yuan_per_kwh,
            reference_load_frac=plant.pue_reference_load,
        ),
        ledger_opening=_ledger_opening(scenario, plant, rated_kw)
        if spec.pue_cap_annual is not None
        else LedgerOpening(),
        groups=tuple(
            _group(scenario, spec, node_type, n) for node_type, n in node_counts(scenario, site_id).items()
        ),
    )


def facility_of(scenario: ScenarioTables, plant_name: str, error_frac: float = 0.0) -> Facility:
    """Nominal plant with every loss and cooling coefficient `error_frac` off."""
    plant = scenario.plants.rows[plant_name]
    off = 1 + error_frac
    e0, e1, e2 = plant.electrical_loss
    return Facility(
        plant=plant_name,
        e0=e0 * off,
        e1=e1 * off,
        e2=e2 * off,
        lighting=plant.lighting * off,
        cooling_fixed=plant.cooling_fixed * off,
        cooling=plant.cooling,
        cooling_factor=plant.cooling_factor * off,
        cooling_constant=plant.cooling_constant,
        liquid_share=plant.liquid_share,
        off_share=scenario.plants.off_share,
        site_start_s=scenario.plants.site_start_s,
    )


def _ledger_opening(scenario: ScenarioTables, plant: Plant, rated_kw: float) -> LedgerOpening:
    it_kwh = plant.pue_reference_load * rated_kw * scenario.ledger_opening.hours
    return LedgerOpening(
        it_energy_kwh=round(it_kwh, 3),
        facility_energy_kwh=round(it_kwh * plant.opening_facility_per_it, 3),
        derivation=scenario.ledger_opening.source,
    )


def _group(scenario: ScenarioTables, spec: SiteSpec, node_type: str, count: int) -> NodeGroup:
    kind = scenario.node_types.rows[node_type]
    dynamic_w = kind.max_w - kind.idle_w
    cores_w = dynamic_w * scenario.node_types.core_share_of_dynamic if kind.gpu_count else dynamic_w
    in_islands = spec.island_gpus and kind.gpu_model in ("h800", "h20")
    return NodeGroup(
        group_id=node_type,
        node_type=node_type,
        node_count=count,
        cpu_milli=kind.cores * MILLI,
        memory_mib=round(kind.ram_gib * MIB_PER_GIB),
        gpu_model=kind.gpu_model,
        gpu_count=kind.gpu_count,
        gpu_memory_mib=round(kind.gpu_gib * MIB_PER_GIB),
        storage_gib=spec.storage_gib_per_node.get(node_type, kind.storage_gib),
        idle_w=kind.idle_w,
        max_w=kind.max_w,
        gpu_dynamic_w=(dynamic_w - cores_w) / kind.gpu_count if kind.gpu_count else 0.0,
        core_dynamic_w=cores_w / kind.cores,
        island_node_count=spec.island_gpus // kind.gpu_count if in_islands else 0,
        node_wake_s=scenario.node_types.node_wake_s,
    )


def _network(scenario: ScenarioTables) -> Network:
    spec = scenario.network
    ends_km = {s: site.position_km for s, site in scenario.sites.rows.items()} | dict(spec.hubs)
    links = [
        Link(
            link_id=link_id,
            ends=link.ends,
            capacity_gbps=link.gbps / _uplink_divisor(scenario, link.ends),
            hop_count=link.hops,
            length_km=round(math.dist(ends_km[link.ends[0]], ends_km[link.ends[1]]), 3)
            if link.length_km is None
            else link.length_km,
            extra_rtt_ms=link.extra_rtt_ms,
        )
        for link_id, link in spec.links.items()
    ]
    links += [
        Link(
            link_id=f"{zone_id}-own-edge",
            ends=(access_hub(zone_id), zone.own_edge),
            capacity_gbps=spec.access_link_gbps,
            hop_count=1,
            length_km=round(math.dist(zone.position_km, ends_km[zone.own_edge]), 3),
        )
        for zone_id, zone in scenario.zones.rows.items()
    ]
    zone_hubs = {access_hub(z): zone.position_km for z, zone in scenario.zones.rows.items()}
    return Network(
        hubs=dict(spec.hubs) | zone_hubs,
        links=tuple(links),
        access=tuple(
            AccessProfile(
                access_id=access_id,
                rtt_p50_ms=a.p50_ms,
                rtt_p99_ms=a.p99_ms,
                down_mbps=a.down_mbps,
                up_mbps=a.up_mbps,
                via_upf=a.via_upf,
            )
            for access_id, a in spec.access.items()
        ),
        hop_rtt_ms=spec.hop_rtt_ms,
        km_rtt_ms=spec.km_rtt_ms,
        queue_tau_ms=spec.queue_tau_ms,
        planning_load_frac=spec.planning_load_frac,
        hairpin_p50_ms=spec.hairpin_p50_ms,
        hairpin_p99_ms=spec.hairpin_p99_ms,
        hairpin_hub_id=HAIRPIN_HUB,
        transfer_yuan_per_gb=spec.transfer_yuan_per_gb,
        transfer_yuan_per_gb_by_site=dict(spec.transfer_yuan_per_gb_by_site),
    )


def _uplink_divisor(scenario: ScenarioTables, ends: tuple[str, str]) -> float:
    """Uplinks shrink with the site they serve; the metro core keeps its size."""
    sites = [scenario.sites.rows[end] for end in ends if end in scenario.sites.rows]
    return scenario.divisor(sites[0].kind) if sites else 1.0


def _tariff(scenario: ScenarioTables, tariff_id: str) -> Tariff:
    spec = scenario.tariffs.rows[tariff_id]
    by_month = {
        month: prices_by_hour(spec.flat_yuan_per_kwh, spec.floating_share, season.multipliers, season.hours)
        for season in spec.seasons
        for month in season.months
    }
    return Tariff(
        tariff_id=tariff_id,
        price_yuan_per_kwh_by_month=dict(sorted(by_month.items())),
        demand_charge_yuan_per_kw_month=spec.demand_charge_yuan_per_kw_month,
        utc_offset_hours=scenario.utc_offset_s // SECONDS_PER_HOUR,
    )
