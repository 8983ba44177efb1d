"""Facility physics, component by component: what really happens between the meter and the machines.

    IT power u → PDU and wiring → UPS → switchgear        each loss at the load that flows through it
             → heat → room mass (lag) → fans → economiser, chiller or DX

Loads are shares of rated IT power R. Differences from the planner's linear form, on purpose: losses cascade (the
UPS carries the losses behind it), fans follow the cube of their speed, compressors work better near their
reference load, and heat reaches the plant with the lag of the room. Sources of the curves stand with the plants
in the scenario.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.scenarios.schema import Plant
from suanli.model import CoolingPlant

F64 = NDArray[np.float64]
# wet bulb °C → cooling power per heat of a plant with waterside economiser (Lei-Masanet 2020, mid and poor parameters)
ECONOMISER_MID = ((19.5, 23.0, 25.0, 27.0, 28.0), (0.061, 0.129, 0.18, 0.237, 0.25))
ECONOMISER_POOR = ((14.0, 18.0, 20.0, 28.0), (0.081, 0.212, 0.254, 0.300))
DX_SLOPE_PER_K, DX_OFFSET, DX_CLAMP_C = 0.0064, 0.075, 15.0
DX_ECONOMISER_POLY = (7.1705e-5, 0.0041, 0.0743)
COLD_PLATE = 0.058
FAN_FLOOR = 0.4


def cooling_per_heat(plant: Plant, dry_bulb_c: F64, wet_bulb_c: F64) -> F64:
    """k(weather): cooling power per unit of heat at the reference load, liquid share included."""
    match plant.cooling:
        case CoolingPlant.WATER_ECONOMISER_MID:
            air = np.interp(wet_bulb_c, *ECONOMISER_MID)
        case CoolingPlant.WATER_ECONOMISER_POOR:
            air = np.interp(wet_bulb_c, *ECONOMISER_POOR)
        case CoolingPlant.CHILLER_FIXED:
            air = np.full_like(dry_bulb_c, plant.cooling_constant)
        case CoolingPlant.DX_MECHANICAL:
            air = DX_SLOPE_PER_K * np.maximum(dry_bulb_c, DX_CLAMP_C) + DX_OFFSET
        case CoolingPlant.DX_ECONOMISER:
            air = np.maximum(0.0, np.polyval(DX_ECONOMISER_POLY, dry_bulb_c))
    return np.asarray(plant.liquid_share * COLD_PLATE + (1 - plant.liquid_share) * plant.cooling_factor * air)


@dataclass(slots=True)
class FacilityPhysics:
    """Plant of one site with its one state: the heat that the room has taken up and not yet given to the plant."""

    plant: Plant
    rated_w: float
    off_share: float
    heat_frac: float = 0.0
    _reference_heat: float = 0.0

    def __post_init__(self) -> None:
        self._reference_heat = self._heat(self.plant.pue_reference_load)
        self.heat_frac = self._heat(0.0)

    def open_power_w(self, it_w: float, cooling_per_heat: float, elapsed_s: float) -> float:
        """Facility power while the site is open, mean over `elapsed_s` of IT power `it_w` (IT included)."""
        load = it_w / self.rated_w
        heat = self._heat(load)
        self.heat_frac += (heat - self.heat_frac) * -math.expm1(-elapsed_s / self.plant.thermal_lag_s)
        return self.rated_w * (heat + self._cooling(self.heat_frac, cooling_per_heat))

    def closed_power_w(self, cooling_per_heat: float) -> float:
        """What an empty, closed site still draws; the room cools down meanwhile."""
        self.heat_frac = heat = self._heat(0.0)
        return self.off_share * self.rated_w * (heat + self._cooling(heat, cooling_per_heat))

    def steady_power_w(self, it_w: float, cooling_per_heat: float) -> float:
        """Facility power after any lag, without touching the state."""
        heat = self._heat(it_w / self.rated_w)
        return self.rated_w * (heat + self._cooling(heat, cooling_per_heat))

    def _heat(self, load: float) -> float:
        """IT power, electrical losses and lighting: everything that becomes heat."""
        pdu, ups = self.plant.pdu, self.plant.ups
        behind_ups = load + pdu[0] + pdu[1] * load + pdu[2] * load * load
        through_ups = behind_ups + ups[0] + ups[1] * behind_ups + ups[2] * behind_ups * behind_ups
        return through_ups + self.plant.switchgear + self.plant.lighting

    def _cooling(self, heat: float, cooling_per_heat: float) -> float:
        """Fans and pumps, and the plant that moves the heat out of doors."""
        plant = self.plant
        speed = (FAN_FLOOR + (1 - FAN_FLOOR) * heat) / (FAN_FLOOR + (1 - FAN_FLOOR) * self._reference_heat)
        fixed = plant.cooling_fixed * (1 - plant.fan_share + plant.fan_share * speed**3)
        part_load = 1 + plant.part_load_slope * (heat - self._reference_heat)
        return fixed + cooling_per_heat * part_load * heat
