"""Training jobs (gangs): sizes and durations by the published mixes, the rate solved from the load they shall offer.

    offered load = rate · E[GPUs] · E[hours run] / GPUs installed at the load sites

Draws are stratified (every size and every stretch of the duration curve gets its share), so that a day of any seed
offers the load the scenario asks for and not a lucky or unlucky one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from cluster_sim.scenarios.fleet import node_counts
from cluster_sim.scenarios.schema import JobSize, Scenario, TrainingPattern, WorkClass
from cluster_sim.world.demand import Fate, cpu_need, gpu_needs, workload_of
from cluster_sim.world.shapes import fair_counts
from suanli.model import Stage, Workload
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, need_mib

GPUS_PER_REPLICA = 8
STAGE = "train"
MIN_WORK_S = 60
LENGTH_BIAS_POOL = 1024
EARLIEST_END_FRAC = 0.02


@dataclass(frozen=True, slots=True)
class TrainingLoad:
    """What follows from the scenario before any draw."""

    sizes: tuple[JobSize, ...]
    gpu_pool: dict[str, int]
    mean_gpus: float
    mean_run_hours: float
    jobs_per_day: float
    small_models_share: float
    """Share of the jobs of at most one node that are sized in small models."""

    @property
    def offered_load(self) -> float:
        """Share of the installed GPU-hours that the jobs ask for."""
        return (
            self.jobs_per_day
            * self.mean_gpus
            * self.mean_run_hours
            / (sum(self.gpu_pool.values()) * HOURS_PER_DAY)
        )


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One drawn job; seconds count from its start, None where that does not happen."""

    gpus: int
    declared_s: int
    work_s: int
    fails_after_s: int | None
    cancelled_after_s: int | None
    model: str = ""

    @property
    def run_s(self) -> int:
        """Seconds that the job really holds its GPUs."""
        return min(s for s in (self.work_s, self.fails_after_s, self.cancelled_after_s) if s is not None)


def training_load(scenario: Scenario, pattern: TrainingPattern) -> TrainingLoad:
    """Clip the sizes to the largest pool's share, then solve the rate."""
    pool = gpu_pool(scenario, pattern.load_sites)
    sizes = clipped_sizes(pattern.sizes, largest_gang_gpus(scenario, pattern.load_sites))
    mean_gpus = sum(size.share * sum(size.gpus) / len(size.gpus) for size in sizes)
    early = pattern.early_fail_share + pattern.early_cancel_share
    run_hours = mean_capped_lognormal(pattern.median_hours, pattern.sigma, pattern.max_hours)
    run_hours *= 1 - early * (1 - (1 + EARLIEST_END_FRAC) / 2)
    rate = (
        pattern.offered_load * sum(pool.values()) * HOURS_PER_DAY / (mean_gpus * run_hours)
        if mean_gpus
        else 0.0
    )
    small_job_gpus = sum(
        s.share * sum(s.gpus) / len(s.gpus) for s in sizes if max(s.gpus) <= GPUS_PER_REPLICA
    )
    busy_with_small_jobs = rate * small_job_gpus * run_hours / HOURS_PER_DAY
    wanted = pattern.small_models_load * sum(pool.get(m, 0) for m in pattern.small_models)
    small_share = min(1.0, wanted / busy_with_small_jobs) if busy_with_small_jobs else 0.0
    return TrainingLoad(sizes, pool, mean_gpus, run_hours, rate, small_share)


def gpu_pool(scenario: Scenario, site_ids: Sequence[str]) -> dict[str, int]:
    """GPUs per model installed at the sites, at the scenario's scale."""
    pool: dict[str, int] = {}
    for site_id in site_ids:
        for model, count in _site_gpus(scenario, site_id).items():
            pool[model] = pool.get(model, 0) + count
    return pool


def largest_gang_gpus(scenario: Scenario, site_ids: Sequence[str]) -> int:
    """Largest gang: a share of the largest pool of one model at one site, since a gang lies on one site."""
    largest = max((n for site_id in site_ids for n in _site_gpus(scenario, site_id).values()), default=0)
    return int(scenario.scale.gang_max_pool_share * largest)


def _site_gpus(scenario: Scenario, site_id: str) -> dict[str, int]:
    gpus: dict[str, int] = {}
    for node_type, count in node_counts(scenario, site_id).items():
        kind = scenario.node_types.rows[node_type]
        if kind.gpu_count:
            gpus[kind.gpu_model] = gpus.get(kind.gpu_model, 0) + kind.gpu_count * count
    return gpus


