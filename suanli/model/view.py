"""What the API shows beyond what was submitted or registered: records with state, changes, dry runs, orders.

`WorkloadRecord`, `SiteRecord`, `FleetRecord`: a value with its state and etag. `Node`: one machine.
`WorkloadChange`: one event of a watch. `WorkloadsPlan`: the answer of a dry run. `Command`: one order
to a site. `RunProgress`, `TelemetryReceipt`: answers of the driver's calls. Instants `_at_s` are whole
seconds since 1970.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from suanli.model.base import Fraction, NonNegative, Value
from suanli.model.errors import FieldProblem
from suanli.model.fleet import Fleet, PueCap, Site
from suanli.model.operation import SimulationRun
from suanli.model.plan import LedgerBalance, Move, Placement
from suanli.model.reason import Explanation, StartEstimate
from suanli.model.telemetry import SiteMeter
from suanli.model.workload import PriorityClass, Workload, WorkloadKind, WorkloadState


class WorkloadRecord(Value):
    """A workload with its state; `workload` is None in the BASIC view of lists."""

    name: str
    kind: WorkloadKind
    workload_class: str = ""
    display_name: str = ""
    display_name_zh: str = ""
    priority_class: PriorityClass = PriorityClass.BATCH
    state: WorkloadState
    etag: str = ""
    created_at_s: int = 0
    updated_at_s: int = 0
    summary: str = ""
    replica_count: int = Field(0, ge=0)
    placed_replica_count: int = Field(0, ge=0)
    running_replica_count: int = Field(0, ge=0)
    done_replica_count: int = Field(0, ge=0)
    gpu_milli: int = Field(0, ge=0, description="all replicas, in reference models")
    pending_reasons: dict[str, int] = Field(
        default_factory=dict, description="ReasonCode → sites it rules out"
    )
    queue_position: int = Field(0, ge=0, description="1 is next; 0: not queued")
    expected_start: StartEstimate | None = None
    site_ids: tuple[str, ...] = Field((), description="sites its replicas lie on")
    warnings: tuple[FieldProblem, ...] = Field(
        (),
        description="what cannot come true as the service sees it when it is accepted or checked; not kept",
    )
    workload: Workload | None = None

    @classmethod
    def of(cls, workload: Workload, state: WorkloadState, **status: object) -> Self:
        """The record of `workload`; `status` names any of the other fields."""
        return cls.model_validate({**facts_of(workload), "state": state, **status})

    def basic(self) -> Self:
        """Without the body, as lists show it."""
        return self if self.workload is None else self.model_copy(update={"workload": None})


def facts_of(workload: Workload) -> dict[str, Any]:
    """The fields of a record that its workload alone decides."""
    replica_count = gpu_milli = 0
    for stage in workload.stages:
        replica_count += stage.replicas
        gpu_milli += stage.replicas * stage.reference_gpu_milli
    return {
        "name": workload.name,
        "kind": workload.kind,
        "workload_class": workload.workload_class,
        "display_name": workload.display_name,
        "display_name_zh": workload.display_name_zh,
        "priority_class": workload.priority_class,
        "replica_count": replica_count,
        "gpu_milli": gpu_milli,
        "workload": workload,
    }


class ChangeType(StrEnum):
    """What happened to the thing watched; a bookmark only moves the token."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    BOOKMARK = "bookmark"


class WorkloadChange(Value):
    """One event of a watch; `record` is None in a bookmark or when deleted, `name` empty in a bookmark."""

    type: ChangeType
    name: str = ""
    record: WorkloadRecord | None = None
    resume_token: str


