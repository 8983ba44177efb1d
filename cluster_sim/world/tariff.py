"""Price of energy by local hour, from periods of the day and their multipliers.

    price = flat · (1 + floating_share · (multiplier − 1))        yuan/kWh

Only a share of the bill floats with the time of use: published levels lie closer together than the multipliers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from suanli.model.units import HOURS_PER_DAY


def hours_of(span: str) -> tuple[int, ...]:
    """Hours of the day in "22-6" (from 22:00 until 6:00), in order from its start; ValueError when out of range."""
    start, end = (int(part) for part in span.split("-"))
    if not (0 <= start < HOURS_PER_DAY and 0 < end <= HOURS_PER_DAY) or start == end % HOURS_PER_DAY:
        raise ValueError(f"{span!r} is not a span of hours")
    length = (end - start) % HOURS_PER_DAY
    return tuple((start + i) % HOURS_PER_DAY for i in range(length))


def period_by_hour(hours: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Name of the period of each of the 24 hours; ValueError when an hour has none or several."""
    names: list[str | None] = [None] * HOURS_PER_DAY
    for period, spans in hours.items():
        for hour in (h for span in spans for h in hours_of(span)):
            if names[hour] is not None:
                raise ValueError(f"hour {hour} belongs to {names[hour]} and {period}")
            names[hour] = period
    missing = [h for h, name in enumerate(names) if name is None]
    if missing:
        raise ValueError(f"hours {missing} belong to no period")
    return tuple(name for name in names if name is not None)


def prices_by_hour(
    flat_yuan_per_kwh: float,
    floating_share: float,
    multipliers: Mapping[str, float],
    hours: Mapping[str, Sequence[str]],
) -> tuple[float, ...]:
    """24 prices in yuan/kWh by local hour."""
    price = {name: flat_yuan_per_kwh * (1 + floating_share * (m - 1)) for name, m in multipliers.items()}
    return tuple(round(price[name], 6) for name in period_by_hour(hours))
