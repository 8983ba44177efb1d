"""What recorded input becomes: a scenario to play, and what to say about it."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.scenarios.schema import Scenario


@dataclass(frozen=True)
class TraceDay:
    """The scenario, and in words what became of the list on the way to it."""

    scenario: Scenario
    notes: tuple[str, ...]