def clipped_sizes(sizes: Sequence[JobSize], largest_gpus: int) -> tuple[JobSize, ...]:
    """Sizes no larger than allowed; above one node only whole nodes."""
    limit = max(1, largest_gpus)
    if limit > GPUS_PER_REPLICA:
        limit -= limit % GPUS_PER_REPLICA
    return tuple(JobSize(gpus=tuple(min(n, limit) for n in s.gpus), share=s.share) for s in sizes)


def mean_capped_lognormal(median: float, sigma: float, cap: float) -> float:
    """E[min(X, cap)] of a lognormal: median·exp(σ²/2)·Φ(z−σ) + cap·(1−Φ(z)) with z = ln(cap/median)/σ."""
    z = math.log(cap / median) / sigma
    return float(median * math.exp(sigma**2 / 2) * ndtr(z - sigma) + cap * (1 - ndtr(z)))


def arriving_jobs(
    scenario: Scenario, pattern: TrainingPattern, hours: float, rng: np.random.Generator
) -> list[TrainingJob]:
    """Jobs that arrive within `hours`, in random order; their GPU-hours match the pools."""
    load = training_load(scenario, pattern)
    counts = _size_counts(load, load.jobs_per_day * hours / HOURS_PER_DAY)
    drawn = [
        job
        for size, count in zip(load.sizes, counts, strict=True)
        for job in _draw(pattern, size, count, rng)
    ]
    jobs = _with_models(pattern, load, drawn, [job.gpus * job.run_s for job in drawn], rng)
    return [jobs[i] for i in rng.permutation(len(jobs))]


def running_jobs(scenario: Scenario, pattern: TrainingPattern, rng: np.random.Generator) -> list[TrainingJob]:
    """The stationary mix that runs at the start of the day, with what is left of each job.

    By Little's law rate · E[hours run] jobs are inside; a running job is met with a probability in proportion to its
    length, at a uniform point of it.
    """
    load = training_load(scenario, pattern)
    counts = _size_counts(load, load.jobs_per_day * load.mean_run_hours / HOURS_PER_DAY)
    inside: list[TrainingJob] = []
    for size, count in zip(load.sizes, counts, strict=True):
        pool = _draw(pattern, size, LENGTH_BIAS_POOL, rng)
        edges = np.cumsum([job.run_s for job in pool], dtype=np.float64)
        picks = np.searchsorted(edges / edges[-1], _strata(count, rng), side="right")
        for i, (pick, elapsed) in enumerate(zip(picks.tolist(), rng.random(count).tolist(), strict=True)):
            inside.append(_remaining(pool[min(pick, len(pool) - 1)], size.gpus[i % len(size.gpus)], elapsed))
    return _with_models(pattern, load, inside, [job.gpus for job in inside], rng)


def _size_counts(load: TrainingLoad, job_count: float) -> list[int]:
    """Jobs of each size class, fairly rounded: no draw loses or doubles the rare large ones."""
    counts = fair_counts({str(i): size.share for i, size in enumerate(load.sizes)}, round(job_count))
    return [counts[str(i)] for i in range(len(load.sizes))]


def _with_models(
    pattern: TrainingPattern,
    load: TrainingLoad,
    jobs: Sequence[TrainingJob],
    weights: Sequence[int],
    rng: np.random.Generator,
) -> list[TrainingJob]:
    """Give each job the model it is sized in: the pool that is furthest behind its share takes the next largest job."""
    is_small = [
        job.gpus <= GPUS_PER_REPLICA and draw < load.small_models_share
        for job, draw in zip(jobs, _strata(len(jobs), rng), strict=True)
    ]
    taken = dict.fromkeys(load.gpu_pool, 0.0)
    models = [""] * len(jobs)
    for i in sorted(range(len(jobs)), key=lambda i: (-weights[i], i)):
        names = [
            m
            for m in (pattern.small_models if is_small[i] else pattern.reference_models)
            if load.gpu_pool.get(m)
        ]
        names = names or [m for m in load.gpu_pool if load.gpu_pool[m]]
        models[i] = min(names, key=lambda m: (taken[m] + weights[i]) / load.gpu_pool[m])
        taken[models[i]] += weights[i]
    return [replace(job, model=model) for job, model in zip(jobs, models, strict=True)]


