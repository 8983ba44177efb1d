"""The Makefile tells what it can do, and its defaults are what the README promises."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
INTERNAL = re.compile(r"env-|check-")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make; nothing is installed by the targets used here."""
    # under `make check` this is a make inside a make: forget the outer one's flags
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    command = ["make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def phony_targets() -> set[str]:
    joined = MAKEFILE.replace("\\\n", " ")
    return set(re.search(r"^\.PHONY:(.*)$", joined, re.MULTILINE)[1].split())  # type: ignore[index]


def test_help_is_the_default_and_lists_every_public_target():
    listed = set(re.findall(r"^  ([a-z-]+) +\S", make().stdout, re.MULTILINE))
    public = {name for name in phony_targets() if not INTERNAL.match(name)}
    assert listed == public


def test_every_target_is_phony_or_a_file():
    targets = set(re.findall(r"^([a-z][a-z-]*)(?: [a-z-]+)*:(?!=)", MAKEFILE, re.MULTILINE))
    assert targets - phony_targets() == set()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "suanli demo songjiang-s --engine ray"),
        (["SCENARIO=songjiang-m", "ENGINE=local"], "suanli demo songjiang-m --engine local"),
    ],
)
def test_run_plays_the_scenario_on_the_engine(arguments, command):
    assert command in make("--dry-run", "run", *arguments).stdout


def test_a_missing_python_is_named_before_anything_is_installed(tmp_path):
    done = make("run", f"PYTHON={tmp_path}/python9", f"VENV={tmp_path}/venv")
    assert done.returncode == 2
    assert "no '" in done.stderr
    assert "Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_old_python_is_named_with_its_version(tmp_path):
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    done = make("run", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert done.returncode == 2
    assert "is Python 3.9.2; Suanli needs Python 3.11 or newer" in done.stderr
