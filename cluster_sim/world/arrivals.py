"""What the city submits on the played day, and what will really become of it.

    arrivals(scenario, seed)    1 every class by its pattern    2 clip to the day    3 sort by time and name

A pattern turns a class into workloads: always-on services at the opening of the day; timed ones with
`not_before_at` and a duration (known bookings are submitted ahead, scaled-out replicas when the hour comes); jobs
when users submit them. The day opens warm: training and rendering that run at the opening are submitted first,
with what is left of them.

Every class draws from its own generator, seeded by (seed, class), so one class does not move another.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np

from cluster_sim.scenarios.fleet import node_counts
from cluster_sim.scenarios.schema import (
    AlwaysOnPattern,
    AutoscaledPattern,
    JobsPattern,
    LlmModel,
    NamedService,
    RecordedJobsPattern,
    RecordedReplicasPattern,
    RotatingPattern,
    Scenario,
    SessionsPattern,
    StatelessPattern,
    TrainingPattern,
    TwinsPattern,
    WindowsPattern,
    WorkClass,
    ZoneServicePattern,
)
from cluster_sim.world.demand import (
    HARD,
    Fate,
    count_factor,
    cpu_need,
    gpu_needs,
    scaled_counts,
    size_factor,
    spread_of,
    stage_of,
    workload_of,
    zone_flow,
    zone_path,
)
from cluster_sim.world.shapes import Step, fair_counts, hourly_levels, stairs
from cluster_sim.world.training import arriving_jobs, job_workload, running_jobs
from cluster_sim.world.twins import twin_workload
from suanli.model import Stage, Workload
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, need_mib

STAGE = "main"
STATELESS_KEPT_S = SECONDS_PER_MINUTE
"""A layer of a stateless service has an end, but no state: a replica started elsewhere serves what is left of its
hours, to the minute. Without it a move would make it serve all its hours again."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The day's submissions in time order, their fates, and cancellations by their users.

    `items`: (at_s, workload); `cancellations`: (at_s, workload name); `services`: names of what runs until cancelled.
    Fates stay in the world: nothing of them reaches the service.
    """

    items: tuple[tuple[int, Workload], ...]
    fates: dict[str, Fate]
    cancellations: tuple[tuple[int, str], ...]
    services: tuple[str, ...]


def arrivals(scenario: Scenario, seed: int) -> Arrivals:
    """Everything submitted from the opening of the day to its end; equal for equal scenario and seed."""
    day = _Day(scenario, seed)
    for class_id, spec in scenario.classes.rows.items():
        day.open_class(class_id, spec)
        submit(spec.pattern, day)
    day.items.sort(key=lambda item: (item[0], item[1].name))
    return Arrivals(
        items=tuple(day.items),
        fates=day.fates,
        cancellations=tuple(sorted(day.cancellations)),
        services=tuple(w.name for _, w in day.items if any(s.is_service for s in w.stages)),
    )


@dataclass
class _Day:
    """The day being filled: scenario, current class with its generator, and what has been submitted."""

    scenario: Scenario
    seed: int
    items: list[tuple[int, Workload]] = field(default_factory=list)
    fates: dict[str, Fate] = field(default_factory=dict)
    cancellations: list[tuple[int, str]] = field(default_factory=list)
    class_id: str = ""
    spec: WorkClass = None  # type: ignore[assignment]  # set by open_class before any use
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    count: int = 0

    def open_class(self, class_id: str, spec: WorkClass) -> None:
        """Start a class: its own generator and its own numbering."""
        self.class_id, self.spec, self.count = class_id, spec, 0
        self.rng = np.random.default_rng([self.seed, zlib.crc32(class_id.encode())])

    def next_id(self, part: str = "") -> str:
        """Next workload id of the class."""
        self.count += 1
        return "-".join(p for p in (self.class_id.lower(), part, f"{self.count:04d}") if p)

    def add(self, at_s: int, workload: Workload, fate: Fate | None = None) -> None:
        """Submit; what would be submitted after the end of the day is not part of it."""
        if at_s >= self.scenario.end_s:
            return
        self.items.append((max(at_s, self.scenario.start_s), workload))
        if fate is not None:
            self.fates[workload.name] = fate

    def add_span(
        self,
        stage: Stage,
        zone_id: str,
        from_s: int,
        until_s: int,
        *,
        ahead: bool,
        part: str = "",
        **fields: Any,
    ) -> None:
        """A service that runs from `from_s` until `until_s`: booked at the opening when `ahead`, else submitted then.

        What has partly passed when the day opens starts at once with the rest.
        """
        from_s = max(from_s, self.scenario.start_s)
        if until_s <= from_s:
            return
        timed = stage.model_copy(update={"duration_s": until_s - from_s})
        workload = self.service(timed, zone_id, part, not_before_s=from_s if ahead else None, **fields)
        if from_s < self.scenario.end_s:
            self.add(
                self.scenario.start_s if ahead else from_s, workload, Fate({timed.stage_id: until_s - from_s})
            )

    def service(self, stage: Stage, zone_id: str, part: str = "", **fields: Any) -> Workload:
        """A one-stage workload with traffic from its zone and, if the class has one, its path budget."""
        fields = {
            "flows": (zone_flow(self.spec, zone_id, stage.stage_id),),
            "paths": zone_path(zone_id, stage.stage_id, self.spec.path_budget_ms),
        } | fields
        class_id = fields.pop("workload_class", self.class_id)
        workload_id = fields.pop("workload_id", None) or self.next_id(part or zone_id)
        return workload_of(
            self.scenario, self.spec, class_id, workload_id, (stage,), zone_id=zone_id, **fields
        )

    def each_zone_instance(self, counts: dict[str, int]) -> Iterator[str]:
        """Zone of every instance."""
        for zone_id, count in counts.items():
            for _ in range(count):
                yield zone_id


@singledispatch
def submit(pattern: object, day: _Day) -> None:
    """Fill the day with the workloads of the open class; one implementation per pattern."""
    raise TypeError(f"no pattern {type(pattern).__name__}")


@submit.register
def _always_on(pattern: AlwaysOnPattern, day: _Day) -> None:
    spec = day.spec
    counts = scaled_counts(day.scenario, spec, pattern.by, pattern.zone_counts, pattern.per_unit)
    hard_left = fair_counts(
        {z: n for z, n in counts.items() if n}, _hard_count(pattern, sum(counts.values()))
    )
    replicas = pattern.replicas_per_workload
    stage = stage_of(
        day.scenario,
        spec,
        STAGE,
        by=pattern.by,
        replicas=replicas,
        spread=spread_of(pattern.spread_over, replicas),
    )
    for zone_id, count in counts.items():
        instances = count if pattern.redundant else math.ceil(count / replicas)
        for _ in range(instances):
            if hard_left.get(zone_id, 0) > 0 and pattern.hard is not None:
                hard_left[zone_id] -= 1
                day.add(day.scenario.start_s, _hard_service(pattern, day, stage, zone_id))
            else:
                day.add(day.scenario.start_s, day.service(stage, zone_id))


def _hard_count(pattern: AlwaysOnPattern, total: int) -> int:
    return 0 if pattern.hard is None else max(1, math.floor(total * pattern.hard.share + 0.5))


def _hard_service(pattern: AlwaysOnPattern, day: _Day, stage: Stage, zone_id: str) -> Workload:
    hard = pattern.hard
    assert hard is not None
    return day.service(
        stage,
        zone_id,
        workload_class=hard.class_id,
        display_name=hard.name.en,
        display_name_zh=hard.name.zh,
        priority_class=HARD,
        flows=(zone_flow(day.spec, zone_id, stage.stage_id, limit_ms=hard.rtt_p99_max_ms),),
        paths=zone_path(zone_id, stage.stage_id, hard.path_budget_ms),
    )


@submit.register
def _sessions(pattern: SessionsPattern, day: _Day) -> None:
    counts = scaled_counts(day.scenario, day.spec, pattern.by, {})
    stage = stage_of(day.scenario, day.spec, STAGE, by=pattern.by)
    length_s = round(pattern.session_min * SECONDS_PER_MINUTE)
    first_s, last_s = day.scenario.at_s(pattern.from_hour), day.scenario.at_s(pattern.until_hour)
    for i, zone_id in enumerate(day.each_zone_instance(counts)):
        offset_s = round(
            length_s * i / sum(counts.values())
        )  # sessions end one after the other, not all at once
        starts = (
            [first_s, *range(first_s + offset_s, last_s, length_s)]
            if offset_s
            else range(first_s, last_s, length_s)
        )
        for start_s, end_s in zip(starts, [*starts[1:], last_s], strict=True):
            day.add_span(stage, zone_id, start_s, end_s, ahead=False)


@submit.register
def _rotating(pattern: RotatingPattern, day: _Day) -> None:
    scenario = day.scenario
    counts = scaled_counts(scenario, day.spec, pattern.by, {}, pattern.active_share)
    stage = stage_of(scenario, day.spec, STAGE, by=pattern.by)
    period_s = round(pattern.rotation_min * SECONDS_PER_MINUTE)
    for i, (zone_id, count) in enumerate((z, n) for z, n in counts.items() if n):
        turn_s = scenario.start_s - round(period_s * i / len(counts))  # zones turn one after the other
        for start_s in range(turn_s, scenario.end_s, period_s):
            group = stage.model_copy(update={"replicas": count})
            day.add_span(group, zone_id, start_s, start_s + period_s, ahead=False)


@submit.register
def _zone_service(pattern: ZoneServicePattern, day: _Day) -> None:
    scenario, spec = day.scenario, day.spec
    stage = stage_of(
        scenario,
        spec,
        STAGE,
        by=pattern.by,
        replicas=pattern.replicas,
        spread=spread_of(pattern.spread_over, pattern.replicas),
    )
    for zone_id, zone in scenario.zones.rows.items():
        mbps = getattr(zone, pattern.by) * pattern.mbps_per_thousand * size_factor(scenario, spec, pattern.by)
        flow = zone_flow(spec, zone_id, STAGE, mbps=mbps)
        day.add(scenario.start_s, day.service(stage, zone_id, flows=(flow,)))


@submit.register
def _windows(pattern: WindowsPattern, day: _Day) -> None:
    scenario = day.scenario
    counts = scaled_counts(scenario, day.spec, pattern.by, pattern.zone_counts)
    stage = stage_of(scenario, day.spec, STAGE, by=pattern.by)
    always_on = math.floor(sum(counts.values()) * pattern.always_on_share + 0.5)
    lead_s = round(pattern.lead_min * SECONDS_PER_MINUTE)
    for i, zone_id in enumerate(day.each_zone_instance(counts)):
        if i < always_on:
            day.add(scenario.start_s, day.service(stage, zone_id))
            continue
        for start_hour, end_hour in pattern.windows:
            day.add_span(
                stage, zone_id, scenario.at_s(start_hour) - lead_s, scenario.at_s(end_hour), ahead=True
            )


@submit.register
def _autoscaled(pattern: AutoscaledPattern, day: _Day) -> None:
    scenario, spec = day.scenario, day.spec
    levels = hourly_levels(scenario.shapes.rows[pattern.shape])
    for model_id, model in pattern.models.items():
        counts = [_llm_replicas(scenario, pattern, model, level) for level in levels]
        needs = gpu_needs(scenario, model.gpus, model.gpu_model, model.gpu_models)
        stage = stage_of(scenario, spec, STAGE, gpu_milli=needs)
        for step in stairs(counts, pattern.layers):
            _add_step(day, stage, pattern.zone, step, pattern.lead_min, model_id, "node")


def _llm_replicas(scenario: Scenario, pattern: AutoscaledPattern, model: LlmModel, level: float) -> int:
    """Replicas for the request rate of one hour: a request holds a replica for its prefill and its decode time.

    The range min..max holds in the full city and scales with it.
    """
    peak_rate = pattern.requests_per_s_per_100k * pattern.population_k / 100
    per_replica = 1 / (
        pattern.prompt_tokens / model.prefill_tokens_per_s + pattern.output_tokens / model.decode_tokens_per_s
    )
    wanted = min(max(peak_rate * level / per_replica, pattern.min_replicas), pattern.max_replicas)
    return max(1, math.floor(wanted * count_factor(scenario, model.scale, None) + 0.5))


def _add_step(
    day: _Day,
    stage: Stage,
    zone_id: str,
    step: Step,
    lead_min: float,
    part: str,
    spread_over: str | None = None,
    **fields: Any,
) -> None:
    """One layer of a service that follows a shape: the base runs on, the rest comes and goes with the hours."""
    layer = stage.model_copy(update={"replicas": step.count, "spread": spread_of(spread_over, step.count)})
    if step.is_base:
        day.add(day.scenario.start_s, day.service(layer, zone_id, part, **fields))
        return
    from_s = day.scenario.at_s(step.from_hour) - round(lead_min * SECONDS_PER_MINUTE)
    day.add_span(layer, zone_id, from_s, day.scenario.at_s(step.until_hour), ahead=False, part=part, **fields)


@submit.register
def _recorded_replicas(pattern: RecordedReplicasPattern, day: _Day) -> None:
    start_s = day.scenario.start_s
    for model_id, model in pattern.models.items():
        needs = gpu_needs(day.scenario, model.gpus, model.gpu_model, model.gpu_models)
        stage = stage_of(day.scenario, day.spec, STAGE, gpu_milli=needs)
        ended = (*pattern.replicas[model_id], 0)  # so that no layer outlives the recording
        for step in stairs(ended, pattern.layers):
            layer = stage.model_copy(update={"replicas": step.count, "spread": spread_of("node", step.count)})
            from_s, until_s = (start_s + i * pattern.window_s for i in (step.from_hour, step.until_hour))
            day.add_span(layer, pattern.zone, from_s, until_s, ahead=False, part=model_id)


@submit.register
def _recorded_jobs(pattern: RecordedJobsPattern, day: _Day) -> None:
    for job in pattern.jobs:
        stage = stage_of(
            day.scenario,
            day.spec,
            STAGE,
            cpu_milli=job.cpu_milli,
            memory_mib=job.memory_mib,
            gpu_milli=job.gpu_milli,
            duration_s=job.work_s,
        )
        workload = workload_of(day.scenario, day.spec, day.class_id, job.job_id, (stage,))
        fate = None if job.work_s is None else Fate({STAGE: job.work_s})
        day.add(day.scenario.start_s + job.at_s, workload, fate)


@submit.register
def _jobs(pattern: JobsPattern, day: _Day) -> None:
    scenario, spec, rng = day.scenario, day.spec, day.rng
    bundles_per_day = (
        pattern.per_day * count_factor(scenario, spec.scale, None) / pattern.replicas_per_workload
    )
    first_s, last_s = (scenario.at_s(h) for h in pattern.submit_hours)
    bundles = max(1, math.floor(bundles_per_day + 0.5))
    for at_s in sorted(first_s + rng.integers(0, last_s - first_s, bundles)):
        if int(at_s) >= scenario.start_s:
            _add_bundle(pattern, day, int(at_s), int(at_s))
    if pattern.warm_hours:
        _add_warm_bundles(pattern, day, bundles_per_day)


def _add_warm_bundles(pattern: JobsPattern, day: _Day, bundles_per_day: float) -> None:
    """What runs and what waits at the opening: the stationary number in the middle of its work, and the last
    `warm_hours` of yesterday's submissions that waited for the night."""
    start_s, rng = day.scenario.start_s, day.rng
    mean_s = sum(pattern.duration_min) / 2 * SECONDS_PER_MINUTE
    running = math.floor(bundles_per_day * mean_s / (HOURS_PER_DAY * SECONDS_PER_HOUR) + 0.5)
    for i in range(running):
        _add_bundle(pattern, day, start_s, start_s, done_frac=(i + float(rng.random())) / running)
    submit_span_h = pattern.submit_hours[1] - pattern.submit_hours[0]
    yesterday_end_h = pattern.submit_hours[1] - HOURS_PER_DAY
    opening_h = day.scenario.local_hour(start_s)
    waiting_h = max(0.0, pattern.warm_hours - (opening_h - yesterday_end_h))
    for _ in range(math.floor(bundles_per_day * waiting_h / submit_span_h + 0.5)):
        ago_h = opening_h - yesterday_end_h + waiting_h * float(rng.random())
        _add_bundle(pattern, day, start_s, start_s - round(ago_h * SECONDS_PER_HOUR))


