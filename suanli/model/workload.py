"""Workload: one submission, `tenants/{tenant}/workloads/{workload}`: a small graph of stages, flows and paths.

Training is one gang stage; inference one stage with flows from zones; a twin is ingest → sync → simulate → render.
The kind sets defaults, never behaviour: what is planned follows from the fields alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from suanli.model.base import Fraction, Identifier, Label, PlainText, Value
from suanli.model.problems import Violation, Violations, repeated_ids, unknown_id

MAX_REPLICAS = 100_000
MAX_STAGES = 16
MAX_FLOWS = 128
MAX_LABELS = 64
DAY_S = 24 * 3600
MAX_DURATION_S = 3660 * DAY_S
"""Ten years. Bounds of amounts lie far beyond any machine: they catch slips of the keyboard, and keep every amount
within what the wire can carry."""
MAX_DELAY_MS = DAY_S * 1000
NAME_PATTERN = (
    r"^tenants/[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?/workloads/[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
)
LabelText = Annotated[PlainText, Field(max_length=253)]
WorkloadName = Annotated[str, Field(pattern=NAME_PATTERN)]


class WorkloadKind(StrEnum):
    """What the submitter calls it; sets defaults only."""

    TRAINING = "training"
    INFERENCE = "inference"
    TWIN = "twin"
    BATCH = "batch"


class PriorityClass(StrEnum):
    """Order of service when not all can be served; hard_safety ranks above the PUE caps."""

    HARD_SAFETY = "hard_safety"
    PUBLIC_SERVICE = "public_service"
    INTERACTIVE = "interactive"
    BATCH = "batch"

    @property
    def rank(self) -> int:
        """0 is served first."""
        return _RANK_OF[self]


_RANK_OF = {priority: rank for rank, priority in enumerate(PriorityClass)}


class WorkloadState(StrEnum):
    """Life of a workload; only the service moves it."""

    PENDING = "pending"
    PLANNED = "planned"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """No event follows a final state."""
        return self in (WorkloadState.SUCCEEDED, WorkloadState.FAILED, WorkloadState.CANCELLED)


class Spread(Value):
    """At least `min_domains` different nodes or sites carry the stage's replicas."""

    over: Literal["node", "site"]
    min_domains: int = Field(2, ge=1, le=1000)


