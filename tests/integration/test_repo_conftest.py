"""The guards of tests/conftest.py do what they say, tried in a test run of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import asyncio, subprocess, sys, threading, time
import pytest

def test_thread_left():
    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()

def test_child_left():
    test_child_left.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])

def test_task_left():
    loop = asyncio.new_event_loop()
    test_task_left.kept = (loop, loop.create_task(asyncio.sleep(20)))

@pytest.mark.leaks_ok("on purpose")
def test_allowed():
    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()

def test_thread_that_ends():
    threading.Thread(target=time.sleep, args=(0.1,)).start()

def test_clean():
    subprocess.run([sys.executable, "-c", ""], check=True)
    asyncio.run(asyncio.sleep(0))

def test_needs_a_tool(require_tool):
    require_tool("no-such-program")

def test_finds_a_tool(require_tool):
    assert require_tool("sh")

def teardown_module():
    test_child_left.process.kill()
    test_child_left.process.wait()
    loop, task = test_task_left.kept
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
"""


def outcomes(folder: Path, *, ci: str) -> dict[str, str]:
    """Test name -> passed, failed, error or skipped, from a run of TESTS in ``folder / unit``."""
    (folder / "unit").mkdir()
    shared = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    assert "GRACE_S = 2.0" in shared
    (folder / "conftest.py").write_text(shared.replace("GRACE_S = 2.0", "GRACE_S = 0.4"))
    (folder / "unit" / "test_inner.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    leaks_ok(reason): allowed\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-rA",
        "--tb=no",
        "-q",
    ]
    done = subprocess.run(
        [*command, "unit"],
        cwd=folder,
        env={**environment, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        verdict, _, rest = line.partition(" ")
        if verdict in ("PASSED", "FAILED", "ERROR", "SKIPPED") and "::" in rest:
            # a test whose fixture fails at the end is listed as passed and as error: error counts
            name = rest.split("::")[1].split(" ")[0]
            found[name] = verdict.lower() if verdict != "PASSED" or name not in found else found[name]
        elif verdict == "SKIPPED":
            found["skipped"] = rest
    return found


@pytest.mark.timeout(60)
def test_leaks_fail_and_missing_tools_fail_under_ci(tmp_path):
    found = outcomes(tmp_path, ci="true")
    assert found == {
        "test_thread_left": "error",
        "test_child_left": "error",
        "test_task_left": "error",
        "test_allowed": "passed",
        "test_thread_that_ends": "passed",
        "test_clean": "passed",
        "test_needs_a_tool": "failed",
        "test_finds_a_tool": "passed",
    }


def test_a_missing_tool_skips_outside_ci(tmp_path):
    import tests.conftest as shared

    assert shared.find_tool("no-such-program") is None
    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(shared, "UNDER_CI", False)
        with pytest.raises(pytest.skip.Exception, match=r"no-such-program is missing: get it"):
            shared.missing("no-such-program", "get it")
        patch.setattr(shared, "UNDER_CI", True)
        with pytest.raises(pytest.fail.Exception, match="not skipped under CI"):
            shared.missing("no-such-program", "get it")
    finally:
        patch.undo()
