"""Branch and bound over linear programs for small facility location: proofs in milliseconds where HiGHS takes seconds.

The program of `solvers/assignment.py` with x ≤ y and, for every bin, cliques: jobs of which no two fit together may
have one place between them,

    Σ_{j ∈ clique} x[i,j] ≤ y[i],   load[i,j] + load[i,k] > capacity[i] for all j ≠ k in the clique.

A few large jobs are what makes the plain relaxation weak; with cliques the files of the OR-Library leave 0.02 to 0.4 %
at the root, and trees of 1 to 30 nodes. A node's bound is worked out anew from the duals of its linear program, so it
holds however precise they are. Reduced costs decide what cannot be otherwise in anything better than the incumbent.
Depth first, the branch with more in it first; one live GLOP, warm from node to node, with rows that seldom bind left
out until they do. Deterministic but for `go_on`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.assignment import AssignmentProblem
from solvers.assignment_bounds import fewest_bins, rounded_up
from solvers.linear import LinearModel, LpLimits, LpStatus, Program
from solvers.lp_session import Session

FEW_NODES = 100
"""A search that ends within so many needs no help; files of the OR-Library take 1 to 60."""
MOST_LARGE_JOBS = 20
"""Jobs of over half a bin that cliques are built from, largest first; more than that hardly ever fit at all."""
FIRST_NODES = 30
"""Nodes within the sites that the root opens, for a first incumbent."""
WHOLE = 1e-6
"""Distance from a whole number that counts as none."""
SAME = 1e-9
"""Relative difference of two objectives that counts as none."""


@dataclass(frozen=True, eq=False)
class AssignmentProgram:
    """The integer program on some columns: x[k] is `jobs[k]` on `bins[k]`, then y by bin (1 where it costs nothing)."""

    program: Program
    bins: IntArray
    jobs: IntArray

    @property
    def pair_count(self) -> int:
        """Number of x."""
        return len(self.bins)

    def bin_of(self, x: FloatArray, job_count: int) -> IntArray:
        """[n] bin with the largest share of each job; −1: the job has no column."""
        found = np.full(job_count, -1)
        order = np.argsort(x[: self.pair_count], kind="stable")
        found[self.jobs[order]] = self.bins[order]  # the last one written is the largest
        return found


def assignment_program(p: AssignmentProblem, columns: BoolArray) -> AssignmentProgram:
    """The program with these columns only."""
    bins, jobs = np.nonzero(columns)
    model = LinearModel(offset=p.offset)
    x = model.add_columns("assign", len(bins), upper=1.0, cost=p.cost[bins, jobs])
    paid = p.fixed > 0
    y = model.add_columns("open", p.bin_count, lower=np.where(paid, 0.0, 1.0), upper=1.0, cost=p.fixed)
    once = model.add_rows("once", p.job_count, lower=1.0, upper=1.0)
    model.add_entries(once.start + jobs, x.index, 1.0)
    room = model.add_rows("capacity", p.bin_count, upper=0.0)
    model.add_entries(room.start + bins, x.index, p.load[bins, jobs])
    model.add_entries(room.index, y.index, -p.capacity.astype(float))
    enough = model.add_rows("enough_open", 1, lower=fewest_bins(p))
    model.add_entries(enough.start, y.index, 1.0)
    linked = np.flatnonzero(paid[bins])
    link = model.add_rows("served_by_open", len(linked), upper=0.0)
    model.add_entries(link.index, x.start + linked, 1.0)
    model.add_entries(link.index, y.start + bins[linked], -1.0)
    clique, member, of_bin = _cliques(p, columns)
    at = np.full(columns.shape, -1)
    at[bins, jobs] = x.index
    row = model.add_rows("one_of_clique", len(of_bin), upper=0.0)
    model.add_entries(row.start + clique, at[of_bin[clique], member], 1.0)
    model.add_entries(row.index, y.start + of_bin, -1.0)
    program = model.program()
    watched = np.arange(len(program.row_lower)) >= link.start
    return AssignmentProgram(replace(program, watched=watched), bins, jobs)


def _cliques(p: AssignmentProblem, columns: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """Members as (clique, job), and the bin of each clique: the jobs of over half a bin, and those with one other."""
    cliques, members, of_bin, count = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)], [], 0
    for i in range(p.bin_count):
        jobs = np.flatnonzero(columns[i])
        jobs = jobs[np.argsort(-p.load[i, jobs], kind="stable")]
        load = p.load[i, jobs]
        large = min(int((2 * load > p.capacity[i]).sum()), MOST_LARGE_JOBS)
        meets = load[:large, None] + load[None, large:] > p.capacity[i]
        small = np.flatnonzero(meets.any(axis=0))
        parts = [np.append(jobs[:large][meets[:, k]], jobs[large + k]) for k in small]
        if large > 1:
            parts.append(jobs[:large])
        for part in parts:
            cliques.append(np.full(len(part), count))
            members.append(part)
            of_bin.append(i)
            count += 1
    return np.concatenate(cliques), np.concatenate(members), np.array(of_bin, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Branched:
    """Best assignment (None: none), a bound on every assignment on the columns searched (inf: there is none), nodes."""

    bin_of: IntArray | None
    bound: float
    nodes: int
    job_price: FloatArray | None = None
    """[n] duals of "every job once" at the root; None: it has no solution, or was not solved."""


def branch(
    problem: AssignmentProblem,
    columns: BoolArray,
    incumbent: IntArray | None,
    nodes: int,
    go_on: Callable[[], bool] = lambda: True,
    assign: Callable[[IntArray], IntArray | None] | None = None,
) -> Branched:
    """Search the assignments on `columns` for the best, from a feasible incumbent (None: none is known).

    `assign` finds a good assignment with given sites open; a search that has not ended soon asks it for every new set
    of sites that it comes by. The bound is at most the value of what is returned, and equal to it when the search
    ended of itself.
    """
    root = _Tree(problem, columns, incumbent, go_on)
    root.search(1)
    if root.is_done:
        return root.answer()
    if root.best is None:
        root.offer(_within_sites(problem, columns, root.sites(), go_on))
    tree = _Tree(problem, root.promising(), root.best, go_on, root.bound)
    tree.search(min(nodes, FEW_NODES))
    tree.assign = assign
    tree.search(nodes - tree.nodes)
    return replace(tree.answer(), job_price=root.job_price)


def _within_sites(
    p: AssignmentProblem, columns: BoolArray, sites: IntArray, go_on: Callable[[], bool]
) -> IntArray | None:
    """A good assignment with exactly these sites open, if one is found quickly."""
    if not columns[sites].any(axis=0).all():
        return None
    tree = _Tree(p.within(sites), columns[sites], None, go_on)
    tree.search(FIRST_NODES)
    return None if tree.best is None else sites[tree.best]


@dataclass(frozen=True, eq=False)
class _Node:
    """A part of the choices: bounds on the columns, and the bound known for it before it is solved."""

    lower: BoolArray
    """One byte a column: thousands of parts may be open."""
    upper: BoolArray
    bound: float


class _Tree:
    """One search over the assignments on some columns."""

    def __init__(
        self,
        problem: AssignmentProblem,
        columns: BoolArray,
        incumbent: IntArray | None,
        go_on: Callable[[], bool],
        bound: float = -math.inf,
    ) -> None:
        self._problem, self._columns, self._go_on = problem, columns, go_on
        self._model = assignment_program(problem, columns)
        self._session, self._key = Session(), np.arange(len(self._model.program.cost))
        program = self._model.program
        self._open = [_Node(program.lower > 0, program.upper > 0, bound)]
        self._x = np.ones(len(program.cost))
        """The last linear program's answer; before the first one every bin may be open."""
        self._unresolved = math.inf
        """Least bound of the parts that the linear program could not decide."""
        self.best: IntArray | None = None
        self.objective, self.nodes = math.inf, 0
        self.assign: Callable[[IntArray], IntArray | None] | None = None
        self._asked = set[bytes]()
        self.job_price: FloatArray | None = None
        self.offer(incumbent)

    @property
    def bound(self) -> float:
        """Proven for every assignment on the columns; the objective where all that is left is no better."""
        return min([self.objective, self._unresolved, *(n.bound for n in self._open)])

    @property
    def is_done(self) -> bool:
        """Nothing is left to split."""
        return not self._open

    def answer(self) -> Branched:
        """What is known now."""
        return Branched(self.best, self.bound, self.nodes, self.job_price)

    def offer(self, bin_of: IntArray | None) -> None:
        """Take the assignment if it is feasible and better."""
        if bin_of is None or (bin_of < 0).any() or not self._problem.is_feasible(bin_of):
            return
        objective = self._problem.objective(bin_of)
        if objective < self.objective:
            self.best, self.objective = bin_of, objective

    def search(self, nodes: int) -> None:
        """Solve so many nodes, depth first."""
        diving = False
        while self._open and nodes > 0 and self._go_on():
            best_first = min(range(len(self._open)), key=lambda k: self._open[k].bound)
            node = self._open.pop(-1 if diving else best_first)
            if diving := not self._is_useless(node.bound):
                diving = self._solve(node)
                nodes -= 1

    def sites(self) -> IntArray:
        """Bins that the last linear program opens by half or more."""
        return np.flatnonzero(self._x[self._model.pair_count :] >= 0.5)

    def _ask(self) -> None:
        """For an assignment with the sites open that the last linear program opens, unless that was asked before."""
        sites = self.sites()
        if self.assign is not None and sites.tobytes() not in self._asked:
            self._asked.add(sites.tobytes())
            self.offer(self.assign(sites))

    def promising(self) -> BoolArray:
        """[m, n] columns that something better than the incumbent may use, by the one open part or both."""
        upper = np.any([n.upper for n in self._open], axis=0)
        kept = np.zeros(self._columns.shape, dtype=bool)
        kept[self._columns] = upper[: self._model.pair_count]
        return kept

    def _is_useless(self, bound: float) -> bool:
        """Nothing better than the incumbent lies above this bound."""
        return rounded_up(self._problem, bound) >= self.objective - SAME * abs(self.objective)

    def _solve(self, node: _Node) -> bool:
        """Bound a part; drop it, or split it into two (True)."""
        self.nodes += 1
        program = replace(self._model.program, lower=node.lower.astype(float), upper=node.upper.astype(float))
        result = self._session.solve(program, self._key, LpLimits())
        if result.status is LpStatus.INFEASIBLE:
            return False
        if result.status is not LpStatus.OPTIMAL:
            self._unresolved = min(self._unresolved, node.bound)
            return False
        self._x = result.x
        if self.job_price is None:
            self.job_price = result.duals[: self._problem.job_count]
        proven, reduced = _dual_bound(program, result.duals)
        bound = max(node.bound, proven)
        self.offer(self._model.bin_of(result.x, self._problem.job_count))
        if self._is_useless(bound):
            return False
        self._ask()
        lower, upper = self._decided(node, proven, reduced)
        column = self._split_at(result.x, lower, upper)
        if column < 0:
            # whole, and yet no assignment as good as the bound: rounding has spoilt it
            self._unresolved = min(self._unresolved, bound)
            return False
        self._open += self._parts(column, lower, upper, bound)
        return True

    def _decided(self, node: _Node, bound: float, reduced: FloatArray) -> tuple[BoolArray, BoolArray]:
        """The part's bounds on columns, without the values that only solutions no better than the incumbent have."""
        beyond = (node.lower < node.upper) & (bound + np.abs(reduced) >= self.objective)
        return node.lower | (beyond & (reduced < 0)), node.upper & ~(beyond & (reduced > 0))

    def _split_at(self, x: FloatArray, lower: BoolArray, upper: BoolArray) -> int:
        """The column to split at: a site half open, else the largest load that is split between sites; −1: none."""
        fraction = np.where(lower < upper, np.minimum(x, 1 - x), 0.0)
        pairs = self._model.pair_count
        site = pairs + int(fraction[pairs:].argmax())
        if fraction[site] > WHOLE:
            return site
        bins, jobs = self._model.bins, self._model.jobs
        is_split = fraction[:pairs] > WHOLE
        if not is_split.any():
            return -1
        load = np.where(is_split, self._problem.load[bins, jobs] * fraction[:pairs], -1.0)
        of_job = np.flatnonzero((jobs == jobs[load.argmax()]) & is_split)
        return int(of_job[x[of_job].argmax()])

    def _parts(self, column: int, lower: BoolArray, upper: BoolArray, bound: float) -> list[_Node]:
        """The column at 0, and at 1 (on top); a job on one bin is on no other, and a closed bin has none."""
        pairs = self._model.pair_count
        closed, opened = upper.copy(), upper.copy()
        closed[column] = False
        at_least = lower.copy()
        at_least[column] = True
        if column >= pairs:
            closed[:pairs][self._model.bins == column - pairs] = False
        else:
            opened[:pairs][self._model.jobs == self._model.jobs[column]] = False
            opened[column] = True
            at_least[pairs + self._model.bins[column]] = True
        return [_Node(lower, closed, bound), _Node(at_least, opened, bound)]


def _dual_bound(program: Program, duals: FloatArray) -> tuple[float, FloatArray]:
    """What these duals prove, however imprecise, once their signs fit their rows; and their reduced costs."""
    duals = np.where(np.isneginf(program.row_lower), np.minimum(duals, 0.0), duals)
    duals = np.where(np.isposinf(program.row_upper), np.maximum(duals, 0.0), duals)
    side = np.where(duals > 0, program.row_lower, program.row_upper)
    reduced = program.cost - program.matrix.T @ duals
    rows = float((duals * np.where(duals == 0, 0.0, side)).sum())
    columns = float(np.where(reduced > 0, reduced * program.lower, reduced * program.upper).sum())
    return program.offset + rows + columns, reduced
