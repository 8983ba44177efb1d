"""`.ci/run` in a clone with shared data beside it: which targets it makes, in which order, with which surroundings."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with .ci/run, ../shared/data, and a make that writes down how it was called."""
    clone = tmp_path / "clone"
    (clone / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", clone / ".ci" / "run")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    recorder = tmp_path / "bin" / "make"
    recorder.write_text(
        '#!/bin/sh\necho "$PWD|$*|$CI|$SUANLI_BENCH_DATA" >> "$RECORD"\n[ "$1" != "$FAIL_AT" ]\n',
        encoding="utf-8",
    )
    recorder.chmod(0o755)
    return clone


def run_ci(clone: Path, fail_at: str = "") -> tuple[int, list[list[str]]]:
    """Exit code, and one [folder, arguments, CI, data] per call of make."""
    record = clone.parent / "record"
    environment = {
        "PATH": f"{clone.parent / 'bin'}:{os.environ['PATH']}",
        "RECORD": str(record),
        "FAIL_AT": fail_at,
    }
    # started from elsewhere, as `bash CLONE/.ci/run` may be
    done = subprocess.run(
        ["bash", str(clone / ".ci" / "run")],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [line.split("|") for line in record.read_text().splitlines()]


def test_tests_come_first_and_then_the_main_job(clone):
    code, calls = run_ci(clone)
    data = str(clone.parent / "shared" / "data")
    assert code == 0
    assert calls == [[str(clone), "test", "true", data], [str(clone), "run", "true", data]]


def test_a_failing_test_ends_it(clone):
    code, calls = run_ci(clone, fail_at="test")
    assert code != 0
    assert [arguments for _, arguments, _, _ in calls] == ["test"]


def test_a_failing_run_fails_it(clone):
    code, _ = run_ci(clone, fail_at="run")
    assert code != 0


def test_missing_data_is_left_to_the_tests_that_need_it(clone):
    shutil.rmtree(clone.parent / "shared")
    code, calls = run_ci(clone)
    assert code == 0
    assert calls[0][3] == ""
