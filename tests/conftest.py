"""What every test folder shares.

- ``require_tool``: the path of a program; without it the test is skipped, and fails under CI;
- ``golden``: compare text with a committed file, or rewrite it with ``--update-goldens``;
- ``run_dir``: a folder with a path short enough for Ray's sockets;
- an automatic fixture that fails unit and integration tests which leave threads, asyncio tasks or child
  processes behind (``@pytest.mark.leaks_ok("why")`` where that is meant);
- Hypothesis profiles: ``ci`` (under CI, same examples every time), ``dev`` and ``thorough``
  (``HYPOTHESIS_PROFILE=thorough``).
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import gc
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
UNDER_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

HOW_TO_INSTALL = {
    "helm": "make tools",
    "kubectl": "make tools",
    "buf": "make check installs it into .venv",
    "kind": "see deploy/kind/README.md",
    "docker": "see deploy/kind/README.md",
}

# ---------------------------------------------------------------- Hypothesis

# example databases make a failure depend on what failed before: only local exploration keeps one
settings.register_profile(
    "ci", derandomize=True, database=None, deadline=None, max_examples=100, print_blob=True
)
settings.register_profile("dev", derandomize=True, database=None, deadline=None, max_examples=40)
settings.register_profile(
    "thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if UNDER_CI else "dev"))


# ---------------------------------------------------------------- tools


def find_tool(name: str) -> str | None:
    """Path of a program: the project's own first (.tools/bin, .venv/bin), then PATH."""
    for folder in (ROOT / ".tools" / "bin", ROOT / ".venv" / "bin"):
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    return shutil.which(name)


def missing(what: str, how_to_install: str) -> None:
    """Skip the running test because ``what`` is not there; under CI fail it."""
    text = f"{what} is missing: {how_to_install}"
    if UNDER_CI:
        pytest.fail(f"{text} (tests are not skipped under CI)", pytrace=False)
    pytest.skip(text)


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Function from a program's name to its path; skips, or fails under CI, when there is none."""

    def require(name: str) -> str:
        path = find_tool(name)
        if path is None:
            missing(name, HOW_TO_INSTALL.get(name, "install it and put it on PATH"))
        assert path is not None
        return path

    return require


@pytest.fixture(scope="session")
def bench_data() -> Path:
    """The folder of yardstick data named by SUANLI_BENCH_DATA; skips, or fails under CI, without it."""
    folder = os.environ.get("SUANLI_BENCH_DATA", "")
    if not folder or not Path(folder).is_dir():
        missing("the yardstick data", "set SUANLI_BENCH_DATA to the folder that holds it")
    return Path(folder)


# ---------------------------------------------------------------- goldens


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-goldens", action="store_true", help="rewrite golden files instead of comparing"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Function (file, text): assert that the file holds the text, or write it with --update-goldens."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-goldens"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"{path} does not exist yet: make goldens"
        expected = path.read_text(encoding="utf-8")
        if text != expected:
            lines = difflib.unified_diff(
                expected.splitlines(), text.splitlines(), "committed", "now", lineterm="", n=2
            )
            pytest.fail("\n".join([*lines, "", "If this is meant: make goldens"]), pytrace=False)

    return compare


# ---------------------------------------------------------------- folders


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """An empty folder with a short path: a socket path has 107 bytes, and Ray adds about 65 of its own."""
    path = Path(tempfile.mkdtemp(prefix="s-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------- leaks

WATCHED_FOLDERS = ("unit", "integration")
GRACE_S = 2.0
# threads and processes that a library starts once and keeps: they belong to the test run, not to a test
LASTING_THREADS = ("pytest_timeout", "execnet", "ray", "grpc", "asyncio_waitpid", "QueueFeederThread")
LASTING_CHILDREN = ("resource_tracker", "forkserver")


def _threads() -> set[threading.Thread]:
    return {
        thread
        for thread in threading.enumerate()
        if thread.is_alive() and not any(name in thread.name for name in LASTING_THREADS)
    }


def _pending_tasks() -> set[asyncio.Task[Any]]:
    # all_tasks() wants a running loop; the registries behind it know the tasks of every loop
    found: set[asyncio.Task[Any]] = set()
    for registry in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
        with contextlib.suppress(AttributeError, RuntimeError):
            found |= {task for task in getattr(asyncio.tasks, registry) if not task.done()}
    return found


def _children() -> set[int]:
    """Ids of this process's living children (Linux; elsewhere the empty set)."""
    # /proc/PID/task/TID/children is only promised to be complete while the children are stopped
    me = os.getpid()
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return {pid for pid in pids if _parent_of(pid) == me and not _is_zombie_or_lasting(pid)}


def _parent_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None  # it ended meanwhile
    # pid (name) state parent ...: the name may hold spaces and brackets
    return int(stat.rpartition(")")[2].split()[1])


def _is_zombie_or_lasting(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return True
    return command == "" or any(name in command for name in LASTING_CHILDREN)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a watched test that leaves threads, tasks or children running ``GRACE_S`` after its end."""
    watched = any(parent.name in WATCHED_FOLDERS for parent in request.path.parents)
    if not watched or request.node.get_closest_marker("leaks_ok"):
        yield
        return
    before = (_threads(), _pending_tasks(), _children())
    yield
    deadline_s = time.monotonic() + GRACE_S
    while True:
        left = (_threads() - before[0], _pending_tasks() - before[1], _children() - before[2])
        if not any(left):
            return
        if time.monotonic() > deadline_s:
            break
        gc.collect()  # a task or pool nobody refers to any more is not a leak
        time.sleep(0.02)
    threads, tasks, children = left
    names = [f"thread {thread.name}" for thread in threads]
    names += [f"task {task.get_name()}: {task.get_coro()}" for task in tasks]
    names += [f"process {pid}: {_command(pid)}" for pid in children]
    pytest.fail("left running after the test: " + "; ".join(sorted(names)), pytrace=False)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()[:120]
    return "?"
