"""The files of `make kind-up`, the Dockerfile and the chart agree; nothing is started."""

from __future__ import annotations

import os
import re
import subprocess

import jsonschema
import pytest
import yaml

from tests.kubernetes.conftest import CHART, ROOT

KIND = ROOT / "deploy" / "kind"
# the part of kind's v1alpha4 Cluster that this project uses, closed
KIND_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["kind", "apiVersion", "name", "nodes"],
    "properties": {
        "kind": {"const": "Cluster"},
        "apiVersion": {"const": "kind.x-k8s.io/v1alpha4"},
        "name": {"type": "string", "pattern": "^[a-z0-9.-]+$"},
        "nodes": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["role"],
                "properties": {
                    "role": {"enum": ["control-plane", "worker"]},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
        },
        "networking": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"apiServerAddress": {"const": "127.0.0.1"}},
        },
    },
}


def shell_constant(name: str) -> str:
    text = (KIND / "common.sh").read_text(encoding="utf-8")
    found = re.search(rf"^{name}=(\S+)$", text, re.MULTILINE)
    assert found, name
    return found[1]


def dockerfile_lines() -> list[str]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*(#.*\n\s*)?", " ", text)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def test_the_kind_cluster_has_the_structure_kind_expects():
    config = yaml.safe_load((KIND / "kind.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(config, KIND_SCHEMA)
    assert [node["role"] for node in config["nodes"]].count("control-plane") == 1
    zones = {node["labels"]["topology.kubernetes.io/zone"] for node in config["nodes"] if "labels" in node}
    assert zones == {"cloud", "edge"}


def test_scripts_cluster_and_values_name_the_same_things():
    config = yaml.safe_load((KIND / "kind.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((KIND / "values.yaml").read_text(encoding="utf-8"))
    namespace = yaml.safe_load((KIND / "namespace.yaml").read_text(encoding="utf-8"))
    assert config["name"] == shell_constant("CLUSTER")
    assert f"{values['image']['repository']}:{values['image']['tag']}" == shell_constant("IMAGE")
    assert values["image"]["pullPolicy"] == "Never", "the image is loaded into the nodes, no registry has it"
    assert namespace["metadata"]["name"] == shell_constant("NAMESPACE")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_objects_the_scripts_wait_for_are_in_the_chart(helm):
    release, namespace = shell_constant("RELEASE"), shell_constant("NAMESPACE")
    done = helm("template", release, CHART, "--namespace", namespace, "--values", KIND / "values.yaml")
    kinds = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(done.stdout) if d}
    assert ("StatefulSet", release) in kinds
    assert ("Service", release) in kinds
    [claim] = kinds["StatefulSet", release]["spec"]["volumeClaimTemplates"]
    assert f'"{claim["metadata"]["name"]}-$RELEASE-0"' in (KIND / "smoke.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["up.sh", "down.sh", "smoke.sh", "common.sh"])
def test_scripts_are_sound_bash(script):
    subprocess.run(["bash", "-n", str(KIND / script)], check=True)
    if script != "common.sh":
        assert os.access(KIND / script, os.X_OK)
        assert "set -euo pipefail" in (KIND / script).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("programs", "complaint"),
    [
        ([], "docker is missing"),
        (["docker"], "kind is missing"),
        (["docker", "kind"], "its daemon does not answer"),
    ],
)
@pytest.mark.parametrize("script", ["up.sh", "down.sh"])
def test_what_is_missing_is_said_before_anything_is_done(tmp_path, script, programs, complaint):
    for name in ("dirname", "bash", "cat"):
        source = next(p for p in ("/usr/bin", "/bin") if os.access(f"{p}/{name}", os.X_OK))
        (tmp_path / name).symlink_to(f"{source}/{name}")
    for name in programs:
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / "bash"), str(KIND / script)],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert complaint in done.stderr
    assert done.stdout == ""


def test_the_image_runs_as_the_user_the_chart_names():
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    [user] = [line for line in dockerfile_lines() if line.startswith("USER ")]
    assert user == f"USER {values['security']['runAsUser']}:{values['security']['runAsGroup']}"


def test_the_image_is_installed_from_the_hashed_lock():
    installs = [line for line in dockerfile_lines() if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes --requirement requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation ." in installs[1]


def test_the_base_image_can_be_chosen():
    lines = dockerfile_lines()
    assert lines[0].startswith("ARG BASE=python:3.11-slim")
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]


def test_the_image_starts_the_service_as_the_chart_does(render):
    [container] = render().one("StatefulSet")["spec"]["template"]["spec"]["containers"]
    entry = next(line for line in dockerfile_lines() if line.startswith("ENTRYPOINT"))
    command = next(line for line in dockerfile_lines() if line.startswith("CMD"))
    words = yaml.safe_load(entry.partition(" ")[2]) + yaml.safe_load(command.partition(" ")[2])
    chart_words = container["command"] + [word for arg in container["args"] for word in arg.split("=", 1)]
    assert words == chart_words


def test_everything_copied_into_the_image_passes_dockerignore():
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in dockerfile_lines():
        if line.startswith("COPY") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == allowed
    assert [name for name in copied if not (ROOT / name).exists()] == []