class Stage(Value):
    """Replicas of one shape.

    `gpu_milli` maps each GPU model allowed to the milli-GPUs a replica needs on it (1000 = one whole device; below 1000
    a share of one device, above only whole multiples); the first entry is the reference in which delivered GPU-hours
    are counted. Empty: no GPU.
    """

    stage_id: Identifier
    replicas: int = Field(1, ge=1, le=MAX_REPLICAS)
    replicas_max: int | None = Field(
        None, ge=1, le=MAX_REPLICAS, description="stages do not grow yet: refused above `replicas`"
    )
    cpu_milli: int = Field(ge=0, le=10_000_000)
    memory_mib: int = Field(ge=0, le=100_000_000)
    storage_gib: int = Field(0, ge=0, le=10_000_000)
    gpu_milli: dict[str, Annotated[int, Field(gt=0, le=16_000)]] = Field(default_factory=dict)
    gpu_memory_mib: int = Field(
        0, ge=0, le=10_000_000, description="per whole GPU; a share of a GPU needs its share of it"
    )
    gang: bool = Field(False, description="all replicas start together, on one site, or none")
    utilization_frac: Fraction = Field(0.5, description="mean utilisation while running, for power")
    require_any: tuple[dict[Label, str], ...] = Field(
        (), description="alternatives; a site qualifies when all labels of one alternative match (or of and)"
    )
    site_ids: tuple[Identifier, ...] = Field((), description="narrow to these sites; empty: any")
    spread: Spread | None = None
    colocate_with: str | None = Field(
        None, description="stage of this workload that must lie on the same site"
    )
    shared_with: WorkloadName | None = Field(
        None, description="use that workload's stage of the same id; nothing new runs"
    )
    dataset_ids: tuple[Identifier, ...] = ()
    duration_s: int | None = Field(
        None,
        gt=0,
        le=MAX_DURATION_S,
        description="declared run time; none: a service that runs until cancelled",
    )
    startup_s: int = Field(30, ge=0, le=DAY_S)
    preemptible: bool = False
    checkpoint_interval_s: int = Field(
        0, ge=0, le=MAX_DURATION_S, description="0: no checkpoint, a restart begins anew"
    )
    checkpoint_gib: float = Field(0.0, ge=0, le=10_000_000)
    processing_p99_ms: dict[str, Annotated[float, Field(ge=0, le=MAX_DELAY_MS)]] = Field(
        default_factory=dict,
        description="per GPU model (`cpu` for stages without one); counts into path budgets",
    )

    @property
    def is_elastic(self) -> bool:
        """May run more than `replicas`."""
        return self.replicas_max is not None and self.replicas_max > self.replicas

    @property
    def is_service(self) -> bool:
        """Runs until cancelled."""
        return self.duration_s is None

    @property
    def reference_gpu_milli(self) -> int:
        """Milli-GPUs of one replica in the reference model."""
        return next(iter(self.gpu_milli.values()), 0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found: list[Violation] = [
            Violation(
                ("gpu_milli", model),
                f"{milli} is more than one GPU and not whole",
                "up to 1000, or a multiple of 1000",
                nearest=-(-milli // 1000) * 1000,
            )
            for model, milli in self.gpu_milli.items()
            if milli > 1000 and milli % 1000
        ]
        if self.replicas_max is not None and self.replicas_max < self.replicas:
            found.append(
                Violation(
                    ("replicas_max",),
                    f"{self.replicas_max} is below the {self.replicas} replicas wanted",
                    nearest=self.replicas,
                )
            )
        if self.spread is not None and self.spread.min_domains > self.replicas:
            found.append(
                Violation(
                    ("spread", "min_domains"),
                    f"{self.spread.min_domains} exceeds the {self.replicas} replicas",
                    nearest=self.replicas,
                )
            )
        if self.gang and self.spread is not None and self.spread.over == "site":
            found.append(
                Violation(("spread", "over"), "a gang lies on one site and cannot be spread over sites")
            )
        if self.colocate_with == self.stage_id:
            found.append(Violation(("colocate_with",), "names the stage itself"))
        if found:
            raise Violations(found)
        return self


class Flow(Value):
    """Traffic between `zones/{z}` or `stages/{s}`; the RTT limit is on the network p99 of this leg, per replica."""

    source: str = Field(pattern=r"^(zones|stages)/[a-z0-9._-]+$")
    target: str = Field(pattern=r"^(zones|stages)/[a-z0-9._-]+$")
    access_id: str = Field(
        "", description="access profile of the zone end; empty: the slowest of the zone's mix"
    )
    mbps: float = Field(0.0, ge=0, le=10_000_000)
    rtt_p99_max_ms: float | None = Field(None, gt=0, le=MAX_DELAY_MS)


class PathBudget(Value):
    """End-to-end budget along zones and stages: Σ network p99 + Σ processing p99 ≤ budget_ms."""

    path_id: Identifier
    via: tuple[str, ...] = Field(min_length=2, max_length=MAX_STAGES + 2)
    budget_ms: float = Field(gt=0, le=MAX_DELAY_MS)


class Workload(Value):
    """What a tenant submits; the unit of admission, of state and of watch events."""

    name: WorkloadName
    kind: WorkloadKind
    workload_class: PlainText = Field(
        "", max_length=63, description="label that reports and forecasts group by, e.g. W9"
    )
    display_name: PlainText = Field("", max_length=200)
    display_name_zh: PlainText = Field("", max_length=200)
    priority_class: PriorityClass = PriorityClass.BATCH
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=MAX_STAGES)
    flows: tuple[Flow, ...] = Field((), max_length=MAX_FLOWS)
    paths: tuple[PathBudget, ...] = Field((), max_length=MAX_FLOWS)
    not_before_at: AwareDatetime | None = None
    deadline_at: AwareDatetime | None = None
    deferrable: bool = False
    lateness_yuan_per_gpu_hour: float = Field(5.0, ge=0, le=1_000_000)
    labels: dict[Label, LabelText] = Field(default_factory=dict, max_length=MAX_LABELS)

    @property
    def tenant_id(self) -> str:
        """The tenant part of the name."""
        return self.name.split("/")[1]

    @property
    def workload_id(self) -> str:
        """The last part of the name."""
        return self.name.split("/")[3]

    def stage(self, stage_id: str) -> Stage:
        """The stage of that id; KeyError if there is none."""
        for stage in self.stages:
            if stage.stage_id == stage_id:
                return stage
        raise KeyError(stage_id)

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> Self:
        ids = {stage.stage_id for stage in self.stages}
        found = [*repeated_ids("stages", "stage_id", [s.stage_id for s in self.stages])]
        found += repeated_ids("paths", "path_id", [p.path_id for p in self.paths])
        for i, stage in enumerate(self.stages):
            if stage.colocate_with is not None:
                found += unknown_id(("stages", i, "colocate_with"), "stage", stage.colocate_with, ids)
            if stage.shared_with == self.name:
                found.append(Violation(("stages", i, "shared_with"), "names the workload itself"))
        for i, flow in enumerate(self.flows):
            for end, where in ((flow.source, "source"), (flow.target, "target")):
                part, _, stage_id = end.partition("/")
                if part == "stages":
                    found += unknown_id(("flows", i, where), "stage", stage_id, ids, "stages/")
            if flow.source.startswith("zones/") and flow.target.startswith("zones/"):
                found.append(
                    Violation(("flows", i), "one end must be a stage", refers_to=(flow.source, flow.target))
                )
        for i, path in enumerate(self.paths):
            for j, hop in enumerate(path.via):
                part, _, end = hop.partition("/")
                if part == "stages" and end:
                    found += unknown_id(("paths", i, "via", j), "stage", end, ids, "stages/")
                elif part != "zones" or not end:
                    found.append(
                        Violation(
                            ("paths", i, "via", j),
                            f"{hop!r} has the wrong form",
                            "zones/{zone} or stages/{stage}",
                            code="form",
                        )
                    )
        if (
            self.deadline_at is not None
            and self.not_before_at is not None
            and self.deadline_at <= self.not_before_at
        ):
            found.append(Violation(("deadline_at",), "is not after the instant it may start"))
        if found:
            raise Violations(found)
        return self
