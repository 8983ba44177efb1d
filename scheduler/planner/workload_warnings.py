"""What of a workload cannot come true: told to its submitter, and taken all the same: late may be better than never.

passed          deadline < now
out of reach    deadline < max(now, not before) + max over stages that end (start-up + run time)
"""

from __future__ import annotations

from suanli.model import FieldProblem, Workload
from suanli.model.units import SECONDS_PER_MINUTE, epoch_s, local_time

DEADLINE_PASSED = "deadline_passed"
DEADLINE_OUT_OF_REACH = "deadline_out_of_reach"


def workload_warnings(workload: Workload, utc_offset_hours: int, now_s: int) -> tuple[FieldProblem, ...]:
    """Its deadline, when it is past or nearer than the work can end; instants as people at that offset read them."""
    if workload.deadline_at is None:
        return ()
    deadline_s = epoch_s(workload.deadline_at)
    if deadline_s < now_s:
        passed_at = local_time(deadline_s, utc_offset_hours)
        return (
            FieldProblem(
                field="deadline_at",
                problem=f"passed at {passed_at}: lateness is charged from the start",
                code=DEADLINE_PASSED,
            ),
        )
    ends_s = earliest_end_s(workload, now_s)
    if ends_s is None or ends_s <= deadline_s:
        return ()
    return (
        FieldProblem(
            field="deadline_at",
            problem=f"{local_time(deadline_s, utc_offset_hours)} is before the work can end: lateness will be charged",
            nearest=local_time(-(-ends_s // SECONDS_PER_MINUTE) * SECONDS_PER_MINUTE, utc_offset_hours),
            code=DEADLINE_OUT_OF_REACH,
        ),
    )


def earliest_end_s(workload: Workload, now_s: int) -> int | None:
    """When the work is done if it starts at once; None where no stage ends."""
    takes_s = [s.startup_s + s.duration_s for s in workload.stages if s.duration_s is not None]
    if not takes_s:
        return None
    starts_s = now_s if workload.not_before_at is None else max(now_s, epoch_s(workload.not_before_at))
    return starts_s + max(takes_s)
