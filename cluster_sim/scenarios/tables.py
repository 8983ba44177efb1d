"""What a scenario file may say: pydantic values, one per table of the YAML.

Map of the module
    Text, Sourced              names in two languages; tables that carry a `source:`
    Day … Failures             the world: time, machines, plants, sites, network, tariffs, weather, what goes wrong
    *Pattern, WorkClass        demand: how instances of a class come and go over the day
    ScenarioTables             the whole; `cluster_sim.scenarios.schema.Scenario` adds the derived fleet and policy

Sizes in the YAML are in the units of its readers (GiB, cores, minutes, local hours);
`cluster_sim.scenarios.fleet` turns them into the units of `suanli.model`. Instants leave here as seconds since 1970.
"""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, field_validator

from suanli.model import CoolingPlant, HostKind, PriorityClass, SiteKind, Value, WorkloadKind
from suanli.model.base import Fraction, Identifier, NonNegative, Positive
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR, SECONDS_PER_MINUTE

MonthlyValues = Annotated[tuple[float, ...], Field(min_length=12, max_length=12)]
HourSpan = Annotated[str, Field(pattern=r"^\d{1,2}-\d{1,2}$", description="local hours, e.g. 22-6")]
ClockTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="local time of the day")]
SOURCE_KINDS = ("sourced", "derived", "assumed", "recalled", "mixed")


class Text(Value):
    """A name in both languages of the city."""

    en: str
    zh: str


class Sourced(Value):
    """A table or record whose numbers come from one place, said in `source`."""

    source: str = Field(min_length=8)

    @field_validator("source")
    @classmethod
    def _says_its_kind(cls, text: str) -> str:
        if text.split(":", 1)[0] not in SOURCE_KINDS:
            raise ValueError(f"starts with one of {', '.join(SOURCE_KINDS)} and a colon")
        return text


class Day(Sourced):
    """The day that is played, in local time with its offset."""

    start: datetime
    hours: float = Field(gt=0, le=168)
    drain_hours: float = Field(24, ge=0, le=168)


class Scale(Sourced):
    """How the full city is shrunk or stressed."""

    cloud_divisor: Positive
    edge_divisor: Positive
    demand_factor: Positive
    sensor_factor: Positive
    camera_factor: Positive
    gang_max_pool_share: Annotated[float, Field(gt=0, le=1)]


class PlannerStart(Sourced):
    """What the planner is told wrongly on purpose: the plant coefficients it must learn."""

    coefficient_error_frac: Fraction


class NodeType(Value):
    """A machine."""

    gpu_model: str = ""
    gpu_count: int = Field(0, ge=0, le=16)
    gpu_gib: NonNegative = 0
    cores: int = Field(gt=0)
    ram_gib: Positive
    storage_gib: int = Field(ge=0)
    idle_w: NonNegative
    max_w: Positive


class NodeTypes(Sourced):
    """The catalogue of machines."""

    core_share_of_dynamic: Fraction
    node_wake_s: int = Field(ge=0)
    rows: dict[str, NodeType]


class GpuEquivalent(Value):
    """One GPU model against the reference."""

    share: Positive
    processing_factor: Positive


class GpuEquivalents(Sourced):
    """Share of each GPU model that gives the rate of one reference device."""

    reference: str
    rows: dict[str, GpuEquivalent]


class Plant(Value):
    """Facility plant of one type, as fractions of rated IT power, with the dynamics only the world knows.

    `ups` and `pdu` (transformers and wiring) lose [without load, in proportion to load, with its square].
    """

    ups: tuple[NonNegative, NonNegative, NonNegative]
    pdu: tuple[NonNegative, NonNegative, NonNegative]
    switchgear: NonNegative
    lighting: NonNegative
    cooling_fixed: NonNegative
    cooling: CoolingPlant
    cooling_factor: Positive = 1.0
    cooling_constant: NonNegative = 0.0
    liquid_share: Fraction = 0.0
    pue_reference_load: Fraction
    opening_facility_per_it: Annotated[float, Field(ge=1)]
    fan_share: Fraction
    part_load_slope: float
    thermal_lag_s: Positive

    @property
    def electrical_loss(self) -> tuple[float, float, float]:
        """e0, e1, e2 of the nominal sum of the components: L(u) = e0 + e1·u + e2·u²."""
        return (
            self.ups[0] + self.pdu[0] + self.switchgear,
            self.ups[1] + self.pdu[1],
            self.ups[2] + self.pdu[2],
        )


