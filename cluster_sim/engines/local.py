"""The simulated sites in this process: the twin of the Ray engine, and what tests use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster_sim.engines.merge import merged, run_shard
from cluster_sim.scenarios.schema import Scenario
from cluster_sim.world.build import site_sims, site_specs
from cluster_sim.world.demand import Fate
from cluster_sim.world.protocol import Command, SiteReport


class LocalEngine:
    """All sites of a scenario, stepped one after the other."""

    def __init__(self, scenario: Scenario, seed: int, fates: Mapping[str, Fate]) -> None:
        self._sites = {sim.spec.site_id: sim for sim in site_sims(site_specs(scenario, seed), fates)}

    def step(self, commands: Sequence[Command], until_s: int) -> SiteReport:
        """Apply commands at their instants, run every site up to and including `until_s`.

        KeyError on a command to a site that does not exist.
        """
        return merged([run_shard(self._sites, commands, until_s)])

    def stop_site(self, site_id: str) -> None:
        """Halt one site's engine by hand: no starts, ends or energy until `resume_site`."""
        self._sites[site_id].is_halted = True

    def resume_site(self, site_id: str) -> None:
        """Let a halted site go on where it stood."""
        self._sites[site_id].is_halted = False

    def delivered_running(self) -> dict[str, float]:
        """Reference-GPU seconds delivered so far by what runs now, by placement id."""
        return {p: s for sim in self._sites.values() for p, s in sim.delivered_running().items()}

    def close(self) -> None:
        """Nothing to release."""
