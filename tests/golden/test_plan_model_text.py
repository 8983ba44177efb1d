"""The slow model of a tiny town as text: every rule by name, reviewed as a diff."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from solvers.plan_model import PlanLimits, plan_sets
from solvers.plan_rules import PlanOptions, build
from solvers.problem import Terms
from tests.plan_problems import Town

GOLDEN = Path(__file__).parent / "goldens" / "plan_model_tiny.txt"


def tiny_town() -> Town:
    """Two sites, two slots, a service with a link, batch work, an annual cap and an hourly one."""
    town = Town(hours=(1.0, 2.0), terms=Terms(portfolio_pue_cap_annual=1.5))
    town.leg_rtt_ms = {"z1/pon": {"edge": 6.0, "dc": 9.0}}
    town.links, town.routes = [("uplink", 5.0)], [(0, "dc", "uplink")]
    town.site("dc", pue_cap_annual=1.3).site("edge", is_edge=True, may_close=True, ipue_cap_hourly=1.5)
    town.group("dc/l20", "dc").group("edge/l20", "edge", node_count=2)
    town.work("web", demand=[4, 2], flows=[("z1/pon", 10.0, 2.0)], running={"dc/l20": 1})
    town.work("render", work_replica_h=3, deadline_slot=1, max_parallel=2, gpu={"l20": 1.0})
    return town


def test_the_model_reads_as_its_rules(golden: Callable[[Path, str], None]):
    sets = plan_sets(tiny_town().problem(), PlanOptions(chord_count=1), PlanLimits())
    golden(GOLDEN, build(sets).lp.as_text())
