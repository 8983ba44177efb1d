"""One order for the reports of many sites, whichever engine ran them; rows become `suanli.model` values here alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster_sim.world.protocol import Command, SiteReport
from cluster_sim.world.site import MeterRow, ReplicaRow, SiteSim, StatusRow
from suanli.model import ReplicaPhase, SiteMeter, SiteStatus
from suanli.model.telemetry import ReplicaReport


@dataclass(frozen=True, slots=True)
class ShardRows:
    """What a shard of sites says after a step, as plain rows that travel cheaply between processes."""

    replicas: list[ReplicaRow]
    meters: list[MeterRow]
    statuses: list[StatusRow]


def run_shard(sites: dict[str, SiteSim], commands: Iterable[Command], until_s: int) -> ShardRows:
    """Hand out the commands, run every site to `until_s`, collect rows."""
    for command in commands:
        sites[command.site_id].accept(command)
    out = ShardRows([], [], [])
    for site_id in sorted(sites):
        site = sites[site_id]
        site.run(until_s)
        replicas, meter, statuses = site.window()
        out.replicas.extend(replicas)
        out.meters.append(meter)
        out.statuses.extend(statuses)
    return out


def merged(shards: Sequence[ShardRows]) -> SiteReport:
    """Reports in time order, ties by site, then in the order in which the site made them."""
    replicas = sorted((row for shard in shards for row in shard.replicas), key=lambda row: (row[0], row[1]))
    meters = sorted((row for shard in shards for row in shard.meters), key=lambda row: row[0])
    statuses = sorted((row for shard in shards for row in shard.statuses), key=lambda row: (row[0], row[1]))
    return SiteReport(
        replicas=tuple(
            ReplicaReport(
                placement_id=placement_id,
                phase=ReplicaPhase(phase),
                at_s=at_s,
                done_work_s=done_s,
                delivered_gpu_s=delivered,
                detail=detail,
            )
            for at_s, _, placement_id, phase, done_s, delivered, detail in replicas
        ),
        meters=tuple(_meter(row) for row in meters),
        statuses=tuple(
            SiteStatus(site_id=site_id, at_s=at_s, up=up, cause=cause)
            for at_s, site_id, up, cause in statuses
        ),
    )


_METER_FIELDS = (
    "site_id",
    "from_s",
    "until_s",
    "it_energy_kwh",
    "facility_energy_kwh",
    "useful_it_energy_kwh",
    "it_power_kw",
    "facility_power_kw",
    "peak_facility_kw",
    "dry_bulb_c",
    "wet_bulb_c",
    "nodes_on",
    "up",
    "open",
)


def _meter(row: MeterRow) -> SiteMeter:
    return SiteMeter.model_validate(dict(zip(_METER_FIELDS, row, strict=True)))
