"""Scenarios: complete descriptions of a run, every number with its source."""

from __future__ import annotations

from cluster_sim.scenarios.loader import (
    ScenarioError,
    load_scenario,
    scenario_from_raw,
    shipped_files,
    shipped_scenarios,
)
from cluster_sim.scenarios.schema import Scenario

__all__ = [
    "Scenario",
    "ScenarioError",
    "load_scenario",
    "scenario_from_raw",
    "shipped_files",
    "shipped_scenarios",
]
