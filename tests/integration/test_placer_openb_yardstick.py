"""The published figures stay beaten: one seed of each openb trace against the means of the best published policy.

The command itself is run as a stranger types it, on files of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import openb
from cluster_sim.traces.openb import read_nodes, read_pods

BARS_AT_100_PERCENT = {"default": 95.9, "gpushare60": 91.4, "gpuspec20": 95.4}


@pytest.mark.parametrize("trace", sorted(BARS_AT_100_PERCENT))
def test_allocation_is_above_the_bar_and_the_published_best(bench_data, trace):
    folder = bench_data / "openb"
    fleet = openb.fleet_of(read_nodes(folder / openb.NODE_LIST))
    pods = read_pods(folder / f"{openb.POD_LIST_PREFIX}{trace}.csv.gz")
    stream = openb.make_stream(pods, fleet.gpu_milli, 42)
    run = openb.place_stream(fleet, pods, stream, 200)
    assert openb.check(fleet, stream, run.placements, 200) == []
    curve = openb.curve_of(fleet, stream, run.placements)
    best = openb.read_published(folder / openb.PUBLISHED)[trace, "FGD"]
    assert curve.at(100) >= BARS_AT_100_PERCENT[trace]
    assert all(curve.at(p) > best[p] for p in (95, 100, 110, 130))


def test_the_module_runs_as_a_command(tmp_path):
    (tmp_path / "nodes.csv").write_text("sn,cpu_milli,memory_mib,gpu,model\nn-0,8000,8192,2,T4\n")
    head = "index,name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
    for name in ("pods", "stream"):
        (tmp_path / f"{name}.csv").write_text(
            head + "0,a,1000,1024,1,500,\n1,b,1000,1024,1,1000,T4\n2,c,1,1,1,1000,P100\n"
        )
    arguments = [
        a for n in ("nodes", "pods", "stream", "out") for a in (f"--{n}", str(tmp_path / f"{n}.csv"))
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.openb", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(openb.__file__).parents[1],
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert "1 dropped" in done.stdout
    assert "0 rules broken, 0 refused" in done.stdout
    assert (tmp_path / "out.csv").read_text() == "0,n-0,0\n1,n-0,1\n2,,\n"