class SiteState(Value):
    """What is known of a site now."""

    up: bool = True
    open: bool = True
    placed_replica_count: int = Field(0, ge=0)
    placed_workload_count: int = Field(0, ge=0)
    on_node_count: int = Field(0, ge=0)
    installed_gpu_milli: int = Field(0, ge=0)
    placed_gpu_milli: int = Field(0, ge=0)
    placed_cpu_milli: int = Field(0, ge=0)
    meter: SiteMeter | None = Field(None, description="the last reading; its until_s tells its age")
    ipue: float | None = Field(None, description="of that reading; None without IT energy")
    ledger: LedgerBalance | None = None
    price_yuan_per_kwh: float | None = None
    rtt_p99_ms: float | None = Field(None, description="highest among what is placed there")
    caps: PueCap | None = Field(None, description="in force: the site's own, as the policy overrides them")
    power_limit_kw: float | None = Field(None, description="of IT power, in force")
    reserved_floor_frac: Fraction = Field(0.0, description="kept free for public services")
    policy_revision: int = Field(0, ge=0, description="which these follow; 0 is the built-in one")


class SiteRecord(Value):
    """A site with its state."""

    site: Site
    status: SiteState = SiteState()
    etag: str = ""
    created_at_s: int = 0
    updated_at_s: int = 0


class FleetRecord(Value):
    """The registered fleet with its etag."""

    fleet: Fleet
    etag: str = ""
    created_at_s: int = 0
    updated_at_s: int = 0


class NodeState(StrEnum):
    """Power state of a node."""

    ON = "on"
    OFF = "off"
    WAKING = "waking"
    DOWN = "down"


class Node(Value):
    """One machine with what is left of it; `gpu_free_milli` has one entry per device."""

    node_id: str
    site_id: str
    group_id: str
    node_index: int = Field(ge=0)
    state: NodeState = NodeState.ON
    cordoned: bool = False
    cpu_free_milli: int = 0
    memory_free_mib: int = 0
    storage_free_gib: int = 0
    gpu_free_milli: tuple[int, ...] = ()
    placed_replica_count: int = Field(0, ge=0)
    etag: str = ""


class PlannedWorkload(Value):
    """What would become of one workload; powers and cost are what it would add."""

    workload: str
    state: WorkloadState
    placements: tuple[Placement, ...] = ()
    explanation: Explanation
    it_power_w: NonNegative = 0.0
    facility_power_w: NonNegative = 0.0
    cost_yuan_per_hour: float = 0.0
    rtt_p99_ms: NonNegative = 0.0
    warnings: tuple[FieldProblem, ...] = Field((), description="what cannot come true")


class WorkloadsPlan(Value):
    """Answer of a dry run; hand `etag` to a submission to be told when what it rested on has changed."""

    etag: str
    at_s: int
    workloads: tuple[PlannedWorkload, ...]
    moves: tuple[Move, ...] = ()
    it_power_w: NonNegative = 0.0
    facility_power_w: NonNegative = 0.0
    cost_yuan_per_hour: float = 0.0


class StartOrder(Value):
    """Order: run one replica on one node; the fields are the body of a `replica.start_ordered` event."""

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
    declared_work_s: int = Field(0, ge=0, description="declared run time; 0: runs until stopped")


class StopOrder(Value):
    """Order: stop one placement, from a `replica.stop_ordered` event; why is told in words alone."""

    placement_id: str
    site_id: str
    at_s: int
    cause: str


class Command(Value):
    """One order to one site, at its revision of the log; exactly one of `start` and `stop` is set."""

    revision: int = Field(ge=0)
    start: StartOrder | None = None
    stop: StopOrder | None = None

    @property
    def site_id(self) -> str:
        """Whom it is for."""
        order = self.start or self.stop
        assert order is not None
        return order.site_id

    @model_validator(mode="after")
    def _one_order(self) -> Self:
        if (self.start is None) == (self.stop is None):
            raise ValueError("a command starts or stops")
        return self


class RunProgress(Value):
    """Answer of an advance: how far the run is, and when the service next has something of its own to do."""

    run: SimulationRun
    revision: int
    workloads_by_state: dict[WorkloadState, int] = Field(default_factory=dict)
    next_wake_at_s: int | None = None


class TelemetryReceipt(Value):
    """Answer of a report; ignored placements are unknown or ended and should be stopped."""

    revision: int
    applied_replica_count: int = 0
    ignored_placement_ids: tuple[str, ...] = ()
