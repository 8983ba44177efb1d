"""Rows that hold for whole replicas on whole nodes, beyond sums: what fits on one node sums to at most one by them.

A dual feasible function f of a replica's need has Σ f ≤ 1 over any replicas that share a node (Fekete and Schepers
2001), so in a group Σ_k f(need[k])·x[k] ≤ nodes on. Certificates of plans on nodes price such rows; here they are
worked out from the facts alone, in whole numbers, for any parameter for which they hold.

By function and parameter, f of a replica with share s of the node's resource is

- device, λ in 1..500 milli: its share of all devices, where a part of one above 1 − λ is a whole one, below λ none
- cpu_step and memory_step, k ≥ 1: s where (k + 1)·s is whole, else ⌊(k + 1)·s⌋/k
- cpu_exclusive and memory_exclusive, 0: 1 if it takes all devices of the node, s if it takes some, else 0
- a_per_b, κ ≥ 100 %, for two of cpu, memory and gpu with shares s_a and s_b: max(min(s_a, κ·s_b), 1 − κ·(1 − s_b)).
  Work that takes little of a for its b leaves of a what others, at κ each, cannot use. On a node with n > 0 replicas
  by the second term these sum to n − κ·n + κ·Σ s_b, and all others to no more than κ·(1 − Σ s_b): at most 1 for κ ≥ 1
- memory_but_cpu, 0: its share of memory, but of CPU if it takes all devices of the node, and the lesser of both if it
  takes none: a node with such a replica is full when its CPU is, any other when its memory is; cpu_but_memory likewise
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from solvers.problem import CPU_MILLI, GPU_MILLI, MEMORY_MIB, MILLI_PER_GPU, PlacementProblem

Floats = npt.NDArray[np.float64]

DEVICE = "device"
STEP_OF = {CPU_MILLI: "cpu_step", MEMORY_MIB: "memory_step"}
EXCLUSIVE_OF = {CPU_MILLI: "cpu_exclusive", MEMORY_MIB: "memory_exclusive"}
PER = {
    "cpu_per_gpu": (CPU_MILLI, GPU_MILLI),
    "memory_per_gpu": (MEMORY_MIB, GPU_MILLI),
    "gpu_per_cpu": (GPU_MILLI, CPU_MILLI),
    "gpu_per_memory": (GPU_MILLI, MEMORY_MIB),
    "cpu_per_memory": (CPU_MILLI, MEMORY_MIB),
    "memory_per_cpu": (MEMORY_MIB, CPU_MILLI),
}
BUT = {"memory_but_cpu": (MEMORY_MIB, CPU_MILLI), "cpu_but_memory": (CPU_MILLI, MEMORY_MIB)}
RESOURCE_OF = (
    {name: r for table in (STEP_OF, EXCLUSIVE_OF) for r, name in table.items()}
    | {DEVICE: GPU_MILLI}
    | {name: a for table in (PER, BUT) for name, (a, _) in table.items()}
)
"""What each function rations."""
MOST_STEPS = 1_000
PERCENT = 100
MOST_PERCENT = 100_000


def is_node_row(function: str, parameter: int) -> bool:
    """Whether a function with this parameter is dual feasible."""
    if function == DEVICE:
        return 1 <= parameter <= MILLI_PER_GPU // 2
    if function in STEP_OF.values():
        return 1 <= parameter <= MOST_STEPS
    if function in PER:
        return PERCENT <= parameter <= MOST_PERCENT
    return (function in EXCLUSIVE_OF.values() or function in BUT) and parameter == 0


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
    if function in PER:
        return _per(share, _share_of(problem, PER[function][1]), parameter / PERCENT)
    gpu = problem.pairs.need[:, GPU_MILLI]
    takes_all = (gpu > 0) & (gpu == problem.groups.capacity[problem.pairs.group_index, GPU_MILLI])
    if function in BUT:
        other = _share_of(problem, BUT[function][1])
        return np.where(takes_all, other, np.where(gpu > 0, share, np.minimum(share, other)))
    return np.where(takes_all, 1.0, np.where(gpu > 0, share, 0.0))


def _share(need: npt.NDArray[np.int64], installed: npt.NDArray[np.int64]) -> Floats:
    return np.divide(need, installed, out=np.zeros(len(need)), where=installed > 0)


def _share_of(problem: PlacementProblem, resource: int) -> Floats:
    need = problem.pairs.need[:, resource]
    return _share(need, problem.groups.capacity[problem.pairs.group_index, resource])


def _per(a: Floats, b: Floats, most: float) -> Floats:
    """max(min(a, most·b), 1 − most·(1 − b)), for shares of a node."""
    return np.maximum(np.minimum(a, most * b), 1.0 - most * (1.0 - b))