class Plants(Sourced):
    """The catalogue of plants."""

    rows: dict[str, Plant]
    off_share: Fraction
    site_start_s: int = Field(ge=0)


class LedgerOpeningRule(Sourced):
    """From when the annual ledgers run before the day that is played."""

    from_day: str
    hours: int = Field(gt=0)


class Caps(Sourced):
    """What all caps share."""

    debt_price_yuan_per_kwh: NonNegative


class SiteSpec(Value):
    """One site as the YAML gives it, at the full size of the city."""

    name: Text
    kind: SiteKind
    host_kind: HostKind
    plant: str
    pue_cap_annual: float | None = Field(None, ge=1, le=5)
    ipue_cap_hourly: float | None = Field(None, ge=1, le=5)
    nodes: dict[str, Annotated[int, Field(ge=1)]]
    storage_gib_per_node: dict[str, int] = Field(default_factory=dict)
    island_gpus: int = Field(0, ge=0)
    rated_it_kw: Positive
    position_km: tuple[float, float]
    microclimate_k: float = 0.0
    price_markup_frac: float = 0.0
    labels: dict[str, str] = Field(default_factory=dict)
    has_upf: bool = False
    home_for: tuple[str, ...] = ()
    tariff: str
    operator: str = ""


class SiteTable(Sourced):
    """All sites."""

    rows: dict[Identifier, SiteSpec]


class LinkSpec(Value):
    """One duplex link; length defaults to the distance of its ends."""

    ends: tuple[str, str]
    gbps: Positive
    hops: int = Field(1, ge=0)
    length_km: NonNegative | None = None
    extra_rtt_ms: NonNegative = 0.0


class AccessSpec(Value):
    """How devices reach their zone's access point."""

    p50_ms: Positive
    p99_ms: Positive
    down_mbps: Positive
    up_mbps: Positive
    via_upf: bool = False


class NetworkSpec(Sourced):
    """Links and the constants of the delay formula."""

    hop_rtt_ms: NonNegative
    km_rtt_ms: NonNegative
    queue_tau_ms: NonNegative
    planning_load_frac: Fraction
    hairpin_p50_ms: NonNegative
    hairpin_p99_ms: NonNegative
    transfer_yuan_per_gb: NonNegative
    transfer_yuan_per_gb_by_site: dict[str, float] = Field(default_factory=dict)
    transfer_share_of_uplink: Fraction
    access_link_gbps: Positive
    hubs: dict[str, tuple[float, float]]
    links: dict[str, LinkSpec]
    access: dict[str, AccessSpec]


class ZoneSpec(Value):
    """Where users attach, and what the zone counts."""

    name: Text
    position_km: tuple[float, float]
    own_edge: str
    population_k: NonNegative
    access: dict[str, Fraction]
    intersections: NonNegative = 0
    feeds: NonNegative = 0
    cameras: NonNegative = 0
    sensors_k: NonNegative = 0
    lines: NonNegative = 0
    teledriving: NonNegative = 0


class ZoneTable(Sourced):
    """All zones."""

    rows: dict[Identifier, ZoneSpec]


class DatasetSpec(Value):
    """Data that work reads."""

    size_gib: NonNegative
    sites: tuple[str, ...]


class DatasetTable(Sourced):
    """All data sets."""

    rows: dict[Identifier, DatasetSpec]


class Season(Value):
    """Time-of-use hours of some months; every hour of the day belongs to exactly one period."""

    months: tuple[Annotated[int, Field(ge=1, le=12)], ...]
    multipliers: dict[str, Positive]
    hours: dict[str, tuple[HourSpan, ...]]


class TariffSpec(Value):
    """price = flat · (1 + floating_share · (multiplier − 1))."""

    flat_yuan_per_kwh: Positive
    floating_share: Fraction
    demand_charge_yuan_per_kw_month: NonNegative
    seasons: tuple[Season, ...]


class TariffTable(Sourced):
    """All tariffs."""

    rows: dict[Identifier, TariffSpec]


class CarbonStep(Value):
    """Factor of the mean over some local hours."""

    hours: HourSpan
    factor: Positive


class Carbon(Sourced):
    """Carbon intensity of the grid, mean and hourly shape."""

    mean_g_per_kwh: Positive
    shape: tuple[CarbonStep, ...]


class Weather(Sourced):
    """Monthly normals, and how far the played day and its forecast may be off."""

    mean_high_c: MonthlyValues
    mean_low_c: MonthlyValues
    mean_c: MonthlyValues
    relative_humidity_frac: MonthlyValues
    present_warming_k: float
    hottest_hour: int = Field(ge=0, le=23)
    noise_k: NonNegative
    noise_hours: Positive
    forecast_bias_k: NonNegative
    forecast_noise_k: NonNegative