def _add_bundle(pattern: JobsPattern, day: _Day, at_s: int, submitted_s: int, done_frac: float = 0.0) -> None:
    """One bundle of equal replicas; its deadline counts from when it was first submitted."""
    scenario, spec, rng = day.scenario, day.spec, day.rng
    declared_s = round(rng.uniform(*pattern.duration_min) * SECONDS_PER_MINUTE)
    left_s = max(SECONDS_PER_MINUTE, round(declared_s * (1 - done_frac)))
    deadline_s = submitted_s + declared_s + round(rng.uniform(*pattern.slack_hours) * SECONDS_PER_HOUR)
    cpu_only = bool(rng.random() < pattern.cpu_only_share)
    stage = stage_of(scenario, spec, STAGE, replicas=pattern.replicas_per_workload, duration_s=left_s)
    if cpu_only:
        stage = stage.model_copy(update={"gpu_milli": {}, "gpu_memory_mib": 0, "processing_p99_ms": {}})
    workload = workload_of(
        scenario, spec, day.class_id, day.next_id(), (stage,), deadline_s=max(deadline_s, at_s + left_s)
    )
    day.add(at_s, workload, Fate({STAGE: left_s}, jitter_frac=pattern.replica_jitter_frac))


@submit.register
def _training(pattern: TrainingPattern, day: _Day) -> None:
    scenario, rng = day.scenario, day.rng
    for job in running_jobs(scenario, pattern, rng):
        workload, fate = job_workload(
            scenario, day.spec, pattern, job, day.next_id("warm"), scenario.start_s, rng
        )
        day.add(scenario.start_s, workload, fate)
        _add_cancellation(day, workload, scenario.start_s, job.cancelled_after_s)
    jobs = arriving_jobs(scenario, pattern, scenario.day.hours, rng)
    instants = np.sort(rng.integers(scenario.start_s, scenario.end_s, len(jobs)))
    for at_s, job in zip(instants.tolist(), jobs, strict=True):
        workload, fate = job_workload(scenario, day.spec, pattern, job, day.next_id(), at_s, rng)
        day.add(at_s, workload, fate)
        _add_cancellation(day, workload, at_s, job.cancelled_after_s)


