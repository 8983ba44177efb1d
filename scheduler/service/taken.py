"""Names that are taken: one wording and one code, whether work is submitted, checked or planned."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import count

from scheduler.domain.outlook import LOCAL_OFFSET_HOURS
from scheduler.service.decider import State
from scheduler.service.history import History
from suanli.model import AlreadyExists, FieldProblem, InvalidRequest, SuanliError, Workload
from suanli.model.units import local_time

MOST_NAMED = 5
"""Taken names told in one error without places; an error with places names all."""
MOST_CHARACTERS = 63
_NUMBERED = re.compile(r"(.*)-([2-9]|[1-9]\d+)")


def refusal(
    state: State,
    history: History,
    workloads: Sequence[Workload],
    paths: Sequence[str],
    problems: Sequence[FieldProblem],
) -> SuanliError | None:
    """Why these may not be submitted; None when they may.

    AlreadyExists where names are all that is wrong, else InvalidRequest with every problem; `paths` lead the fields.
    """
    taken = taken_names(state, history, workloads, paths)
    if problems:
        return InvalidRequest([*problems, *taken])
    if not taken:
        return None
    more = [f"and {len(taken) - MOST_NAMED} more"] if len(taken) > MOST_NAMED else []
    return AlreadyExists("\n".join([*(p.problem for p in taken[:MOST_NAMED]), *more]))


def taken_names(
    state: State, history: History, workloads: Sequence[Workload], paths: Sequence[str]
) -> list[FieldProblem]:
    """A problem for every name that is taken, its field led by that workload's path."""
    also = {w.name for w in workloads}
    return [
        FieldProblem(
            field=f"{path}name", problem=taken_text(state, history, w.name, also), code="already_exists"
        )
        for path, w in zip(paths, workloads, strict=True)
        if state.has_workload(w.name)
    ]


def taken_text(state: State, history: History, name: str, also: Collection[str] = ()) -> str:
    """`… is taken by a cancelled workload of …; names are not used twice, nearest free llm-chat-2`."""
    held_by = state.workload_state(name)
    since = local_time(history.created(name)[1], LOCAL_OFFSET_HOURS)
    what = "a workload" if held_by is None else f"a {held_by.value} workload"
    free = nearest_free(state, name, also)
    hint = f", nearest free {free}" if free else ""
    return f"{name} is taken by {what} of {since}; names are not used twice{hint}"


def nearest_free(state: State, name: str, also: Collection[str] = ()) -> str:
    """Last part of the name with the next number that is free, also beside the names `also`; "" where too long."""
    head, slash, last = name.rpartition("/")
    numbered = _NUMBERED.fullmatch(last)
    base, first = (numbered[1], int(numbered[2]) + 1) if numbered else (last, 2)
    for number in count(first):
        free = f"{base}-{number}"
        if f"{head}{slash}{free}" not in also and not state.has_workload(f"{head}{slash}{free}"):
            return free if len(free) <= MOST_CHARACTERS else ""
    raise AssertionError("there is always a number that is free")
