"""Rendering the chart: ``render(values_file, *options)`` gives the documents helm would send."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "suanli"
VALUES = Path(__file__).parent / "values"
VALUES_FILES = {
    "default": None,
    "everything": VALUES / "everything.yaml",
    "small": VALUES / "small.yaml",
    "existing-claim": VALUES / "existing-claim.yaml",
    "kind": ROOT / "deploy" / "kind" / "values.yaml",
}
PROMETHEUS = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")


@dataclass(frozen=True)
class Rendered:
    """What helm template answered: exit code, text, message, documents."""

    code: int
    text: str
    message: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The rendered objects; helm must have succeeded."""
        assert self.code == 0, self.message
        return [document for document in yaml.safe_load_all(self.text) if document]

    def one(self, kind: str, name: str | None = None) -> dict[str, Any]:
        """The only object of a kind (and name)."""
        found = [d for d in self.documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
        assert len(found) == 1, [(d["kind"], d["metadata"]["name"]) for d in self.documents]
        return found[0]

    def kinds(self) -> set[str]:
        """Kinds of all rendered objects."""
        return {document["kind"] for document in self.documents}


@pytest.fixture(scope="session")
def helm(require_tool, tmp_path_factory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Function running helm with scratch folders of its own."""
    scratch = tmp_path_factory.mktemp("helm")
    environment = {f"HELM_{name}_HOME": str(scratch / name) for name in ("CACHE", "CONFIG", "DATA")}
    program = require_tool("helm")

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm) -> Callable[..., Rendered]:
    """Function (values name, more helm options) -> Rendered; results are kept for the session."""
    kept: dict[tuple[str, ...], Rendered] = {}

    def run(values: str = "default", *options: str) -> Rendered:
        if (values, *options) not in kept:
            file = VALUES_FILES[values]
            chosen = ["--values", file] if file else []
            done = helm("template", "city", CHART, "--namespace", "suanli", *chosen, *options)
            kept[(values, *options)] = Rendered(done.returncode, done.stdout, done.stderr)
        return kept[(values, *options)]

    return run


@pytest.fixture(params=VALUES_FILES)
def rendered(request, render) -> Rendered:
    """The chart under each values file in turn, on a cluster with Prometheus."""
    return render(request.param, *PROMETHEUS)
