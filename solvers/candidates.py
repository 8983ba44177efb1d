"""Which pairs (class, group) a plan may use: raw facts of a problem turned into counted refusals.

Each rule is one function that returns, per pair, whether the rule lets it pass. `candidates` applies all of them; what
none of them can know (capacity left, prices, caps) is the business of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from solvers.alone import takes_whole_node
from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.problem import PlacementProblem


@dataclass(frozen=True, eq=False)
class Candidates:
    """`passes[k]`: the pair may be used. `refused[rule][k]`: that rule alone rules it out."""

    passes: BoolArray
    refused: Mapping[str, BoolArray]


def candidates(problem: PlacementProblem) -> Candidates:
    """Apply every rule to every pair."""
    refused = {name: ~rule(problem) for name, rule in RULES.items()}
    passes = np.ones(problem.pair_count, dtype=bool)
    for bad in refused.values():
        passes &= ~bad
    return Candidates(passes, refused)


def site_named(problem: PlacementProblem) -> BoolArray:
    """The class names no sites, or this one."""
    ids = problem.sites.site_id
    allowed = [
        np.ones(len(ids), dtype=bool) if not names else np.isin(ids, names)
        for names in problem.classes.allowed_site_ids
    ]
    return _by_class_and_site(problem, allowed)


def labels_match(problem: PlacementProblem) -> BoolArray:
    """Some alternative of `require_any` is contained in the site's labels (or of ands); no alternatives: any site."""
    known: dict[tuple[tuple[tuple[str, str], ...], ...], BoolArray] = {}
    allowed = []
    for alternatives in problem.classes.require_any:
        key = tuple(tuple(sorted(a.items())) for a in alternatives)
        if key not in known:
            known[key] = np.array(
                [
                    not alternatives
                    or any(all(labels.get(k) == v for k, v in a.items()) for a in alternatives)
                    for labels in problem.sites.labels
                ],
                dtype=bool,
            )
        allowed.append(known[key])
    return _by_class_and_site(problem, allowed)


def gpu_model_allowed(problem: PlacementProblem) -> BoolArray:
    """A class that names GPU models runs on groups of one of them."""
    models = problem.groups.gpu_model
    allowed = np.array(
        [
            [not by_model or model in by_model for model in models]
            for by_model in problem.classes.gpu_milli_by_model
        ],
        dtype=bool,
    ).reshape(problem.class_count, problem.group_count)
    return np.asarray(allowed[problem.pairs.class_index, problem.pairs.group_index])


def gpu_memory_enough(problem: PlacementProblem) -> BoolArray:
    """Memory of the group's devices ≥ memory the class asks for per whole GPU."""
    asked = problem.classes.gpu_memory_mib[problem.pairs.class_index]
    return np.asarray((asked == 0) | (asked <= problem.groups.gpu_memory_mib[problem.pairs.group_index]))


def fits_a_node(problem: PlacementProblem) -> BoolArray:
    """One replica fits an empty node of the group."""
    return np.asarray((problem.pairs.need <= problem.groups.capacity[problem.pairs.group_index]).all(axis=1))


def group_has_nodes(problem: PlacementProblem) -> BoolArray:
    """The group has a usable node in some slot."""
    return np.asarray(problem.groups.node_count.max(axis=1, initial=0) > 0)[problem.pairs.group_index]


def rtt_within_limits(problem: PlacementProblem) -> BoolArray:
    """Every flow of the class reaches the site within its limit; an unknown RTT never passes."""
    flows, network = problem.flows, problem.network
    limited = ~np.isnan(flows.rtt_p99_max_ms)
    allowed = np.ones((problem.class_count, problem.site_count), dtype=bool)
    rtt = network.leg_rtt_p99_ms[flows.leg_index[limited]]
    within = rtt <= flows.rtt_p99_max_ms[limited, None]
    np.logical_and.at(allowed, flows.class_index[limited], within)
    return np.asarray(allowed[problem.pairs.class_index, problem.pair_site])


def path_within_budget(problem: PlacementProblem) -> BoolArray:
    """rtt(leg in) + processing + rtt(leg out) ≤ budget; undeclared processing or RTT never passes."""
    p, paths = problem, problem.paths
    passes = np.ones(p.pair_count, dtype=bool)
    for c, leg_in, leg_out, budget_ms in zip(
        paths.class_index, paths.leg_in_index, paths.leg_out_index, paths.budget_ms, strict=True
    ):
        of_class = np.flatnonzero(p.pairs.class_index == c)
        site = p.pair_site[of_class]
        total_ms = p.pairs.processing_p99_ms[of_class] + _leg_ms(p, leg_in, site) + _leg_ms(p, leg_out, site)
        passes[of_class] &= total_ms <= budget_ms
    return passes


