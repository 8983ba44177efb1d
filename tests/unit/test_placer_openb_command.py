"""The openb benchmark: its command end to end on a small cluster, its own checker, its protocol, its errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import openb
from cluster_sim.traces.openb import TraceNode, TracePod
from solvers.placer import Placement

NODES = [
    TraceNode("b", 16000, 65536, 4, "T4"),
    TraceNode("a", 8000, 32768, 2, "P100"),
    TraceNode("c", 1, 1, 0, ""),
]
PODS = [
    TracePod("p0", 1000, 1024, 1, 500, ()),
    TracePod("p1", 2000, 1024, 1, 1000, ("P100",)),
    TracePod("p2", 1000, 2048, 0, 0, ()),
    TracePod("p3", 4000, 1024, 2, 1000, ()),
]


def write_inputs(folder: Path, stream: list[TracePod]) -> list[str]:
    """Files of the small cluster; returns the command's arguments."""
    paths = {n: folder / f"{n}.csv" for n in ("nodes", "pods", "stream", "out")}
    with paths["nodes"].open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["sn", "cpu_milli", "memory_mib", "gpu", "model"])
        out.writerows([n.sn, n.cpu_milli, n.memory_mib, n.gpu_count, n.gpu_model] for n in NODES)
    columns = ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"]
    for name, pods in (("pods", PODS), ("stream", stream)):
        with paths[name].open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["index", *columns])
            out.writerows(
                [i, p.name, p.cpu_milli, p.memory_mib, p.gpu_count, p.gpu_milli, "|".join(p.gpu_models)]
                for i, p in enumerate(pods)
            )
    return [a for name, path in paths.items() for a in (f"--{name}", str(path))]


def test_the_command_places_checks_and_writes_one_line_per_arrival(tmp_path, capsys):
    stream = [PODS[i] for i in (3, 0, 1, 2, 3, 1, 1, 3)]
    assert openb.main([*write_inputs(tmp_path, stream), "--batch", "3", "--json"]) == 0
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert [r[0] for r in rows] == [str(i) for i in range(len(stream))]
    assert {r[1] for r in rows} <= {"a", "b", ""}
    assert rows[3][1] != ""
    assert rows[3][2] == "", "a pod without GPU gets none"
    assert len(rows[0][2].split("-")) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["violations"] == last["refused"] == 0
    assert last["arrivals"] == len(stream)
    assert last["dropped"] == sum(not r[1] for r in rows) == 3, "5.5 of 6 GPUs go to the first five"


def test_the_checker_finds_each_broken_rule():
    fleet = openb.fleet_of(NODES)
    assert [n.sn for n in fleet.nodes] == ["a", "b"]
    p100, t4 = 0, 1
    cases: dict[str, tuple[list[TracePod], list[Placement | None]]] = {
        "over-committed": ([PODS[1]] * 2, [Placement(p100, 0b1), Placement(p100, 0b1)]),
        "not among its GPU models": ([PODS[1]], [Placement(t4, 0b1)]),
        "asks for 2 GPUs and got 1": ([PODS[3]], [Placement(t4, 0b1)]),
        "asks for 0 GPUs and got 1": ([PODS[2]], [Placement(t4, 0b1)]),
        "dropped although node a has room": ([PODS[1]], [None]),
    }
    for words, (stream, placements) in cases.items():
        wrong = openb.check(fleet, stream, placements, batch=200)
        assert len(wrong) == 1
        assert words in wrong[0]
    assert openb.check(fleet, [PODS[1]] * 2, [Placement(p100, 0b1), Placement(p100, 0b10)], 1) == []


def test_a_pod_counts_as_refused_only_if_there_is_room_when_its_batch_closes():
    """Dropped first, then its room is taken within the batch: cherry-picking, but not refused at the end."""
    fleet = openb.fleet_of(NODES[:1])
    eight = TracePod("x", 0, 0, 4, 1000, ())
    placements = [None, Placement(0, 0b1111)]
    assert openb.check(fleet, [eight, eight], placements, batch=2) == []
    assert len(openb.check(fleet, [eight, eight], placements, batch=1)) == 1


