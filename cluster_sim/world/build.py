"""From a scenario to the sites of the world: true plant, true weather, what will go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster_sim.scenarios.schema import Scenario
from cluster_sim.world.demand import Fate
from cluster_sim.world.facility import cooling_per_heat
from cluster_sim.world.site import CoolingSpan, OutageSpan, SiteSim, SiteSpec
from cluster_sim.world.weather import WeatherTruth
from suanli.model import Fleet, Site
from suanli.model.units import MBPS_PER_GBPS, SECONDS_PER_HOUR, w_from_kw


def weather_of(scenario: Scenario, seed: int) -> WeatherTruth:
    """True weather of the run, the drain included."""
    return WeatherTruth(
        scenario.weather, scenario.month, scenario.start_s, scenario.drain_end_s, scenario.utc_offset_s, seed
    )


def site_specs(scenario: Scenario, seed: int) -> list[SiteSpec]:
    """Every site of the scenario, in the order of their ids."""
    fleet, weather = scenario.fleet(exact=True), weather_of(scenario, seed)
    return [
        _site_spec(scenario, fleet, site, weather, seed)
        for site in sorted(fleet.sites, key=lambda s: s.site_id)
    ]


def site_sims(specs: Sequence[SiteSpec], fates: Mapping[str, Fate]) -> list[SiteSim]:
    """Engines at rest at the opening of the day."""
    return [SiteSim(spec, fates) for spec in specs]


def _site_spec(scenario: Scenario, fleet: Fleet, site: Site, weather: WeatherTruth, seed: int) -> SiteSpec:
    row = scenario.sites.rows[site.site_id]
    plant = scenario.plants.rows[row.plant]
    dry, wet = weather.dry_bulb_c + row.microclimate_k, weather.wet_bulb_c(row.microclimate_k)
    return SiteSpec(
        site_id=site.site_id,
        start_s=scenario.start_s,
        groups=site.groups,
        plant=plant,
        rated_w=w_from_kw(site.rated_it_kw),
        off_share=scenario.plants.off_share,
        site_start_s=scenario.plants.site_start_s,
        may_close=site.may_close,
        transfer_gbps=transfer_gbps(scenario, fleet, site.site_id),
        cooling_per_heat=cooling_per_heat(plant, dry, wet),
        dry_bulb_c=dry,
        wet_bulb_c=wet,
        outages=tuple(
            OutageSpan(scenario.clock_s(o.from_), scenario.clock_s(o.until), o.cause)
            for o in scenario.failures.site_outages
            if o.site == site.site_id
        ),
        degradations=tuple(
            CoolingSpan(scenario.clock_s(d.from_), scenario.clock_s(d.until), d.cooling_factor)
            for d in scenario.failures.cooling_degradations
            if d.site == site.site_id
        ),
        replica_mtbf_s=scenario.failures.replica_mtbf_hours * SECONDS_PER_HOUR,
        seed=seed,
    )


def transfer_gbps(scenario: Scenario, fleet: Fleet, site_id: str) -> float:
    """Rate of one incoming transfer: a share of the site's uplink (without one, of the access link)."""
    uplinks = [
        link.capacity_gbps
        for link in fleet.network.links
        if site_id in link.ends and link.link_id.count("own-edge") == 0
    ]
    gbps = max(uplinks, default=scenario.network.access_link_gbps)
    return max(gbps * scenario.network.transfer_share_of_uplink, 1 / MBPS_PER_GBPS)
