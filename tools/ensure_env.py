"""Make or refresh the project's virtual environment; a no-op when it already fits.

Run by the Makefile with any Python >= 3.11 that has the venv module; needs the standard library only.

    python tools/ensure_env.py run     for `make run`: requirements.lock
    python tools/ensure_env.py dev     for `make check` and `make test`: requirements-dev.lock, a superset

What is installed is noted in ``.venv/suanli-environment.json`` as hashes of the lock and of pyproject.toml,
so an edit of either is picked up by the next ``make``; a developers' environment also serves ``run``. An
exclusive file lock makes a second ``make`` in the same checkout wait; the system drops it with its holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {"run": "requirements.lock", "dev": "requirements-dev.lock"}
NOTE = "suanli-environment.json"
# where pip would put things elsewhere than into the environment we made, or read other modules than its own
FOREIGN_SETTINGS = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "PYTHONPATH", "PYTHONHOME")
SECONDS_BETWEEN_LOG_LINES = 10.0


class InstallError(RuntimeError):
    """The environment could not be made; the message says what to do."""


@dataclass(frozen=True)
class Installed:
    """What stands in an environment: its place, which lock, and the hashes of lock and project."""

    venv: str
    kind: str
    lock_sha256: str
    project_sha256: str


def main(kind: str, venv: Path) -> None:
    """Bring ``venv`` to what ``kind`` needs.

    Raises:
        InstallError: when Python lacks a module, or pip fails.
    """
    with _only_one_installer(venv):
        before = _read_note(venv)
        if before is not None and before.venv != str(venv):
            print(f"{venv.name} was moved here from {before.venv}: making it anew", flush=True)
            before = None
            _create(venv)
        elif not _usable(venv):
            before = None
            _create(venv)
        if not (before and _serves(before, kind)):
            _note_path(venv).unlink(missing_ok=True)
            _install_lock(venv, kind)
            before = None
        project_sha256 = _project_hash()
        if before is None or before.project_sha256 != project_sha256:
            _install_project(venv)
            installed_kind = before.kind if before else kind
            after = Installed(str(venv), installed_kind, _lock_hash(installed_kind), project_sha256)
            _note_path(venv).write_text(json.dumps(asdict(after), indent=2) + "\n", encoding="utf-8")


def _serves(installed: Installed, kind: str) -> bool:
    return installed.kind in (kind, "dev") and installed.lock_sha256 == _lock_hash(installed.kind)


@contextlib.contextmanager
def _only_one_installer(venv: Path) -> Iterator[None]:
    with venv.with_name(venv.name + ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another make is installing in this checkout: waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _create(venv: Path) -> None:
    try:
        import ensurepip  # noqa: F401  (Debian ships venv without it)
        import venv as venv_module
    except ImportError as error:
        raise InstallError(
            f"{sys.executable} has no {error.name} module. On Debian and Ubuntu: apt install python3-venv"
        ) from error
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"making {venv.name} with Python {version}", flush=True)
    venv_module.EnvBuilder(clear=True, with_pip=True, symlinks=os.name != "nt").create(venv)


def _usable(venv: Path) -> bool:
    """Whether the environment's Python starts, is new enough and has pip."""
    python = venv / "bin" / "python"
    probe = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    if not python.exists():
        return False
    return subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0


def _install_lock(venv: Path, kind: str) -> None:
    lock = LOCKS[kind]
    print(f"installing {lock} into {venv.name}: about a minute, once", flush=True)
    _pip(venv, ["install", "--require-hashes", "--requirement", lock], show_progress=True)


def _install_project(venv: Path) -> None:
    _pip(venv, ["install", "--no-deps", "--no-build-isolation", "--editable", "."], show_progress=False)


def _pip(venv: Path, arguments: list[str], *, show_progress: bool) -> None:
    """Run pip in the environment, quiet but for a line of progress; on failure show the end of what it said.

    Raises:
        InstallError: when pip ends with an error.
    """
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_SETTINGS}
    environment.update(
        PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PYTHONUNBUFFERED="1"
    )
    command = [str(venv / "bin" / "python"), "-m", "pip", *arguments, "--progress-bar", "off"]
    progress = _Progress(sys.stdout.isatty()) if show_progress else None
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            if progress:
                progress.heard(line)
    if progress:
        progress.close()
    if process.returncode != 0:
        raise InstallError("\n".join([*said[-15:], "", "pip failed: see the lines above"]))


class _Progress:
    """One line on a terminal, rewritten; a line now and then in a log."""

    def __init__(self, on_terminal: bool) -> None:
        self.on_terminal = on_terminal
        self.started_s = time.monotonic()
        self.printed_s = self.started_s
        self.packages = 0

    def heard(self, line: str) -> None:
        """Count what pip reports and print when it is time."""
        if collecting := re.match(r"Collecting ([A-Za-z0-9._-]+)", line):
            self.packages += 1
            self._print(f"{self.packages} packages fetched, now {collecting[1]}")
        elif line.startswith("Installing collected packages"):
            self._print(f"{self.packages} packages fetched, unpacking them", force=True)

    def close(self) -> None:
        """End the line with what it took."""
        seconds = time.monotonic() - self.started_s
        end = f"  {self.packages or 'no new'} packages installed in {seconds:.0f} s"
        print(f"\r\033[K{end}" if self.on_terminal else end, flush=True)

    def _print(self, text: str, *, force: bool = False) -> None:
        now_s = time.monotonic()
        if self.on_terminal:
            print(f"\r\033[K  {text}", end="", flush=True)
        elif force or now_s - self.printed_s >= SECONDS_BETWEEN_LOG_LINES:
            self.printed_s = now_s
            print(f"  {text}", flush=True)


def _lock_hash(kind: str) -> str:
    return hashlib.sha256((ROOT / LOCKS[kind]).read_bytes()).hexdigest()


def _project_hash() -> str:
    """Hash of what an editable install depends on: names, scripts and build settings, not the linters'."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    relevant = [whole["build-system"], whole["project"], whole.get("tool", {}).get("hatch", {})]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def _note_path(venv: Path) -> Path:
    return venv / NOTE


def _read_note(venv: Path) -> Installed | None:
    try:
        return Installed(**json.loads(_note_path(venv).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # never finished, or written by another version: install again


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in LOCKS:
        sys.exit(f"usage: {sys.argv[0]} run|dev [FOLDER]")
    folder = Path(sys.argv[2] if len(sys.argv) == 3 else ".venv")
    try:
        main(sys.argv[1], ROOT / folder)
    except InstallError as error:
        sys.exit(f"error: {error}")
