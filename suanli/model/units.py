"""The one file where a unit becomes another one.

Requirements round up and capacities round down, so that an integer problem is never easier than the real one.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

SECONDS_PER_MINUTE = 60
MINUTES_PER_HOUR = 60
SECONDS_PER_HOUR = SECONDS_PER_MINUTE * MINUTES_PER_HOUR
HOURS_PER_DAY = 24
SECONDS_PER_DAY = SECONDS_PER_HOUR * HOURS_PER_DAY
DAYS_PER_YEAR = 365
HOURS_PER_YEAR = DAYS_PER_YEAR * HOURS_PER_DAY
MILLI = 1000
W_PER_KW = 1000
JOULES_PER_KWH = 3_600_000
MICROS_PER_MS = 1000
NANOS_PER_MS = 1_000_000
MIB_PER_GIB = 1024
MBPS_PER_GBPS = 1000


def need_milli(units: float) -> int:
    """Whole or broken units (cores, GPUs) as milli, rounded up: a need is never understated."""
    return math.ceil(round(units * MILLI, 6))


def need_mib(gib: float) -> int:
    """GiB as MiB, rounded up."""
    return math.ceil(round(gib * MIB_PER_GIB, 6))


def kw_from_w(power_w: float) -> float:
    """Watts as kilowatts."""
    return power_w / W_PER_KW


def w_from_kw(power_kw: float) -> float:
    """Kilowatts as watts."""
    return power_kw * W_PER_KW


def kwh_from_joules(energy_joules: float) -> float:
    """Joules as kilowatt-hours."""
    return energy_joules / JOULES_PER_KWH


def joules_from_kwh(energy_kwh: float) -> float:
    """Kilowatt-hours as joules."""
    return energy_kwh * JOULES_PER_KWH


def h_from_seconds(duration_s: float) -> float:
    """Seconds as hours."""
    return duration_s / SECONDS_PER_HOUR


def seconds_from_h(duration_h: float) -> float:
    """Hours as seconds."""
    return duration_h * SECONDS_PER_HOUR


def need_micros(duration_ms: float) -> int:
    """Milliseconds that work or a route takes, as whole microseconds, rounded up."""
    return math.ceil(round(duration_ms * MICROS_PER_MS, 6))


def limit_micros(duration_ms: float) -> int:
    """A limit in milliseconds as whole microseconds, rounded down."""
    return math.floor(round(duration_ms * MICROS_PER_MS, 6))


def ms_from_micros(duration_micros: float) -> float:
    """Microseconds as milliseconds."""
    return duration_micros / MICROS_PER_MS


def need_nanos(duration_ms: float) -> int:
    """Milliseconds of delay as whole nanoseconds, rounded up."""
    return math.ceil(round(duration_ms * NANOS_PER_MS, 6))


def ms_from_nanos(duration_nanos: float) -> float:
    """Nanoseconds as milliseconds."""
    return duration_nanos / NANOS_PER_MS


def epoch_s(at: datetime) -> int:
    """UTC instant as whole seconds since 1970; the planner and the simulated world count in these."""
    if at.tzinfo is None:
        raise ValueError("instants carry a time zone")
    return int(at.timestamp())


def local_time(at_s: float, utc_offset_hours: int) -> str:
    """Seconds since 1970 as people at that offset read them, the offset named: `2026-07-15 14:05+08:00`."""
    zone = timezone(timedelta(hours=utc_offset_hours))
    return datetime.fromtimestamp(at_s, tz=zone).isoformat(sep=" ", timespec="minutes")


def utc(at_s: float) -> datetime:
    """Seconds since 1970 as a UTC instant."""
    return datetime.fromtimestamp(at_s, tz=UTC)
