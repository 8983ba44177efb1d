"""What crosses the wall between a policy and the world: commands to sites, reports from sites.

Commands are the bodies of `replica.start_ordered` and `replica.stop_ordered` events, applied once per `placement_id`;
reports are the values of `suanli.model.telemetry`. Instants are whole seconds since 1970, energies kWh, powers W or kW.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from suanli.model import SiteMeter, SiteStatus, StopKind
from suanli.model.telemetry import ReplicaReport


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Order: run one replica on one node. `remaining_work_s` is what a restart has left of the declared work."""

    placement_id: str
    workload: str
    stage_id: str
    replica_index: int
    site_id: str
    group_id: str
    node_index: int
    at_s: int
    cpu_milli: int
    memory_mib: int
    gpu_milli: int
    gpu_ids: tuple[int, ...]
    reference_gpu_milli: int
    utilization_frac: float
    startup_s: int
    done_work_s: float
    is_service: bool
    checkpoint_interval_s: int
    gang_size: int
    transfer_gib: float
    declared_work_s: int = 0
    """Declared run time of one replica; the world uses it only for work whose true duration it does not know."""

    @classmethod
    def from_event_body(cls, body: dict[str, Any]) -> Self:
        """From the body of a `replica.start_ordered` event, whose keys are these field names."""
        return cls(**{**body, "gpu_ids": tuple(body["gpu_ids"])})


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Order: stop that placement. Unknown or ended placements are ignored."""

    placement_id: str
    site_id: str
    at_s: int
    kind: StopKind
    cause: str


Command = StartReplica | StopReplica


@dataclass(frozen=True, slots=True)
class SiteReport:
    """What one shard of sites says after a step, in time order, ties by site and placement id."""

    replicas: tuple[ReplicaReport, ...]
    meters: tuple[SiteMeter, ...]
    statuses: tuple[SiteStatus, ...]


class SiteEngine(Protocol):
    """Simulated sites behind one doorway; the local and the Ray engine give equal reports for one seed."""

    def step(self, commands: Sequence[Command], until_s: int) -> SiteReport:
        """Apply commands at their instants, run every site to `until_s`, return what happened since the last step."""
        ...

    def stop_site(self, site_id: str) -> None:
        """Halt one site's engine by hand: it makes no more starts, ends or energy until resumed."""
        ...

    def close(self) -> None:
        """End the actors, if any."""
        ...