def job_workload(
    scenario: Scenario,
    spec: WorkClass,
    pattern: TrainingPattern,
    job: TrainingJob,
    workload_id: str,
    at_s: int,
    rng: np.random.Generator,
) -> tuple[Workload, Fate]:
    """The job as a tenant would submit it, and its fate.

    More than one node's GPUs become a gang of whole nodes. Training takes whole devices; on another model it needs the
    number that gives the same rate.
    """
    replicas = max(1, job.gpus // GPUS_PER_REPLICA) if job.gpus > GPUS_PER_REPLICA else 1
    gpus = job.gpus // replicas
    deferrable = bool(rng.random() < pattern.deferrable_share)
    slack_s = rng.uniform(*pattern.slack_hours) * SECONDS_PER_HOUR
    others = (*pattern.reference_models, *pattern.small_models, *pattern.other_models)
    checkpoint_min = rng.uniform(*pattern.checkpoint_min)
    stage = Stage(
        stage_id=STAGE,
        replicas=replicas,
        cpu_milli=cpu_need(spec.cpu_cores * gpus),
        memory_mib=need_mib(spec.ram_gib * gpus),
        gpu_milli=gpu_needs(
            scenario, gpus, job.model, _same_or_larger(scenario, job.model, others), whole=True
        ),
        gang=replicas > 1,
        utilization_frac=spec.utilization,
        duration_s=job.declared_s,
        startup_s=spec.startup_s,
        preemptible=spec.preemptible,
        checkpoint_interval_s=round(checkpoint_min) * SECONDS_PER_MINUTE,
        checkpoint_gib=pattern.checkpoint_gib_per_gpu * gpus,
    )
    workload = workload_of(
        scenario,
        spec,
        "W12",
        workload_id,
        (stage,),
        deadline_s=at_s + job.declared_s + round(slack_s),
        deferrable=deferrable,
        labels={"gpus": str(job.gpus), "sized_in": job.model},
    )
    return workload, Fate({STAGE: job.work_s}, job.fails_after_s)


def _same_or_larger(scenario: Scenario, model: str, others: Sequence[str]) -> tuple[str, ...]:
    """Models whose devices have at least three quarters of the memory that the job was sized for."""
    gib = {n.gpu_model: n.gpu_gib for n in scenario.node_types.rows.values() if n.gpu_model}
    return tuple(m for m in others if gib[m] >= 0.75 * gib[model])


def _draw(pattern: TrainingPattern, size: JobSize, count: int, rng: np.random.Generator) -> list[TrainingJob]:
    """`count` jobs of one size class, stratified over durations and ends; without a model yet."""
    hours = np.minimum(
        pattern.median_hours * np.exp(pattern.sigma * ndtri(_strata(count, rng))), pattern.max_hours
    )
    error = np.clip(rng.normal(0.0, pattern.duration_error_frac, count), -0.5, 0.5)
    outcome, fraction = _strata(count, rng), EARLIEST_END_FRAC + (1 - EARLIEST_END_FRAC) * _strata(count, rng)
    fail, early = pattern.early_fail_share, pattern.early_fail_share + pattern.early_cancel_share
    jobs = []
    for i in range(count):
        work_s = max(MIN_WORK_S, round(hours[i] * SECONDS_PER_HOUR))
        early_s = max(1, round(work_s * fraction[i]))
        jobs.append(
            TrainingJob(
                gpus=size.gpus[i % len(size.gpus)],
                declared_s=max(MIN_WORK_S, round(work_s * (1 + error[i]))),
                work_s=work_s,
                fails_after_s=early_s if outcome[i] < fail else None,
                cancelled_after_s=early_s if fail <= outcome[i] < early else None,
            )
        )
    return jobs


def _strata(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`count` numbers in (0, 1), one in each of `count` equal cells, in random order."""
    if count == 0:
        return np.zeros(0)
    return np.asarray((rng.permutation(count) + np.clip(rng.random(count), 1e-9, 1 - 1e-9)) / count)


def _remaining(job: TrainingJob, gpus: int, elapsed_frac: float) -> TrainingJob:
    """What is left of a job met after a share of its run."""
    elapsed_s = round(job.run_s * elapsed_frac)

    def left(total_s: int) -> int:
        return max(MIN_WORK_S, total_s - elapsed_s)

    return TrainingJob(
        gpus=gpus,
        declared_s=left(job.declared_s),
        work_s=left(job.work_s),
        fails_after_s=None if job.fails_after_s is None else max(1, job.fails_after_s - elapsed_s),
        cancelled_after_s=None
        if job.cancelled_after_s is None
        else max(1, job.cancelled_after_s - elapsed_s),
    )