def test_a_placement_that_fails_the_check_ends_with_1_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(openb, "place_batch", lambda placer, requests, prices: [None] * len(requests))
    assert openb.main(write_inputs(tmp_path, PODS)) == 1
    assert "dropped although" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_stream_repeats_pods_until_the_load_is_asked_for_and_depends_on_the_seed_alone():
    fleet = openb.fleet_of(NODES)
    first = openb.make_stream(PODS, fleet.gpu_milli, 7)
    assert first == openb.make_stream(PODS[::-1], fleet.gpu_milli, 7)
    assert sorted(p.name for p in first[: len(PODS)]) == ["p0", "p1", "p2", "p3"]
    asked = sum(p.gpu_count * p.gpu_milli for p in first)
    assert 1.3 * fleet.gpu_milli - 1000 <= asked <= 1.3 * fleet.gpu_milli + 1000
    assert any(openb.make_stream(PODS, fleet.gpu_milli, s) != first for s in range(5))


def test_a_list_above_the_load_is_thinned_and_one_without_gpus_is_refused():
    fleet = openb.fleet_of(NODES)
    many = [TracePod(f"p{i}", 1, 1, 1, 1000, ()) for i in range(50)]
    assert len(openb.make_stream(many, fleet.gpu_milli, 1)) == 7, "1.3 of 6 GPUs"
    with pytest.raises(ValueError, match="no load can be reached"):
        openb.make_stream([PODS[2]], fleet.gpu_milli, 1)


def test_the_curve_is_the_mean_over_arrivals_near_a_point():
    fleet = openb.fleet_of(NODES)
    stream = [TracePod(f"p{i}", 1, 1, 1, 1000, ()) for i in range(6)]
    curve = openb.curve_of(fleet, stream, [Placement(0, 1)] * 3 + [None] + [Placement(0, 1)] * 2)
    assert curve.at(50) == pytest.approx(100 * 3 / 6)
    assert curve.at(100) == pytest.approx(100 * 5 / 6)
    assert curve.first_drop_percent == pytest.approx(100 * 4 / 6)
    assert np.isnan(curve.at(130))


def test_bad_input_is_answered_in_words_with_exit_code_2(tmp_path, capsys):
    arguments = write_inputs(tmp_path, PODS)
    (tmp_path / "stream.csv").write_text("index,name\n0,p\n")
    assert openb.main(arguments) == 2
    assert "the header lacks cpu_milli" in capsys.readouterr().err
    write_inputs(tmp_path, PODS)
    (tmp_path / "nodes.csv").write_text("sn,cpu_milli,memory_mib,gpu,model\nn,1,1,0,\n")
    assert openb.main(arguments) == 2
    assert "no node with a GPU" in capsys.readouterr().err
    arguments = write_inputs(tmp_path, PODS)
    assert openb.main([*arguments[:-1], str(tmp_path / "absent" / "out.csv")]) == 2
    assert "No such file" in capsys.readouterr().err
    for wrong in ([], ["--family", "x", "--nodes", "y"], [*arguments, "--batch", "0"], ["--seeds", "9-3"]):
        with pytest.raises(SystemExit) as stop:
            openb.main(wrong)
        assert stop.value.code == 2
    assert openb.main(["--family", str(tmp_path / "absent")]) == 2


def test_a_family_tells_where_each_seed_drops_its_first_pod(tmp_path, capsys):
    inputs = write_inputs(tmp_path, PODS)
    (tmp_path / "family").mkdir()
    for name, target in ((1, openb.NODE_LIST), (3, f"{openb.POD_LIST_PREFIX}small.csv")):
        (tmp_path / "family" / target).write_text(Path(inputs[name]).read_text())
    assert openb.main(["--family", str(tmp_path / "family"), "--seeds", "42,43", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    (trace,) = last["traces"]
    fleet = openb.fleet_of(NODES)
    streams = [openb.make_stream(PODS, fleet.gpu_milli, seed) for seed in (42, 43)]
    first = [
        openb.curve_of(fleet, s, openb.place_stream(fleet, PODS, s, 200).placements).first_drop_percent
        for s in streams
    ]
    assert trace["trace"] == "small"
    assert trace["first_drop_percent"] == pytest.approx([round(p, 4) for p in first])
    assert all(50 < p <= 130 for p in first), "six GPUs cannot take 130 % of themselves"
