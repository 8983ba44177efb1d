"""Rows that hold for whole replicas on whole nodes, beyond sums: what fits on one node sums to at most one by them.

A dual feasible function f of a replica's need has Σ f ≤ 1 over any replicas that share a node (Fekete and Schepers
2001), so in a group Σ_k f(need[k])·x[k] ≤ nodes on. Certificates of plans on nodes price such rows; here they are
worked out from the facts alone, in whole numbers, for any parameter for which they hold.

By function and parameter, f of a replica with share s of the node's resource is

- device, λ in 1..500 milli: its share of all devices, where a part of one above 1 − λ is a whole one, below λ none
- cpu_step and memory_step, k ≥ 1: s where (k + 1)·s is whole, else ⌊(k + 1)·s⌋/k
- cpu_exclusive and memory_exclusive, 0: 1 if it takes all devices of the node, s if it takes some, else 0
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from solvers.problem import CPU_MILLI, GPU_MILLI, MEMORY_MIB, MILLI_PER_GPU, PlacementProblem

Floats = npt.NDArray[np.float64]

DEVICE = "device"
STEP_OF = {CPU_MILLI: "cpu_step", MEMORY_MIB: "memory_step"}
EXCLUSIVE_OF = {CPU_MILLI: "cpu_exclusive", MEMORY_MIB: "memory_exclusive"}
RESOURCE_OF = {name: r for table in (STEP_OF, EXCLUSIVE_OF) for r, name in table.items()} | {
    DEVICE: GPU_MILLI
}
"""What each function rations."""
MOST_STEPS = 1_000


def is_node_row(function: str, parameter: int) -> bool:
    """Whether a function with this parameter is dual feasible."""
    if function == DEVICE:
        return 1 <= parameter <= MILLI_PER_GPU // 2
    if function in STEP_OF.values():
        return 1 <= parameter <= MOST_STEPS
    return function in EXCLUSIVE_OF.values() and parameter == 0


def node_row(problem: PlacementProblem, function: str, parameter: int) -> Floats:
    """[K] f of one replica of each pair, nodes; ValueError where the function does not hold (`is_node_row`)."""
    if not is_node_row(function, parameter):
        raise ValueError(f"{function} with {parameter} is no dual feasible function")
    resource = RESOURCE_OF[function]
    need = problem.pairs.need[:, resource]
    installed = problem.groups.capacity[problem.pairs.group_index, resource]
    if function == DEVICE:
        part = (need > 0) & (need < MILLI_PER_GPU)
        need = np.where(part & (need > MILLI_PER_GPU - parameter), MILLI_PER_GPU, need)
        need = np.where(part & (need < parameter), 0, need)
        return _share(need, installed)
    share = _share(need, installed)
    if function in STEP_OF.values():
        scaled, whole = (parameter + 1) * need, np.maximum(installed, 1)
        return np.where(scaled % whole == 0, share, (scaled // whole) / parameter)
    gpu = problem.pairs.need[:, GPU_MILLI]
    takes_all = (gpu > 0) & (gpu == problem.groups.capacity[problem.pairs.group_index, GPU_MILLI])
    return np.where(takes_all, 1.0, np.where(gpu > 0, share, 0.0))


def _share(need: npt.NDArray[np.int64], installed: npt.NDArray[np.int64]) -> Floats:
    return np.divide(need, installed, out=np.zeros(len(need)), where=installed > 0)
