"""`suanli dev` told to terminate closes the city in order, on either engine, and says so."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

UP = "standing services submitted"
TERMINATED = 128 + signal.SIGTERM


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_sigterm_closes_the_city_without_a_word_on_stderr(engine: str, tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "suanli.cli.main",
        "dev",
        "tiny-cloud-edge",
        "--engine",
        engine,
        "--port",
        "0",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as city:
        assert city.stdout is not None
        said = iter(city.stdout.readline, "")
        assert any(UP in line for line in said), "the city never came up"
        city.terminate()
        rest, errors = city.communicate(timeout=60)
    assert "the city closes" in rest
    assert errors == ""
    assert city.returncode == TERMINATED
