"""What sites report: meters of a window, replica starts and ends, outages, and the weather ahead."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from suanli.model.base import NonNegative, Value


class ReplicaPhase(StrEnum):
    """What happened to a replica on its site."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    STOPPED = "stopped"


class ReplicaReport(Value):
    """A start or an end, made by the site's own engine; `done_work_s` is what a restart may build on."""

    placement_id: str
    phase: ReplicaPhase
    at_s: int
    done_work_s: NonNegative = 0.0
    delivered_gpu_s: NonNegative = Field(
        0.0, description="reference-GPU seconds of useful work since the start"
    )
    detail: str = ""


class SiteMeter(Value):
    """Energy and power of one site over [from_s, until_s)."""

    site_id: str
    from_s: int
    until_s: int
    it_energy_kwh: NonNegative
    facility_energy_kwh: NonNegative
    useful_it_energy_kwh: NonNegative = 0.0
    it_power_kw: NonNegative = 0.0
    facility_power_kw: NonNegative = 0.0
    peak_facility_kw: NonNegative = 0.0
    dry_bulb_c: float = 0.0
    wet_bulb_c: float = 0.0
    nodes_on: dict[str, int] = Field(default_factory=dict)
    up: bool = True
    open: bool = True


class SiteStatus(Value):
    """A site went down or came back."""

    site_id: str
    at_s: int
    up: bool
    cause: str = ""


class WeatherForecast(Value):
    """Hourly outlook from `from_s`: dry and wet bulb in °C."""

    from_s: int
    dry_bulb_c: tuple[float, ...]
    wet_bulb_c: tuple[float, ...]


class TelemetryReport(Value):
    """Everything sites say in one call; applied in time order, once per request id."""

    at_s: int
    replicas: tuple[ReplicaReport, ...] = ()
    meters: tuple[SiteMeter, ...] = ()
    statuses: tuple[SiteStatus, ...] = ()
    forecast: WeatherForecast | None = None
