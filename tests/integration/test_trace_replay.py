"""`suanli simulate --trace`: recorded lists through a real service, as a stranger types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_traces_openb_day import NODES, PODS

REQUESTS = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:{15 + i // 60:02d}:{i % 60:02d}.5000000,{20_000 if i < 300 else 500},{2000 if i < 300 else 50}\n"
    for i in range(600)
)
SMALL_CITY = """extends: songjiang-base
scenario_id: llm-city
title: {en: One cloud, zh: 一云}
keep: {sites: [ai-core, e09-gov], zones: [z3], classes: [W9]}
nodes: {ai-core: {h800x8: 6, h20x8: 2, l40sx8: 2, l20x8: 2, a910bx8: 1, cpu_std: 1}, e09-gov: {l20x4: 1, cpu_edge: 1}}
scale: {cloud_divisor: 32, edge_divisor: 32, source: "assumed: a handful of machines"}
failures: {site_outages: [], cooling_degradations: []}
"""


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "suanli.cli.main", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def kinds(log: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in log.read_text().splitlines()]


def assert_played(done: subprocess.CompletedProcess[str], out: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verify: 0 violations" in done.stdout
    assert "GPUs" in done.stdout and "promised to replicas" in done.stdout
    assert (out / "report.html").stat().st_size > 100_000
    assert "plan.committed" in kinds(out / "suanli.jsonl")


def test_a_small_pod_list_is_placed_through_the_service(tmp_path):
    (tmp_path / "nodes.csv").write_text(NODES)
    (tmp_path / "pods.csv").write_text(PODS)
    out = tmp_path / "run"
    lists = ("--nodes", str(tmp_path / "nodes.csv"), "--pods", str(tmp_path / "pods.csv"))
    done = simulate("--trace", "openb", *lists, "--hours", "2", "--out", str(out))
    assert_played(done, out)
    assert "left out: 1 pods" in " ".join(done.stdout.split())
    assert kinds(out / "suanli.jsonl").count("workload.submitted") == 3
    assert list(out.glob("openb-*/suanli.sqlite")), "it did not go through a service with a store"


def test_a_cut_of_the_published_list_is_placed_through_the_service(tmp_path, bench_data):
    folder, out = bench_data / "openb", tmp_path / "run"
    nodes, pods = folder / "openb_node_list_gpu_node.csv", folder / "openb_pod_list_default.csv.gz"
    cut = ("--limit-pods", "300", "--limit-nodes", "30", "--hours", "4", "--stay")
    done = simulate("--trace", "openb", "--nodes", str(nodes), "--pods", str(pods), *cut, "--out", str(out))
    assert_played(done, out)
    assert "by reason" in done.stdout, (
        "300 pods that stay cannot all fit 30 nodes, so some wait with a reason"
    )


def test_llm_requests_become_replicas_that_follow_them(tmp_path):
    (tmp_path / "requests.csv").write_text(REQUESTS)
    (tmp_path / "city.yaml").write_text(SMALL_CITY, encoding="utf-8")
    out = tmp_path / "run"
    city, requests = str(tmp_path / "city.yaml"), str(tmp_path / "requests.csv")
    done = simulate(city, "--trace", "azure-llm", "--requests", requests, "--out", str(out))
    assert_played(done, out)
    assert "600 requests" in done.stdout and "opens at 18:15" in done.stdout
    events = [json.loads(line) for line in (out / "suanli.jsonl").read_text().splitlines()]
    submitted = [e for e in events if e["kind"] == "workload.submitted" and "chat-4b" in e["subject"]]
    assert len({e["at_s"] for e in submitted}) == 1, "the light second half needs no layer of its own"
    ended = {e["at_s"] for e in events if e["kind"] == "replica.ended" and "chat-4b" in e["subject"]}
    assert len(ended) == 2, "the layer of the heavy first five minutes ends before the base does"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--trace", "swf"), "expected one of openb, azure-llm"),
        (("--trace", "openb"), "needs --nodes and --pods"),
        (("--trace", "azure-llm"), "needs --requests"),
        (("--nodes", "n.csv", "--stay"), "--nodes goes with --trace only\n--stay goes with --trace only"),
        (
            ("--trace", "azure-llm", "--requests", "r.csv", "--limit-pods", "3"),
            "--limit-pods does not go with",
        ),
        (("songjiang-s", "--trace", "openb", "--nodes", "n", "--pods", "p"), "goes without a scenario"),
        (("--trace", "openb", "--nodes", "no-n.csv", "--pods", "no-p.csv"), "no-p.csv: 1 problem"),
    ],
)
def test_what_does_not_fit_together_is_said_at_once(arguments, said):
    done = simulate(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
