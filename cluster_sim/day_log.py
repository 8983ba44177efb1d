"""A canonical event log as numpy columns.

    DayWindow, read_log, fleet_of_log, window_of_log     what a saved log says of itself
    DayLog, read_columns                                 workloads, runs of replicas, meters
    StateIntervals, state_intervals                      which workload was in which state, from when to when

Where a workload is follows from `replica.*` events that sites' engines made and from the orders of the
service; energies come from `site.metered` only. Instants are whole seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from suanli.model import Event, EventKind, Fleet, Policy, ReplicaPhase, WorkloadState
from suanli.model.units import HOURS_PER_DAY, SECONDS_PER_HOUR

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

NEVER_S = 2**62
POWER_BIN_S = 900
"""Width of a point in the power curves: one step of the scenario."""
SAMPLE_S = 300
"""Distance of the samples of queue and GPU allocation."""
CAP_TOLERANCE_FRAC = 1e-9
"""Rounding of the sum of a day's meters, as a share of IT energy; not a margin."""
ACCOUNT_GPU_S = 1.0
"""Delivered work may exceed run time by this much: instants are whole seconds."""
MAX_PROBLEMS_SHOWN = 5
FORECAST_GOAL_FRAC = 0.03
"""Error of the learned site model that the planner should reach within the day."""

STATES = tuple(WorkloadState)
STATE_CODE = {s: i for i, s in enumerate(STATES)}


class BrokenLogError(ValueError):
    """The log speaks of something it never introduced; it is cut or not a canonical log."""


@dataclass(frozen=True, slots=True)
class DayWindow:
    """[start_s, day_end_s) has arrivals; the world then drains until `drained_until_s` without new ones."""

    start_s: int
    day_end_s: int
    drained_until_s: int

    def __post_init__(self) -> None:
        if not self.start_s < self.day_end_s <= self.drained_until_s:
            raise ValueError(f"need start < day end ≤ drained until, got {self}")


@dataclass(frozen=True)
class WorkloadColumns:
    """(W,) columns of submitted workloads, in order of submission."""

    names: list[str]
    row: dict[str, int]
    displays: list[str]
    shape: I64
    submitted_s: I64
    not_before_s: I64
    replica_count: I64
    class_code: I64
    classes: list[str]


@dataclass(frozen=True)
class RunColumns:
    """(P,) columns of placements: ordered, ran, ended; an instant is NEVER_S when it did not happen."""

    ids: list[str]
    workload: I64
    replica_key: I64
    shape_stage: I64
    site: I64
    ordered_s: I64
    ran_s: I64
    ended_s: I64
    gpu_milli: F64
    reference_gpu_milli: F64
    delivered_gpu_s: F64
    rtt_p99_ms: F64
    is_move: Bool
    is_lost: Bool
    """Ended because its node or site failed."""
    problems: list[str]


@dataclass(frozen=True)
class MeterColumns:
    """(M,) columns of all meter windows, sorted by site, then time."""

    site: I64
    from_s: I64
    until_s: I64
    it_kwh: F64
    facility_kwh: F64
    useful_it_kwh: F64
    peak_kw: F64
    dry_bulb_c: F64
    is_open: Bool


@dataclass(frozen=True)
class DayLog:
    """Columns of one canonical log."""

    fleet: Fleet
    site_index: dict[str, int]
    by_kind: dict[EventKind, list[Event]]
    shapes: list[dict[str, Any]]
    shape_stages: list[tuple[int, str]]
    """(shape, stage id) that codes in `RunColumns.shape_stage` stand for."""
    workloads: WorkloadColumns
    runs: RunColumns
    meters: MeterColumns
    policy: Policy


def read_log(path: Path) -> list[Event]:
    """Events of a canonical log, one JSON object a line; raises BrokenLogError naming a bad line."""
    events = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    events.append(Event.model_validate_json(line))
                except ValidationError as error:
                    first = error.errors(include_url=False, include_input=False)[0]
                    where = ".".join(map(str, first["loc"]))
                    what = f"{where}: {first['msg']}" if where else first["msg"]
                    raise BrokenLogError(f"{path}:{number}: not an event: {what}") from error
    return events


def fleet_of_log(events: Iterable[Event]) -> Fleet:
    """The newest fleet that the log registered; raises BrokenLogError if there is none."""
    newest = None
    for event in events:
        if event.kind is EventKind.FLEET_REGISTERED:
            newest = event
    if newest is None:
        raise BrokenLogError("no fleet.registered event in the log: give the fleet document")
    return Fleet.model_validate(newest.body["fleet"])


def window_of_log(events: Sequence[Event]) -> DayWindow:
    """The day starts with the first meter and lasts 24 h, or as long as the log; the log ends drained."""
    starts = [m["from_s"] for e in events if e.kind is EventKind.SITE_METERED for m in e.body["meters"]]
    if not starts:
        raise BrokenLogError("no site.metered event in the log: no day was played")
    ends = [m["until_s"] for e in events if e.kind is EventKind.SITE_METERED for m in e.body["meters"]]
    start_s, end_s = min(starts), max(ends)
    return DayWindow(start_s, min(start_s + HOURS_PER_DAY * SECONDS_PER_HOUR, end_s), end_s)


