"""The solver process: reads problems from its standard input, answers on what was its standard output.

It ends when its input ends, so it never outlives the service, not even one killed by `kill -9`. Whatever a solver
library prints goes to standard error and cannot mix with the answers.
"""

from __future__ import annotations

import argparse
import importlib
import os
import queue
import resource
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

from scheduler.workers.frames import ERROR, PROBLEM, SOLUTION, read_frame, write_frame
from solvers.problem import PlacementProblem
from solvers.solution import PlanSolution

MIB = 1 << 20
# the solver gives way to rounds and requests on the same cores
NICENESS = 5


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver", required=True, help="module:function, called with a PlacementProblem")
    parser.add_argument("--memory-limit-mib", type=int, default=0, help="limit of the address space; 0: none")
    options = parser.parse_args()
    os.nice(NICENESS)
    if options.memory_limit_mib:
        limit = options.memory_limit_mib * MIB
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answers = _keep_answers_apart()
    problems = _read_ahead(sys.stdin.buffer)
    module, _, function = options.solver.partition(":")
    solve: Callable[[PlacementProblem], PlanSolution] = getattr(importlib.import_module(module), function)
    while True:
        _answer(solve, problems.get(), answers)


def _keep_answers_apart() -> BinaryIO:
    """The pipe for answers; descriptor 1 is pointed at standard error from here on."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _read_ahead(pipe: BinaryIO) -> queue.SimpleQueue[bytes]:
    """Read problems on a thread of its own, which ends the process when the service is gone, even amid a solve."""
    problems: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        try:
            while True:
                kind, payload = read_frame(pipe)
                assert kind == PROBLEM, kind
                problems.put(payload)
        finally:
            os._exit(0)

    threading.Thread(target=read, name="problems", daemon=True).start()
    return problems


def _answer(solve: Callable[[PlacementProblem], PlanSolution], payload: bytes, answers: BinaryIO) -> None:
    try:
        solution = solve(PlacementProblem.from_bytes(payload))
        write_frame(answers, SOLUTION, solution.to_bytes())
    except Exception as error:
        # MemoryError included: the address space is limited so that it ends here and not in the machine's swap
        write_frame(answers, ERROR, f"{type(error).__name__}: {error}".encode())


if __name__ == "__main__":
    main()
