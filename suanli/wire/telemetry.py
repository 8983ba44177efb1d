"""Reports from sites, commands to sites."""

from __future__ import annotations

from typing import Any

from suanli.model import (
    Command,
    ReplicaReport,
    SiteMeter,
    SiteStatus,
    StartOrder,
    StopOrder,
    TelemetryReceipt,
    TelemetryReport,
    WeatherForecast,
)
from suanli.v1 import fleet_pb2
from suanli.v1 import telemetry_pb2 as pb
from suanli.wire.codec import (
    Codec,
    choice,
    instant,
    joules_from_kwh,
    listed,
    mapped,
    part,
    parts,
    ref,
    same,
    seconds,
    watts_from_kw,
)

REPLICA_REPORT = Codec(
    ReplicaReport,
    pb.ReplicaReport,
    [
        same("placement_id"),
        choice("phase", "phase", pb.ReplicaPhase),
        instant("at_s", "phase_time"),
        seconds("done_work_s", "done_work_duration"),
        same("delivered_gpu_s", "delivered_gpu_seconds"),
        same("detail"),
    ],
    path="replica",
)

SITE_METER = Codec(
    SiteMeter,
    pb.SiteMeter,
    [
        ref("site_id", "site", "sites"),
        instant("from_s", "from_time"),
        instant("until_s", "until_time"),
        joules_from_kwh("it_energy_kwh", "it_energy_joules"),
        joules_from_kwh("facility_energy_kwh", "facility_energy_joules"),
        joules_from_kwh("useful_it_energy_kwh", "useful_it_energy_joules"),
        watts_from_kw("it_power_kw", "it_power_watts"),
        watts_from_kw("facility_power_kw", "facility_power_watts"),
        watts_from_kw("peak_facility_kw", "peak_facility_power_watts"),
        same("dry_bulb_c", "dry_bulb_celsius"),
        same("wet_bulb_c", "wet_bulb_celsius"),
        mapped("nodes_on", "on_node_counts"),
        same("up"),
        same("open"),
    ],
    path="meter",
)

SITE_STATUS = Codec(
    SiteStatus,
    pb.SiteStatus,
    [ref("site_id", "site", "sites"), instant("at_s", "status_time"), same("up"), same("cause")],
    path="status",
)

WEATHER_FORECAST = Codec(
    WeatherForecast,
    pb.WeatherForecast,
    [
        instant("from_s", "from_time"),
        listed("dry_bulb_c", "dry_bulb_celsius"),
        listed("wet_bulb_c", "wet_bulb_celsius"),
    ],
    path="forecast",
)

TELEMETRY_REPORT = Codec(
    TelemetryReport,
    pb.TelemetryReport,
    [
        instant("at_s", "report_time"),
        parts("replicas", "replicas", REPLICA_REPORT),
        parts("meters", "meters", SITE_METER),
        parts("statuses", "statuses", SITE_STATUS),
        part("forecast", "forecast", WEATHER_FORECAST),
    ],
    path="report",
)

TELEMETRY_RECEIPT = Codec(
    TelemetryReceipt,
    fleet_pb2.ReportTelemetryResponse,
    [same("revision"), same("applied_replica_count"), listed("ignored_placement_ids")],
    path="receipt",
    output=True,
)

START_ORDER = Codec(
    StartOrder,
    pb.StartReplica,
    [
        same("placement_id"),
        same("workload"),
        same("stage_id"),
        same("replica_index"),
        ref("site_id", "site", "sites"),
        same("group_id"),
        same("node_index"),
        instant("at_s", "start_time"),
        same("cpu_milli"),
        same("memory_mib", "memory_mebibytes"),
        same("gpu_milli"),
        listed("gpu_ids", "gpu_device_indices"),
        same("reference_gpu_milli"),
        same("utilization_frac", "utilization_fraction"),
        seconds("startup_s", "startup_duration"),
        seconds("done_work_s", "done_work_duration"),
        same("is_service"),
        seconds("checkpoint_interval_s", "checkpoint_interval_duration"),
        same("gang_size", "gang_replica_count"),
        same("transfer_gib", "transfer_gibibytes"),
        seconds("declared_work_s", "declared_work_duration"),
    ],
    path="start",
    output=True,
)

STOP_ORDER = Codec(
    StopOrder,
    pb.StopReplica,
    [
        same("placement_id"),
        ref("site_id", "site", "sites"),
        instant("at_s", "stop_time"),
        same("cause"),
    ],
    path="stop",
    output=True,
)


def _write_command_name(value: Command, given: dict[str, Any]) -> None:
    given["name"] = f"sites/{value.site_id}/commands/{value.revision}"


COMMAND = Codec(
    Command,
    pb.Command,
    [same("revision"), part("start", "start", START_ORDER), part("stop", "stop", STOP_ORDER)],
    path="command",
    output=True,
    write_more=_write_command_name,
)


def report_from_request(request: fleet_pb2.ReportTelemetryRequest) -> TelemetryReport:
    """The report of a request.

    Raises:
        InvalidRequest: with every problem.
    """
    return TELEMETRY_REPORT.from_proto(request.report)