def _add_cancellation(day: _Day, workload: Workload, at_s: int, after_s: int | None) -> None:
    if after_s is not None:
        day.cancellations.append((at_s + after_s, workload.name))


@submit.register
def _twins(pattern: TwinsPattern, day: _Day) -> None:
    for twin_id in pattern.twins:
        day.add(day.scenario.start_s, twin_workload(day.scenario, day.spec, pattern, twin_id))


@submit.register
def _stateless(pattern: StatelessPattern, day: _Day) -> None:
    for service_id, named in pattern.named.items():
        if named.zone in day.scenario.zones.rows:
            _add_named(day, service_id, named)
    wanted = (
        pattern.target_load
        * cpu_node_cores(day.scenario, pattern.load_sites)
        * day.scenario.scale.demand_factor
    )
    while wanted > 0:
        wanted -= _add_tenant_service(pattern, day, wanted)


def cpu_node_cores(scenario: Scenario, site_ids: tuple[str, ...]) -> int:
    """Cores of the nodes without GPU at the sites, at the scenario's scale."""
    rows = scenario.node_types.rows
    return sum(
        rows[node_type].cores * count
        for site_id in site_ids
        for node_type, count in node_counts(scenario, site_id).items()
        if not rows[node_type].gpu_count
    )


def _add_tenant_service(pattern: StatelessPattern, day: _Day, most_cores: float) -> float:
    """Draw one tenant service, add its layers, return the cores it takes in the mean of the day."""
    scenario, spec, rng = day.scenario, day.spec, day.rng
    cores = int(rng.choice(list(pattern.cores), p=list(pattern.cores.values())))
    gib = cores * float(rng.uniform(*pattern.ram_gib_per_core))
    shape_id = str(rng.choice(list(pattern.shapes), p=list(pattern.shapes.values())))
    zones = scenario.zones.rows
    population = np.array([z.population_k for z in zones.values()])
    zone_id = str(rng.choice(list(zones), p=population / population.sum()))
    largest = pattern.replicas_max_small if scenario.scale.cloud_divisor > 1 else pattern.replicas_max
    peak = float(
        np.clip(
            pattern.replicas_median * math.exp(pattern.replicas_sigma * rng.standard_normal()), 1, largest
        )
    )
    levels = hourly_levels(scenario.shapes.rows[shape_id])
    mean_level = sum(levels) / HOURS_PER_DAY
    peak = min(peak, max(1.0, most_cores / (cores * mean_level)))
    counts = [max(1, math.floor(peak * level + 0.5)) for level in levels]
    stage = stage_of(
        scenario,
        spec,
        STAGE,
        cpu_milli=cpu_need(cores),
        memory_mib=need_mib(gib),
        checkpoint_interval_s=STATELESS_KEPT_S,
    )
    service_id, steps = day.next_id(), stairs(counts, pattern.layers)
    for i, step in enumerate(steps):
        _add_step(day, stage, zone_id, step, 0.0, "", "node", workload_id=f"{service_id}-{i}")
    return cores * sum(step.count * (step.until_hour - step.from_hour) for step in steps) / HOURS_PER_DAY


def _add_named(day: _Day, service_id: str, named: NamedService) -> None:
    stage = stage_of(
        day.scenario,
        day.spec,
        STAGE,
        replicas=named.replicas,
        cpu_milli=cpu_need(named.cpu_cores),
        memory_mib=need_mib(named.ram_gib),
        spread=spread_of(named.spread_over, named.replicas),
    )
    fields: dict[str, Any] = {
        "workload_id": service_id,
        "display_name": named.name.en,
        "display_name_zh": named.name.zh,
        "priority_class": named.priority,
    }
    if named.hours is None:
        day.add(day.scenario.start_s, day.service(stage, named.zone, **fields))
        return
    from_s, until_s = (day.scenario.at_s(h) for h in named.hours)
    day.add_span(stage, named.zone, from_s, until_s, ahead=True, **fields)
