"""A scenario: the tables of its YAML (`tables`) with the fleet and the policy that follow from them (`fleet`)."""

from __future__ import annotations

from cluster_sim.scenarios.fleet import build_fleet, build_policy
from cluster_sim.scenarios.tables import (
    AlwaysOnPattern,
    AutoscaledPattern,
    JobSize,
    JobsPattern,
    LlmModel,
    NamedService,
    Plant,
    RecordedJobsPattern,
    RecordedReplicasPattern,
    RotatingPattern,
    ScenarioTables,
    SessionsPattern,
    StatelessPattern,
    Text,
    TrainingPattern,
    TwinsPattern,
    TwinSpec,
    TwinStage,
    Weather,
    WindowsPattern,
    WorkClass,
    ZoneCount,
    ZoneServicePattern,
)
from suanli.model import Fleet, Policy

__all__ = [
    "AlwaysOnPattern",
    "AutoscaledPattern",
    "JobSize",
    "JobsPattern",
    "LlmModel",
    "NamedService",
    "Plant",
    "RecordedJobsPattern",
    "RecordedReplicasPattern",
    "RotatingPattern",
    "Scenario",
    "SessionsPattern",
    "StatelessPattern",
    "Text",
    "TrainingPattern",
    "TwinSpec",
    "TwinStage",
    "TwinsPattern",
    "Weather",
    "WindowsPattern",
    "WorkClass",
    "ZoneCount",
    "ZoneServicePattern",
]


class Scenario(ScenarioTables):
    """A whole world and its day; `fleet()` is what the planner is told of it."""

    def fleet(self, *, exact: bool = False) -> Fleet:
        """The installed world as the planner is told.

        Plant coefficients are `planner_start.coefficient_error_frac` off, up and down by turns; with `exact` they are
        the nominal ones (for checks and reports, never for the planner).
        """
        return build_fleet(self, exact=exact)

    def policy(self) -> Policy:
        """The operator's goals of this scenario: caps lie at the sites, prices of debt and moves here."""
        return build_policy(self)
