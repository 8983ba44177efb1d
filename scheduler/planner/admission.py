"""Admission: is a workload possible on the installed fleet, empty and healthy? Every problem in one answer.

Each check names the field, what is wrong and the nearest value that would do. What is possible but has no room now is
not a problem here: it is accepted and waits.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import numpy as np

from scheduler.domain.shapes import Spec
from scheduler.domain.topology import RESOURCES, Topology
from scheduler.planner.feasibility import (
    SpecView,
    gang_capacity,
    labels_wanted,
    needs_on_groups,
    path_ms_of_groups,
    per_empty_node,
    sites_with_labels,
    takes_turns,
    view_spec,
)
from scheduler.planner.patterns import enumerate_patterns
from suanli.model import FieldProblem, Fleet, Policy, Stage, Workload
from suanli.model.units import HOURS_PER_DAY, W_PER_KW

SAME_MACHINE_LOOP_MS = 2.0
"""Motion control with cycles below this never leaves its machine (3GPP TR 22.804, cycles of 0.5 to 2 ms)."""
MAX_LISTED = 12
MONTHS_PER_YEAR = 12
MANY = 10**9


def impossible(workload: Workload, topology: Topology) -> list[FieldProblem]:
    """Every way in which the workload could not run even on the empty, healthy fleet; [] when it could."""
    views = [view_spec(Spec(-1, -1, i, stage, workload), topology) for i, stage in enumerate(workload.stages)]
    problems = _unknown_names(workload, topology)
    for i, (stage, view) in enumerate(zip(workload.stages, views, strict=True)):
        problems += _stage_problems(f"stages[{i}]", stage, view, topology, knows_all=not problems)
    if all(s.shared_with is not None for s in workload.stages):
        problems.append(
            _problem(
                "stages",
                "every stage is another workload's",
                "at least one stage of its own",
                "",
                "nothing_to_run",
            )
        )
    if not problems and (len(workload.stages) > 1 or workload.paths):
        problems += _joint_problems(workload, views, topology)
    return problems


# ---------------------------------------------------------------------- fleets and policies


def unplannable(fleet: Fleet) -> list[FieldProblem]:
    """What plans read of a fleet and would not find: a plan looks up to a week ahead, so any month may come next."""
    problems = []
    for i, tariff in enumerate(fleet.tariffs):
        used_by = [s.site_id for s in fleet.sites if s.tariff_id == tariff.tariff_id]
        missing = [m for m in range(1, MONTHS_PER_YEAR + 1) if m not in tariff.price_yuan_per_kwh_by_month]
        if used_by and missing:
            has = ", ".join(map(str, sorted(tariff.price_yuan_per_kwh_by_month))) or "none"
            problems.append(
                _problem(
                    f"tariffs[{i}].price_yuan_per_kwh_by_month",
                    f"tariff {tariff.tariff_id!r} of {_listed(used_by)} has no prices for month "
                    + ", ".join(map(str, missing)),
                    f"24 hourly prices for each of the months 1 to 12; it has {has}",
                    "",
                    "tariff_incomplete",
                )
            )
    hours = len(fleet.carbon_g_per_kwh_by_hour)
    if hours not in (0, HOURS_PER_DAY):
        problems.append(
            _problem(
                "carbon_g_per_kwh_by_hour",
                f"has {hours} values",
                "one for each of 24 hours, or none",
                "",
                "carbon_incomplete",
            )
        )
    return problems


def policy_problems(policy: Policy, topology: Topology | None) -> list[FieldProblem]:
    """Overrides that could never bind anything: of a site that is not there, twice, or looser than the room itself."""
    problems: list[FieldProblem] = []
    seen: set[str] = set()
    for i, override in enumerate(policy.sites):
        path = f"sites[{i}]"
        if override.target in seen:
            problems.append(
                _problem(
                    f"{path}.target",
                    f"{override.target} comes twice",
                    "one override for each target",
                    "",
                    "duplicate_target",
                )
            )
        seen.add(override.target)
        if topology is None or not override.target.startswith("sites/"):
            continue
        unknown = _unknown(f"{path}.target", "site", override.target, topology.site_ids, "sites/")
        problems += unknown
        if unknown or override.power_limit_kw is None:
            continue
        own_kw = topology.registered.site(override.target.removeprefix("sites/")).power_limit_kw
        if override.power_limit_kw > own_kw:
            problems.append(
                _problem(
                    f"{path}.power_limit_kw",
                    f"{override.power_limit_kw:g} kW is above what the site itself allows",
                    f"at most {own_kw:g} kW of IT power",
                    f"{own_kw:g}",
                    "above_own_limit",
                )
            )
    return problems


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")


# ---------------------------------------------------------------------- names that exist


def _unknown_names(workload: Workload, topology: Topology) -> list[FieldProblem]:
    access_ids = topology.access_profiles
    datasets = {d.dataset_id for d in topology.fleet.datasets}
    problems: list[FieldProblem] = []
    for i, flow in enumerate(workload.flows):
        for end, where in ((flow.source, "source"), (flow.target, "target")):
            if end.startswith("zones/"):
                problems += _unknown(f"flows[{i}].{where}", "zone", end, topology.zones, "zones/")
        if flow.access_id:
            problems += _unknown(f"flows[{i}].access_id", "access profile", flow.access_id, access_ids)
    for i, path in enumerate(workload.paths):
        for j, hop in enumerate(path.via):
            if hop.startswith("zones/"):
                problems += _unknown(f"paths[{i}].via[{j}]", "zone", hop, topology.zones, "zones/")
    for i, stage in enumerate(workload.stages):
        for j, site_id in enumerate(stage.site_ids):
            problems += _unknown(f"stages[{i}].site_ids[{j}]", "site", site_id, topology.site_ids)
        for j, dataset_id in enumerate(stage.dataset_ids):
            problems += _unknown(f"stages[{i}].dataset_ids[{j}]", "dataset", dataset_id, datasets)
        # a model that is not installed is only an alternative that is not there, as long as another one is
        if not set(stage.gpu_milli) & set(topology.gpu_models):
            for model in stage.gpu_milli:
                problems += _unknown(
                    f"stages[{i}].gpu_milli[{model}]", "GPU model", model, topology.gpu_models
                )
    return problems


def _unknown(
    field: str, what: str, given: str, known: Collection[str], prefix: str = ""
) -> list[FieldProblem]:
    name = given.removeprefix(prefix)
    if name in known:
        return []
    ordered = sorted(known)
    close = difflib.get_close_matches(name, ordered, n=1, cutoff=0.0)
    listed = ", ".join(prefix + k for k in ordered[:MAX_LISTED]) + (
        ", ..." if len(ordered) > MAX_LISTED else ""
    )
    expected = f"one of {listed}" if ordered else "none is registered"
    nearest = prefix + close[0] if close else ""
    code = "unknown_" + what.replace(" ", "_").lower()
    return [_problem(field, f"there is no {what} {name!r}", expected, nearest, code)]


# ---------------------------------------------------------------------- one stage


def _stage_problems(
    path: str, stage: Stage, view: SpecView, topology: Topology, *, knows_all: bool
) -> list[FieldProblem]:
    problems = _elastic(path, stage)
    if stage.shared_with is not None:
        return problems
    for check in (_no_site_has_labels, _rtt_below_physics, _larger_than_any_node, _gpu_memory_nowhere):
        problems += check(path, stage, view, topology)
    if view.group_ok.any():
        return (
            problems
            + (_count_problems(path, stage, view, topology) or _power_problems(path, stage, view, topology))
            + _spread_problems(path, stage, view, topology)
        )
    problems += _path_below_physics(stage, view, topology)
    if not problems and knows_all:
        problems.append(_no_site_meets_all(path, view, topology))
    return problems


def _elastic(path: str, stage: Stage) -> list[FieldProblem]:
    """The contract has room for stages that grow; a planner that would run `replicas` all the same must say no."""
    if not stage.is_elastic:
        return []
    return [
        _problem(
            f"{path}.replicas_max",
            f"stages do not grow yet: {stage.replicas_max} would never run, only {stage.replicas}",
            "no more than `replicas`, which says how many run",
            str(stage.replicas),
            "not_elastic",
        )
    ]


def _no_site_has_labels(path: str, stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    if sites_with_labels(view.spec, topology).any():
        return []
    keys = {k for alternative in stage.require_any for k in alternative}
    have = sorted({f"{k}={v}" for k, v in topology.sites_with_label if k in keys})
    nearest = difflib.get_close_matches(labels_wanted(stage.require_any), have, n=1, cutoff=0.0)
    return [
        _problem(
            f"{path}.require_any",
            f"no site has {labels_wanted(stage.require_any)}",
            f"labels that one site has: {', '.join(have) or 'none under ' + ', '.join(sorted(keys))}",
            nearest[0] if nearest else "",
            "residency_nowhere",
        )
    ]


def _rtt_below_physics(path: str, stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    problems = []
    me = f"stages/{stage.stage_id}"
    for i, flow in enumerate(view.spec.workload.flows):
        ends = (flow.source, flow.target)
        zone = next((e.removeprefix("zones/") for e in ends if e.startswith("zones/")), None)
        if me not in ends or zone not in topology.zones or flow.rtt_p99_max_ms is None:
            continue
        if flow.access_id and flow.access_id not in topology.access_profiles:
            continue
        rtt_ms = topology.leg_rtt_p99_ms(zone, flow.access_id)
        if (rtt_ms <= flow.rtt_p99_max_ms).any():
            continue
        loop = (
            "; a control loop this tight stays on its machine"
            if flow.rtt_p99_max_ms < SAME_MACHINE_LOOP_MS
            else ""
        )
        access = topology.access_of(zone, flow.access_id) or "hub"
        best = int(rtt_ms.argmin())
        problems.append(
            _problem(
                f"flows[{i}].rtt_p99_max_ms",
                f"{flow.rtt_p99_max_ms:g} ms is below the physics of {access} access from {zone}{loop}",
                "a limit that some site meets",
                f"{_rounded_up_ms(rtt_ms[best])} ms at {topology.site_ids[best]}"
                if np.isfinite(rtt_ms[best])
                else "",
                "rtt_below_physics",
            )
        )
    return problems


def _larger_than_any_node(path: str, stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    accepted = np.array([not stage.gpu_milli or m in stage.gpu_milli for m in topology.group_gpu_model])
    if not accepted.any():
        return []
    need, capacity = needs_on_groups(stage, topology)[accepted], topology.group_capacity[accepted]
    problems = []
    for r, resource in enumerate(RESOURCES):
        if (need[:, r] <= capacity[:, r]).any():
            continue
        if resource == "gpu_milli":
            problems += _gpus_beyond_any_node(path, stage, topology)
            continue
        largest = int(capacity[:, r].max())
        problems.append(
            _problem(
                f"{path}.{resource}",
                f"{int(need[:, r].min())} exceeds every node that could hold it",
                f"at most {largest}",
                str(largest),
                "replica_too_large",
            )
        )
    if not problems and not (need <= capacity).all(axis=1).any():
        closest = int((capacity / np.maximum(need, 1)).min(axis=1).argmax())
        has = ", ".join(f"{name} {int(x)}" for name, x in zip(RESOURCES, capacity[closest], strict=True))
        problems.append(
            _problem(
                path,
                "no single node has all of it at once",
                "amounts that one node has",
                has,
                "replica_too_large",
            )
        )
    return problems


def _gpus_beyond_any_node(path: str, stage: Stage, topology: Topology) -> list[FieldProblem]:
    """No accepted model has a node with so many GPUs: the most of each model that is installed."""
    gpu = RESOURCES.index("gpu_milli")
    problems = []
    for model, need_milli in stage.gpu_milli.items():
        here = np.array([m == model for m in topology.group_gpu_model], dtype=bool)
        if not here.any():
            continue
        largest = int(topology.group_capacity[here, gpu].max())
        problems.append(
            _problem(
                f"{path}.gpu_milli[{model}]",
                f"{need_milli} exceeds every node that could hold it",
                f"at most {largest}",
                str(largest),
                "replica_too_large",
            )
        )
    return problems


def _gpu_memory_nowhere(path: str, stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    models = np.array([m in stage.gpu_milli for m in topology.group_gpu_model])
    if not models.any():
        return []
    largest = int(topology.group_gpu_memory_mib[models].max())
    if stage.gpu_memory_mib <= largest:
        return []
    return [
        _problem(
            f"{path}.gpu_memory_mib",
            f"{stage.gpu_memory_mib} MiB exceeds every accepted GPU",
            f"at most {largest}",
            str(largest),
            "gpu_memory_too_large",
        )
    ]


def _path_below_physics(stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    """Paths of a workload of one stage: the best that any accepted group reaches."""
    workload = view.spec.workload
    if len(workload.stages) > 1:
        return []
    accepted = np.array([not stage.gpu_milli or m in stage.gpu_milli for m in topology.group_gpu_model])
    problems = []
    for i, path in enumerate(workload.paths):
        total_ms = np.where(accepted, path_ms_of_groups(view.spec, path.via, topology), np.inf)
        best_ms = float(total_ms.min(initial=np.inf))
        if path.budget_ms < best_ms < np.inf:
            problems.append(_path_problem(i, path.budget_ms, best_ms))
    return problems


def _no_site_meets_all(path: str, view: SpecView, topology: Topology) -> FieldProblem:
    """Each rule alone can be met somewhere, all together nowhere: name the site that breaks the fewest."""
    counts = [len(reasons) for reasons in view.site_reasons]
    nearest = int(np.argmin(counts))
    by_site = "; ".join(
        f"{site_id}: {', '.join(dict.fromkeys(r.code.value for r in reasons))}"
        for site_id, reasons in list(zip(topology.site_ids, view.site_reasons, strict=True))[:MAX_LISTED]
    )
    broken = ", ".join(dict.fromkeys(r.code.value for r in view.site_reasons[nearest]))
    return _problem(
        path,
        f"no site meets all requirements at once ({by_site})",
        "requirements that one site meets together",
        f"{topology.site_ids[nearest]}, but for {broken}",
        "no_site_meets_all",
    )


def _count_problems(path: str, stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    """More replicas than all candidate nodes hold together when they are empty.

    Replicas that end and need no others may run one after another: of those no number is too many.
    """
    if stage.gang:
        return _gang_problems(path, stage, view, topology)
    if takes_turns(view.spec.workload):
        return []
    total = sum(gang_capacity(stage, view, int(g), topology) for g in view.candidate_groups)
    if stage.replicas <= total:
        return []
    return [
        _problem(
            f"{path}.replicas",
            f"{stage.replicas} replicas exceed what the whole fleet holds",
            f"at most {total}",
            str(total),
            "too_many_replicas",
        )
    ]


def _gang_problems(path: str, stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    largest = max(gang_capacity(stage, view, int(g), topology) for g in view.candidate_groups)
    if stage.replicas <= largest:
        return []
    return [
        _problem(
            f"{path}.replicas",
            f"a gang of {stage.replicas} fits no pool of one site",
            f"at most {largest}",
            str(largest),
            "gang_too_large",
        )
    ]


def _power_problems(path: str, stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    """Σ idle + dynamic power of what starts together ≤ the site's own limit, with everything else asleep.

    A limit that only the policy sets is no reason to refuse: the next revision may lift it, so such work waits.
    """
    together = stage.replicas if stage.gang else 1
    most = max(_powered(view, int(g), topology) for g in view.candidate_groups)
    if together <= most:
        return []
    if most < 1 or not stage.gang:
        limit_kw = (
            float(topology.own_power_limit_w[topology.group_site[view.candidate_groups]].max()) / W_PER_KW
        )
        return [
            _problem(
                path,
                f"one replica and its node draw more than the {limit_kw:g} kW any site allows",
                "a replica that a site can power",
                "",
                "power_above_site",
            )
        ]
    return [
        _problem(
            f"{path}.replicas",
            f"a gang of {together} draws more than the power limit of every site that could hold it",
            f"at most {most}",
            str(most),
            "power_above_site",
        )
    ]


def _powered(view: SpecView, group: int, topology: Topology) -> int:
    """Replicas that the site's own power limit allows on the group when nothing else runs there."""
    limit_w = float(topology.own_power_limit_w[topology.group_site[group]])
    per_node, idle_w = per_empty_node(view, group), float(topology.group_idle_w[group])
    watts = float(view.watts[group])
    node_w = idle_w + per_node * watts
    full = min(int(limit_w // node_w) if node_w > 0 else MANY, int(topology.group_node_count[group]))
    left_w = limit_w - full * node_w - idle_w
    if full == topology.group_node_count[group] or left_w < 0:
        return full * per_node
    return full * per_node + (min(per_node, int(left_w // watts)) if watts > 0 else per_node)


def _spread_problems(path: str, stage: Stage, view: SpecView, topology: Topology) -> list[FieldProblem]:
    if stage.spread is None:
        return []
    groups = view.candidate_groups
    if stage.spread.over == "site":
        domains = len(set(topology.group_site[groups].tolist()))
    elif stage.gang:
        domains = int(topology.group_node_count[groups].max())
    else:
        domains = int(topology.group_node_count[groups].sum())
    if domains >= stage.spread.min_domains:
        return []
    return [
        _problem(
            f"{path}.spread.min_domains",
            f"only {domains} {stage.spread.over}s can hold this stage",
            f"at most {domains}",
            str(domains),
            "spread_too_wide",
        )
    ]


# ---------------------------------------------------------------------- stages together


def _joint_problems(workload: Workload, views: Sequence[SpecView], topology: Topology) -> list[FieldProblem]:
    """Stages that can each lie somewhere, but not together within flows, co-locations and paths."""
    patterns = enumerate_patterns(workload, list(views), topology)
    if len(patterns.sites):
        return _joint_spread_problems(workload, patterns.choices)
    problems = [
        _path_problem(i, path.budget_ms, patterns.best_path_ms.get(path.path_id, np.inf))
        for i, path in enumerate(workload.paths)
        if patterns.best_path_ms.get(path.path_id, np.inf) > path.budget_ms
    ]
    return problems or [
        _problem(
            "stages",
            "no joint placement keeps all flows, co-locations and paths at once",
            "limits that one pattern of at most two sites meets together",
            "",
            "no_pattern",
        )
    ]


def _joint_spread_problems(workload: Workload, choices: Sequence[int]) -> list[FieldProblem]:
    """A stage spread over sites needs so many sites that each keep the others' limits."""
    return [
        _problem(
            f"stages[{i}].spread.min_domains",
            f"only {choices[i]} sites can hold this stage beside the others",
            f"at most {choices[i]}",
            str(choices[i]),
            "spread_too_wide",
        )
        for i, stage in enumerate(workload.stages)
        if stage.spread is not None and stage.spread.over == "site" and choices[i] < stage.spread.min_domains
    ]


def _path_problem(index: int, budget_ms: float, best_ms: float) -> FieldProblem:
    return _problem(
        f"paths[{index}].budget_ms",
        f"{budget_ms:g} ms is below what network and processing take anywhere",
        "an end-to-end budget that network and processing can meet",
        f"{_rounded_up_ms(best_ms)} ms" if np.isfinite(best_ms) else "",
        "path_below_physics",
    )


def _rounded_up_ms(value_ms: float) -> str:
    """A tenth of a millisecond up: the nearest value named must be one that is accepted."""
    return f"{np.ceil(round(float(value_ms) * 10, 6)) / 10:g}"


def _problem(field: str, problem: str, expected: str, nearest: str, code: str) -> FieldProblem:
    return FieldProblem(field=field, problem=problem, expected=expected, nearest=nearest, code=code)