def gang_fits(problem: PlacementProblem) -> BoolArray:
    """A whole gang fits where it must lie together: in one island, one group, or one site of such groups.

    Counted per empty node: ⌊capacity / need⌋ replicas; several groups of a site add up unless the gang is kept in one.
    """
    p = problem
    gang = p.classes.gang_size[p.pairs.class_index]
    per_node = replicas_per_node(p)
    nodes = p.groups.node_count.max(axis=1, initial=0)
    island = np.where(p.groups.island_node_count > 0, np.minimum(p.groups.island_node_count, nodes), nodes)
    in_group = per_node * nodes[p.pairs.group_index]
    in_island = per_node * island[p.pairs.group_index]
    usable = site_named(p) & labels_match(p) & gpu_model_allowed(p) & gpu_memory_enough(p)
    in_site = np.zeros((p.class_count, p.site_count))
    np.add.at(in_site, (p.pairs.class_index[usable], p.pair_site[usable]), in_group[usable])
    c = p.pairs.class_index
    room = np.where(p.classes.single_site[c], in_site[c, p.pair_site], np.inf)
    room = np.where(p.classes.single_group[c], in_group, room)
    room = np.where(p.classes.single_island[c], in_island, room)
    return np.asarray((gang <= 1) | (gang <= room))


def replicas_per_node(problem: PlacementProblem) -> IntArray:
    """[K] how many replicas of the pair's class one empty node holds."""
    need, capacity = problem.pairs.need, problem.groups.capacity[problem.pairs.group_index]
    with np.errstate(divide="ignore"):
        per_resource = np.where(need > 0, capacity // np.maximum(need, 1), np.iinfo(np.int64).max)
    # a share of a device must fit into one device: 0.6 of a GPU fits once per device, not 1.66 times
    share = need[:, 2]
    devices = capacity[:, 2] // 1000
    fractional = (share > 0) & (share < 1000)
    per_resource[fractional, 2] = devices[fractional] * (1000 // share[fractional])
    return np.asarray(np.minimum(per_resource.min(axis=1), 10**9))


def dominant_share(problem: PlacementProblem) -> FloatArray:
    """[K] largest share of one node that a replica takes, over resources."""
    capacity = problem.groups.capacity[problem.pairs.group_index]
    share = np.divide(problem.pairs.need, capacity, out=np.zeros(capacity.shape), where=capacity > 0)
    return np.asarray(share.max(axis=1, initial=0.0))


def filled_share(problem: PlacementProblem) -> FloatArray:
    """[K] as `dominant_share`, but a whole node where no second replica of the pair fits beside it."""
    return np.where(takes_whole_node(problem), 1.0, dominant_share(problem))


def counted_share(problem: PlacementProblem) -> FloatArray:
    """[K] share of one node's idle power that a ledger credits to a replica: of the group's scarce resource.

    Shares of one resource add up to no more than the nodes that are on; largest shares of different resources may.
    """
    if not problem.groups.scarce_resource:
        return dominant_share(problem)
    group = problem.pairs.group_index
    scarce = np.array(problem.groups.scarce_resource, dtype=np.int64)[group]
    need = problem.pairs.need[np.arange(problem.pair_count), scarce]
    capacity = problem.groups.capacity[group, scarce]
    return np.divide(need, capacity, out=np.zeros(problem.pair_count), where=capacity > 0)


RULES: Mapping[str, Callable[[PlacementProblem], BoolArray]] = {
    "site_not_named": site_named,
    "label_missing": labels_match,
    "gpu_model_absent": gpu_model_allowed,
    "gpu_memory_too_small": gpu_memory_enough,
    "node_too_small": fits_a_node,
    "site_down": group_has_nodes,
    "rtt_exceeded": rtt_within_limits,
    "path_budget_exceeded": path_within_budget,
    "gang_not_whole": gang_fits,
}


def _by_class_and_site(problem: PlacementProblem, allowed: list[BoolArray]) -> BoolArray:
    table = np.array(allowed, dtype=bool).reshape(problem.class_count, problem.site_count)
    return np.asarray(table[problem.pairs.class_index, problem.pair_site])


def _leg_ms(problem: PlacementProblem, leg: int, site: IntArray) -> FloatArray:
    return np.zeros(len(site)) if leg < 0 else problem.network.leg_rtt_p99_ms[leg, site]