# -------------------------------------------------------------------------------------------------- columns


def read_columns(events: Sequence[Event], fleet: Fleet) -> DayLog:
    """Columns of the whole log; raises BrokenLogError where it refers to something it never introduced."""
    by_kind: dict[EventKind, list[Event]] = {kind: [] for kind in EventKind}
    for event in events:
        by_kind[event.kind].append(event)
    site_index = {s.site_id: i for i, s in enumerate(fleet.sites)}
    shapes = [e.body["shape"] for e in by_kind[EventKind.SHAPE_INTERNED]]
    shape_stages = [(n, stage["stage_id"]) for n, shape in enumerate(shapes) for stage in shape["stages"]]
    workloads = _workload_columns(by_kind[EventKind.WORKLOAD_SUBMITTED], shapes)
    policies = by_kind[EventKind.POLICY_REVISED]
    return DayLog(
        fleet=fleet,
        site_index=site_index,
        by_kind=by_kind,
        shapes=shapes,
        shape_stages=shape_stages,
        workloads=workloads,
        runs=_run_columns(by_kind, workloads, shape_stages, site_index),
        meters=_meter_columns(by_kind[EventKind.SITE_METERED], site_index),
        policy=Policy.model_validate(policies[-1].body["policy"] if policies else {}),
    )


def _workload_columns(submitted: list[Event], shapes: list[dict[str, Any]]) -> WorkloadColumns:
    names = [e.subject for e in submitted]
    shape = np.array([e.body["shape"] for e in submitted], np.int64)
    if shape.size and (shape.max() >= len(shapes) or shape.min() < 0):
        raise BrokenLogError(f"a workload has shape {shape.max()}, the log interned {len(shapes)}")
    class_of_shape = [s.get("workload_class", "") or s["kind"] for s in shapes]
    classes = sorted(set(class_of_shape), key=_natural)
    code = {c: i for i, c in enumerate(classes)}
    shared = [[bool(st.get("shared_with")) for st in s["stages"]] for s in shapes]
    return WorkloadColumns(
        names=names,
        row={name: i for i, name in enumerate(names)},
        displays=[_display(e.body.get("display")) for e in submitted],
        shape=shape,
        submitted_s=np.array([e.at_s for e in submitted], np.int64),
        not_before_s=np.array([e.body.get("not_before_s") or e.at_s for e in submitted], np.int64),
        replica_count=np.array(
            [
                sum(
                    n
                    for n, uses_other in zip(e.body["replicas"], shared[e.body["shape"]], strict=True)
                    if not uses_other
                )
                for e in submitted
            ],
            np.int64,
        ),
        class_code=np.array([code[c] for c in class_of_shape], np.int64)[shape] if shape.size else shape,
        classes=classes,
    )


def _natural(text: str) -> tuple[str, int, str]:
    """W2 before W10: letters, number, rest."""
    head = text.rstrip("0123456789abcdefghijklmnopqrstuvwxyz") or text
    digits = "".join(c for c in text[len(head) :] if c.isdigit())
    return head, int(digits or 0), text


def _display(display: Any) -> str:
    """The submitter's own words for a workload, in whatever languages there are."""
    if isinstance(display, Mapping):
        return " ".join(str(v) for v in display.values() if v)
    return str(display or "")


def _run_columns(
    by_kind: dict[EventKind, list[Event]],
    workloads: WorkloadColumns,
    shape_stages: list[tuple[int, str]],
    site_index: dict[str, int],
) -> RunColumns:
    orders = by_kind[EventKind.REPLICA_START_ORDERED]
    commands = [e.body["command"] for e in orders]
    ids = [e.subject for e in orders]
    row = {placement_id: i for i, placement_id in enumerate(ids)}
    try:
        workload = np.array([workloads.row[c["workload"]] for c in commands], np.int64)
        site = np.array([site_index[c["site_id"]] for c in commands], np.int64)
    except KeyError as error:
        raise BrokenLogError(
            f"a replica was ordered for {error}, which the log or the fleet does not know"
        ) from error
    stage_code = {key: i for i, key in enumerate(shape_stages)}
    shapes = workloads.shape[workload].tolist() if ids else []
    key_code: dict[tuple[str, str, int], int] = {}
    problems: list[str] = []
    if len(row) != len(ids):
        problems.append(f"{len(ids) - len(row)} placements were ordered twice")
    ran_s, ended_s, delivered = _fates(by_kind, row, commands, problems)
    moved = {e.subject for e in by_kind[EventKind.REPLICA_MOVED]}
    lost = {e.subject for e in by_kind[EventKind.REPLICA_ENDED] if e.body["phase"] == ReplicaPhase.LOST}
    return RunColumns(
        ids=ids,
        workload=workload,
        replica_key=np.array(
            [
                key_code.setdefault((c["workload"], c["stage_id"], c["replica_index"]), len(key_code))
                for c in commands
            ],
            np.int64,
        ),
        shape_stage=np.array(
            [stage_code[s, c["stage_id"]] for s, c in zip(shapes, commands, strict=True)], np.int64
        ),
        site=site,
        ordered_s=np.array([e.at_s for e in orders], np.int64),
        ran_s=ran_s,
        ended_s=ended_s,
        gpu_milli=np.array([c["gpu_milli"] for c in commands], np.float64),
        reference_gpu_milli=np.array([c["reference_gpu_milli"] for c in commands], np.float64),
        delivered_gpu_s=delivered,
        rtt_p99_ms=np.array([e.body.get("rtt_p99_ms") or 0.0 for e in orders], np.float64),
        is_move=np.array([i in moved for i in ids], np.bool_),
        is_lost=np.array([i in lost for i in ids], np.bool_),
        problems=problems,
    )