class SiteOutage(Value):
    """A whole site without power between two local times of the day."""

    site: str
    from_: ClockTime = Field(alias="from")
    until: ClockTime
    cause: str


class CoolingDegradation(SiteOutage):
    """Cooling that needs `cooling_factor` times the power."""

    cooling_factor: Positive


class Failures(Sourced):
    """What goes wrong, known to the world alone."""

    replica_mtbf_hours: Positive
    site_outages: tuple[SiteOutage, ...] = ()
    cooling_degradations: tuple[CoolingDegradation, ...] = ()


class ShapeTable(Sourced):
    """Levels over the local day; straight lines between the points, round the clock."""

    rows: dict[str, dict[Annotated[int, Field(ge=0, le=23)], NonNegative]]


class Penalties(Sourced):
    """Prices of what is not done, yuan."""

    hard_safety: NonNegative
    public_service: NonNegative
    interactive: NonNegative
    lateness_yuan_per_gpu_hour: NonNegative
    migration_yuan_per_gpu: NonNegative
    moves_per_node_hour: NonNegative
    """Planned moves that operators allow, for each node of the fleet."""


ZoneCount = Literal["intersections", "feeds", "cameras", "sensors_k", "lines", "teledriving"]
Hours = tuple[float, float]


class HardPart(Value):
    """The share of a class that is safety-critical, with its own class id and limits."""

    class_id: str
    share: Fraction
    rtt_p99_max_ms: Positive
    path_budget_ms: Positive | None = None
    name: Text


class AlwaysOnPattern(Value):
    """Services that run from the start of the day until cancelled."""

    kind: Literal["always_on"]
    by: ZoneCount | None = None
    zone_counts: dict[str, NonNegative] = Field(default_factory=dict)
    per_unit: Positive = 1.0
    replicas_per_workload: int = Field(1, ge=1)
    redundant: bool = Field(
        False, description="replicas are copies of one instance, not instances of their own"
    )
    spread_over: Literal["node", "site"] | None = None
    hard: HardPart | None = None


class SessionsPattern(Value):
    """A constant number of sessions at once, one after the other."""

    kind: Literal["sessions"]
    by: ZoneCount
    from_hour: float
    until_hour: float
    session_min: Positive


class RotatingPattern(Value):
    """A share of the devices is analysed at once; the share rotates."""

    kind: Literal["rotating"]
    by: ZoneCount
    active_share: Fraction
    rotation_min: Positive


class ZoneServicePattern(Value):
    """One always-on service per zone, sized with the zone."""

    kind: Literal["zone_service"]
    by: ZoneCount
    replicas: int = Field(ge=1)
    spread_over: Literal["node", "site"] | None = None
    mbps_per_thousand: NonNegative


class WindowsPattern(Value):
    """Instances that run in fixed windows of the local day, known in advance."""

    kind: Literal["windows"]
    by: ZoneCount | None = None
    zone_counts: dict[str, NonNegative] = Field(default_factory=dict)
    windows: tuple[Hours, ...] = Field(min_length=1)
    always_on_share: Fraction = 0.0
    lead_min: NonNegative = 0.0


class LlmModel(Value):
    """One served model: what a replica needs and how fast it is."""

    gpu_model: str
    gpus: Positive
    gpu_models: tuple[str, ...]
    prefill_tokens_per_s: Positive
    decode_tokens_per_s: Positive
    scale: Literal["edge", "cloud"] = "cloud"


class RecordedReplicasPattern(Value):
    """LLM serving whose replicas were counted from a recorded list of requests, window by window from the opening.

    `replicas[model]` has one count per window of `window_s`; after the last window nothing of the list is served.
    """

    kind: Literal["recorded_replicas"]
    zone: str
    window_s: int = Field(gt=0)
    layers: int = Field(ge=1)
    models: dict[Identifier, LlmModel]
    replicas: dict[Identifier, tuple[Annotated[int, Field(ge=0)], ...]]


class RecordedJob(Value):
    """One job of a recorded list; `at_s` counts from the opening of the day, `work_s` is None for a service.

    `gpu_milli`: milli-GPUs per model it may use, as in `suanli.model.Stage`.
    """

    job_id: Identifier
    at_s: int = Field(ge=0)
    work_s: int | None = Field(None, gt=0)
    cpu_milli: int = Field(ge=0)
    memory_mib: int = Field(ge=0)
    gpu_milli: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)


