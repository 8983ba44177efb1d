"""An openb node and pod list as a day: what is cut, timed, left out and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster_sim.traces.openb import TraceNode, TracePod
from cluster_sim.traces.openb_day import Cut, TraceErrors, openb_day, read_openb
from cluster_sim.world.arrivals import arrivals
from suanli.model import PriorityClass, Stage, Workload

Lists = tuple[list[TraceNode], list[TracePod]]
HOUR_S = 3600
NODES = "sn,cpu_milli,memory_mib,gpu,model\nn-0,64000,262144,2,T4\nn-1,64000,262144,2,P100\nn-2,64000,262144,2,T4\n"
HEAD = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,creation_time,deletion_time\n"
PODS = HEAD + (
    f"p-half,4000,8192,1,500,,LS,0,{4 * HOUR_S}\n"
    f"p-pair,8000,8192,2,1000,P100,BE,{HOUR_S},{2 * HOUR_S}\n"
    f"p-cpu,4000,8192,0,0,,BE,{2 * HOUR_S},\n"
    f"p-homeless,4000,8192,1,1000,A10,BE,{3 * HOUR_S},{4 * HOUR_S}\n"
)


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "pods.csv").write_text(PODS)
    return read_openb(tmp_path / "nodes.csv", tmp_path / "pods.csv")


def played(lists: Lists, **cut: Any) -> dict[str, tuple[int, Stage, Workload]]:
    """Workload id → (seconds after the opening, stage, workload) of the day."""
    day = openb_day(lists[0], lists[1], Cut(**cut))
    found = arrivals(day.scenario, 1)
    return {w.workload_id: (at_s - day.scenario.start_s, w.stages[0], w) for at_s, w in found.items}


def test_nodes_of_one_kind_become_a_group_of_the_one_site(lists):
    site = openb_day(lists[0], lists[1], Cut()).scenario.fleet().sites[0]
    assert {(g.gpu_model, g.node_count, g.gpu_count, g.cpu_milli, g.memory_mib) for g in site.groups} == {
        ("T4", 2, 2, 64_000, 262_144),
        ("P100", 1, 2, 64_000, 262_144),
    }


def test_pods_ask_for_what_the_list_says_on_the_models_it_allows(lists):
    work = played(lists, hours=3, from_hour=0, compress=1)
    assert work["p-half"][1].gpu_milli == {"P100": 500, "T4": 500}
    assert work["p-pair"][1].gpu_milli == {"P100": 2000}
    assert work["p-cpu"][1].gpu_milli == {}
    assert (work["p-half"][1].cpu_milli, work["p-half"][1].memory_mib) == (4000, 8192)
    assert work["p-half"][2].priority_class is PriorityClass.INTERACTIVE
    assert work["p-pair"][2].priority_class is PriorityClass.BATCH


def test_times_are_the_trace_s_divided_by_the_compression(lists):
    work = played(lists, hours=3, from_hour=0, compress=2)
    assert {i: (at_s, stage.duration_s) for i, (at_s, stage, _) in work.items()} == {
        "p-half": (0, 4 * HOUR_S // 2),
        "p-pair": (HOUR_S // 2, HOUR_S // 2),
        "p-cpu": (2 * HOUR_S // 2, None),
    }


def test_left_out_are_pods_that_had_ended_and_the_older_ones_run_on_with_the_rest(lists):
    work = played(lists, hours=3, from_hour=2, compress=1)
    assert "p-pair" not in work
    assert (work["p-half"][0], work["p-half"][1].duration_s) == (0, 2 * HOUR_S)


def test_without_a_compression_the_whole_list_fits_the_day(lists):
    work = played(lists, hours=1)
    assert len(work) == 3
    assert max(at_s for at_s, _, _ in work.values()) < HOUR_S


def test_with_stay_nothing_ever_ends(lists):
    assert all(stage.is_service for _, stage, _ in played(lists, stay=True).values())


def test_limits_take_evenly_and_what_no_node_could_hold_is_named(lists):
    day = openb_day(lists[0], lists[1], Cut(limit_nodes=1))
    assert sum(g.node_count for g in day.scenario.fleet().sites[0].groups) == 1
    assert any("left out: 2 pods" in note and "p-pair" in note for note in day.notes)  # its P100 is gone
    assert len(played(lists, limit_pods=2)) == 2


def test_a_cut_that_leaves_nothing_says_which_options_to_look_at(lists):
    with pytest.raises(ValueError, match="--from-hour, --hours, --compress"):
        openb_day(lists[0], lists[1], Cut(from_hour=9, compress=1, limit_pods=1))


def test_every_problem_of_both_files_is_named_with_line_and_column(tmp_path):
    (tmp_path / "nodes.csv").write_text("sn,cpu_milli,memory_mib,gpu,model\nn-0,500,0,20,T4\n")
    (tmp_path / "pods.csv").write_text(
        HEAD + "Bad Name,1,1,2,500,,LS,5,1\np-1,1,1,0,0,,LS,,\np-1,1,1,0,0,,LS,1,2\n"
    )
    with pytest.raises(TraceErrors) as caught:
        read_openb(tmp_path / "nodes.csv", tmp_path / "pods.csv")
    said = str(caught.value)
    for expected in (
        "nodes.csv: 3 problems",
        "line 2, cpu_milli",
        "line 2, memory_mib",
        "line 2, gpu:",
        "pods.csv: 5 problems",
        "line 2, name",
        "line 2, gpu_milli",
        "line 2, deletion_time",
        "line 3, creation_time",
        "line 4, name: 'p-1' stands in line 3 already",
    ):
        assert expected in said
