"""From a scenario and a seed to what a day consists of: arrivals, fates, instants that cut windows, weather ahead."""

from __future__ import annotations

from cluster_sim.driver import DayPlan, ForecastAt
from cluster_sim.scenarios.schema import Scenario
from cluster_sim.world.arrivals import Arrivals, arrivals
from cluster_sim.world.build import weather_of
from suanli.model import WeatherForecast

FORECAST_HOURS = 30
WINDOW_S = 300
"""Length of a window when nothing happens within it (ASSUMED): telemetry every five minutes is what rooms report."""


def day_of(scenario: Scenario, seed: int, window_s: int = WINDOW_S) -> tuple[DayPlan, Arrivals]:
    """The day as the driver plays it, and the arrivals with the fates that only the world may know."""
    submitted = arrivals(scenario, seed)
    failures = (*scenario.failures.site_outages, *scenario.failures.cooling_degradations)
    plan = DayPlan(
        run_id=f"{scenario.scenario_id}-{seed}",
        seed=seed,
        start_s=scenario.start_s,
        day_end_s=scenario.end_s,
        drain_until_s=scenario.drain_end_s,
        window_s=window_s,
        fleet=scenario.fleet(),
        policy=scenario.policy(),
        arrivals=submitted.items,
        cancellations=submitted.cancellations,
        instants_s=sorted({scenario.clock_s(c) for f in failures for c in (f.from_, f.until)}),
    )
    return plan, submitted


def forecasts(scenario: Scenario, seed: int) -> ForecastAt:
    """The weather service of the scenario: true weather with its forecast error."""
    weather = weather_of(scenario, seed)

    def at(now_s: int) -> WeatherForecast:
        return weather.forecast(now_s, FORECAST_HOURS)

    return at