class RecordedJobsPattern(Value):
    """Jobs of a recorded list, each at its own time."""

    kind: Literal["recorded_jobs"]
    jobs: tuple[RecordedJob, ...]


class AutoscaledPattern(Value):
    """LLM serving: replicas follow the request rate."""

    kind: Literal["autoscaled"]
    zone: str
    shape: str
    requests_per_s_per_100k: Positive
    population_k: Positive
    prompt_tokens: Positive
    output_tokens: Positive
    min_replicas: int = Field(ge=1)
    max_replicas: int = Field(ge=1)
    layers: int = Field(ge=1)
    lead_min: NonNegative = 0.0
    models: dict[Identifier, LlmModel]


class JobsPattern(Value):
    """Batch work of equal bundles that arrives over some hours of the day."""

    kind: Literal["jobs"]
    per_day: Positive
    replicas_per_workload: int = Field(ge=1)
    duration_min: tuple[Positive, Positive]
    submit_hours: Hours
    slack_hours: Hours
    cpu_only_share: Fraction = 0.0
    replica_jitter_frac: Fraction = 0.0
    warm_hours: NonNegative = 0.0


class JobSize(Value):
    """GPU counts drawn alike, and their share of all jobs."""

    gpus: tuple[Annotated[int, Field(ge=1)], ...]
    share: Fraction


class TrainingPattern(Value):
    """Training jobs whose rate is solved from the load they shall offer."""

    kind: Literal["training"]
    offered_load: Positive
    load_sites: tuple[str, ...]
    sizes: tuple[JobSize, ...]
    reference_models: tuple[str, ...]
    small_models: tuple[str, ...] = ()
    small_models_load: Fraction = 0.0
    other_models: tuple[str, ...] = ()
    median_hours: Positive
    sigma: Positive
    max_hours: Positive
    early_fail_share: Fraction
    early_cancel_share: Fraction
    checkpoint_min: tuple[Positive, Positive]
    checkpoint_gib_per_gpu: NonNegative
    deferrable_share: Fraction
    slack_hours: Hours
    duration_error_frac: Fraction


class TwinStage(Value):
    """Size of one stage of every twin."""

    cpu_cores: Positive
    ram_gib: Positive
    storage_gib: NonNegative = 0
    gpus: NonNegative = 0
    processing_ms: NonNegative


class TwinSpec(Value):
    """One twin."""

    zone: str
    viewers: int = Field(ge=1)
    hz: Positive
    input_mbps: NonNegative
    budget_ms: Positive
    residency: str = Field("", description="where raw data stays: ingest and own state store")
    tee_instead: bool = Field(False, description="a trusted execution environment elsewhere will do as well")
    shares: str = Field("", description="twin whose state store is used instead of an own one")
    name: Text


class TwinsPattern(Value):
    """Stage graphs: ingest → sync → simulate → render."""

    kind: Literal["twins"]
    stages: dict[Literal["ingest", "sync", "simulate", "render"], TwinStage]
    sync_rtt_p99_max_ms: Positive
    ingest_out_share: Fraction
    state_out_share: Fraction
    view_mbps: NonNegative
    viewers_per_render: int = Field(ge=1)
    twins: dict[Identifier, TwinSpec]


class NamedService(Value):
    """A small service that the policy documents name."""

    cpu_cores: Positive
    ram_gib: Positive
    replicas: int = Field(ge=1)
    spread_over: Literal["node", "site"] | None = None
    priority: PriorityClass
    zone: str
    hours: Hours | None = None
    name: Text


class StatelessPattern(Value):
    """The bulk of the existing data centres, sized to a share of their CPU cores."""

    kind: Literal["stateless"]
    load_sites: tuple[str, ...]
    target_load: Positive
    cores: dict[int, Fraction]
    ram_gib_per_core: tuple[Positive, Positive]
    replicas_median: Positive
    replicas_sigma: Positive
    replicas_max: int = Field(ge=1)
    replicas_max_small: int = Field(ge=1)
    shapes: dict[str, Fraction]
    layers: int = Field(ge=1)
    named: dict[Identifier, NamedService] = Field(default_factory=dict)


Pattern = Annotated[
    AlwaysOnPattern
    | SessionsPattern
    | RotatingPattern
    | ZoneServicePattern
    | WindowsPattern
    | AutoscaledPattern
    | JobsPattern
    | TrainingPattern
    | TwinsPattern
    | StatelessPattern
    | RecordedReplicasPattern
    | RecordedJobsPattern,
    Field(discriminator="kind"),
]