def _fates(
    by_kind: dict[EventKind, list[Event]],
    row: dict[str, int],
    commands: list[dict[str, Any]],
    problems: list[str],
) -> tuple[I64, I64, F64]:
    """When each placement ran and ended, and what it delivered, as the sites said."""
    ran_s = np.full(len(commands), NEVER_S, np.int64)
    ended_s = np.full(len(commands), NEVER_S, np.int64)
    delivered = np.zeros(len(commands))
    for event in by_kind[EventKind.REPLICA_RUNNING]:
        i = row.get(event.subject)
        if i is None:
            problems.append(f"{event.subject} runs but was never ordered")
        elif ran_s[i] != NEVER_S:
            problems.append(f"{event.subject} started twice")
        else:
            ran_s[i] = event.at_s
            if event.body["site_id"] != commands[i]["site_id"]:
                problems.append(
                    f"{event.subject} runs at {event.body['site_id']}, ordered at {commands[i]['site_id']}"
                )
    for event in by_kind[EventKind.REPLICA_ENDED]:
        i = row.get(event.subject)
        if i is None:
            problems.append(f"{event.subject} ended but was never ordered")
        elif ended_s[i] != NEVER_S:
            problems.append(f"{event.subject} ended twice")
        else:
            ended_s[i] = event.at_s
            delivered[i] = event.body["delivered_gpu_s"]
    return ran_s, ended_s, delivered


def _meter_columns(metered: list[Event], site_index: dict[str, int]) -> MeterColumns:
    rows = [m for e in metered for m in e.body["meters"]]
    try:
        site = np.array([site_index[m["site_id"]] for m in rows], np.int64)
    except KeyError as error:
        raise BrokenLogError(f"meters of site {error}, which the fleet does not have") from error
    from_s = np.array([m["from_s"] for m in rows], np.int64)
    order = np.lexsort((from_s, site))

    def column(name: str, default: float = 0.0) -> F64:
        return np.array([m.get(name, default) for m in rows], np.float64)[order]

    return MeterColumns(
        site=site[order],
        from_s=from_s[order],
        until_s=np.array([m["until_s"] for m in rows], np.int64)[order],
        it_kwh=column("it_energy_kwh"),
        facility_kwh=column("facility_energy_kwh"),
        useful_it_kwh=column("useful_it_energy_kwh"),
        peak_kw=column("peak_facility_kw"),
        dry_bulb_c=column("dry_bulb_c", np.nan),
        is_open=np.array([m.get("open", True) and m.get("up", True) for m in rows], np.bool_)[order],
    )


# --------------------------------------------------------------------------------------------------- states


@dataclass(frozen=True)
class StateIntervals:
    """Intervals in which a workload had a state; the last one of each workload ends at NEVER_S."""

    workload: I64
    state: I64
    from_s: I64
    until_s: I64


def state_intervals(log: DayLog) -> StateIntervals:
    """Fold of submissions and state changes; a workload is pending when it is submitted."""
    changes = log.by_kind[EventKind.WORKLOAD_STATE]
    row = log.workloads.row
    unknown = next((e.subject for e in changes if e.subject not in row), None)
    if unknown is not None:
        raise BrokenLogError(f"{unknown} changes its state but was never submitted")
    count = len(log.workloads.names)
    workload = np.concatenate((np.arange(count), np.array([row[e.subject] for e in changes], np.int64)))
    state = np.concatenate(
        (
            np.full(count, STATE_CODE[WorkloadState.PENDING]),
            np.array([STATE_CODE[WorkloadState(e.body["state"])] for e in changes], np.int64),
        )
    )
    from_s = np.concatenate((log.workloads.submitted_s, np.array([e.at_s for e in changes], np.int64)))
    order = np.lexsort((np.arange(workload.size), workload))
    workload, state, from_s = workload[order], state[order], from_s[order]
    until_s = np.full(workload.size, NEVER_S, np.int64)
    same = workload[1:] == workload[:-1]
    until_s[:-1][same] = from_s[1:][same]
    return StateIntervals(workload, state, from_s, until_s)
