"""Numbers of the YAML that follow from other numbers of it; a test compares file and derivation.

python -m cluster_sim.scenarios.derive          prints opening_facility_per_it of every plant
"""

from __future__ import annotations

from datetime import date

import numpy as np

from cluster_sim.scenarios.loader import load_scenario
from cluster_sim.scenarios.schema import Plant, Scenario
from cluster_sim.world.facility import FacilityPhysics, cooling_per_heat
from cluster_sim.world.weather import MonthNormals, humidity_frac, wet_bulb_c
from suanli.model.units import HOURS_PER_DAY, W_PER_KW

RATED_W = 1000.0 * W_PER_KW
DIGITS = 4


def opening_facility_per_it(scenario: Scenario, plant: Plant) -> float:
    """Facility kWh per IT kWh from `ledger_opening.from_day` until the played day.

    The plant runs at its reference load under the monthly normals: what its meters would have read.
    """
    physics = FacilityPhysics(plant, RATED_W, scenario.plants.off_share)
    it_w = plant.pue_reference_load * RATED_W
    facility_wh = sum(
        days
        * sum(physics.steady_power_w(it_w, float(k)) for k in normal_cooling_per_heat(scenario, plant, month))
        for month, days in days_by_month(scenario).items()
    )
    return round(facility_wh / (it_w * scenario.ledger_opening.hours), DIGITS)


def days_by_month(scenario: Scenario) -> dict[int, int]:
    """Days of each month between the start of the ledger and the played day."""
    first, last = date.fromisoformat(scenario.ledger_opening.from_day), scenario.day.start.date()
    days: dict[int, int] = {}
    for ordinal in range(first.toordinal(), last.toordinal()):
        month = date.fromordinal(ordinal).month
        days[month] = days.get(month, 0) + 1
    return days


def normal_cooling_per_heat(
    scenario: Scenario, plant: Plant, month: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """k(weather) in the 24 hours of a normal day of the month."""
    normals = MonthNormals.of(scenario.weather, month)
    dry = normals.dry_bulb_c(np.arange(HOURS_PER_DAY, dtype=np.float64) + 0.5)
    return cooling_per_heat(plant, dry, wet_bulb_c(dry, humidity_frac(dry, normals.dew_c)))


def main() -> None:
    """Print the derived numbers beside those in the file."""
    scenario = load_scenario("songjiang-base")
    for name, plant in scenario.plants.rows.items():
        derived = opening_facility_per_it(scenario, plant)
        print(f"{name:12s} file {plant.opening_facility_per_it:.4f}   derived {derived:.4f}")


if __name__ == "__main__":
    main()