class WorkClass(Value):
    """A class of work: the shape of one instance and how instances come and go."""

    name: Text
    kind: WorkloadKind
    priority: PriorityClass
    tenant: Identifier
    cpu_cores: Positive
    ram_gib: Positive
    storage_gib: NonNegative = 0
    gpus: NonNegative = Field(0, description="devices of `gpu_unit`, or of the reference model")
    gpu_unit: str = ""
    gpu_min_gib: NonNegative = 0
    gpu_models: tuple[str, ...] = ()
    utilization: Fraction
    mbps: NonNegative = 0
    rtt_p99_max_ms: Positive | None = None
    access: str = Field("", description="access profile; empty: the mix of the zone")
    processing_ms: NonNegative | None = None
    path_budget_ms: Positive | None = None
    require_any: tuple[dict[str, str], ...] = ()
    datasets: tuple[str, ...] = ()
    preemptible: bool = False
    deferrable: bool = False
    startup_s: int = Field(30, ge=0)
    scale: Literal["cloud", "edge", "size", "solved"] = Field(
        description="cloud, edge: count follows that divisor; size: instances shrink instead; solved: from the load"
    )
    pattern: Pattern


class ClassTable(Sourced):
    """All classes of work."""

    rows: dict[str, WorkClass]


class ScenarioTables(Sourced):
    """A whole world and its day, as the YAML says it."""

    source: str = "mixed: see the tables"
    scenario_id: Identifier
    title: Text
    day: Day
    scale: Scale
    planner_start: PlannerStart
    node_types: NodeTypes
    gpu_equivalents: GpuEquivalents
    plants: Plants
    ledger_opening: LedgerOpeningRule
    caps: Caps
    sites: SiteTable
    network: NetworkSpec
    zones: ZoneTable
    datasets: DatasetTable
    tariffs: TariffTable
    carbon: Carbon
    weather: Weather
    failures: Failures
    shapes: ShapeTable
    penalties: Penalties
    classes: ClassTable
    nodes: dict[str, dict[str, Annotated[int, Field(ge=1)]]] = Field(
        default_factory=dict, description="node counts of a teaching scenario, taken as they are"
    )

    @cached_property
    def start_s(self) -> int:
        """First second of the day."""
        return int(self.day.start.timestamp())

    @property
    def end_s(self) -> int:
        """End of the day, before draining."""
        return self.start_s + round(self.day.hours * SECONDS_PER_HOUR)

    @property
    def drain_end_s(self) -> int:
        """Latest end of the run."""
        return self.end_s + round(self.day.drain_hours * SECONDS_PER_HOUR)

    @property
    def utc_offset_s(self) -> int:
        """Local time minus UTC."""
        offset = self.day.start.utcoffset()
        return 0 if offset is None else round(offset.total_seconds())

    @property
    def month(self) -> int:
        """Local month of the day, 1..12."""
        return self.day.start.month

    def at_s(self, local_hour: float) -> int:
        """Instant of a local hour of the played day (may exceed 24)."""
        midnight = self.start_s - self._start_hour_s
        return midnight + round(local_hour * SECONDS_PER_HOUR)

    def clock_s(self, clock: str) -> int:
        """Instant of a local time like "09:40" on the played day."""
        hours, minutes = clock.split(":")
        return self.at_s(int(hours) + int(minutes) * SECONDS_PER_MINUTE / SECONDS_PER_HOUR)

    def local_hour(self, at_s: float) -> float:
        """Local hour of an instant, 0 ≤ h < 24."""
        return ((at_s + self.utc_offset_s) / SECONDS_PER_HOUR) % HOURS_PER_DAY

    @property
    def _start_hour_s(self) -> int:
        start = self.day.start
        return start.hour * SECONDS_PER_HOUR + start.minute * SECONDS_PER_MINUTE + start.second

    def divisor(self, kind: SiteKind) -> float:
        """By how much sites of that kind shrink."""
        return self.scale.cloud_divisor if kind is SiteKind.CLOUD else self.scale.edge_divisor

    def class_names(self) -> dict[str, Text]:
        """Name of every workload class, the safety-critical parts of a class included."""
        names = {class_id: spec.name for class_id, spec in self.classes.rows.items()}
        for spec in self.classes.rows.values():
            if isinstance(spec.pattern, AlwaysOnPattern) and spec.pattern.hard is not None:
                names[spec.pattern.hard.class_id] = spec.pattern.hard.name
        return names
