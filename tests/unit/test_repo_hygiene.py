"""What must not stand in the repository: machine paths, hosts of package indexes, addresses in locks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# a path of one person's machine; /tmp is a mount in the chart and the image, never a file of ours elsewhere
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|Users|home/(?!suanli\b)[a-z]\w*)/[\w.]|[A-Z]:\\Users\\")
INDEX_HOST = re.compile(
    "|".join(
        re.escape(host)
        for host in (
            "pypi" + ".org",
            "files.python" + "hosted.org",
            "registry.npmjs" + ".org",
            "docker" + ".io",
            "gh" + "cr.io",
            "quay" + ".io",
            "buf" + ".build",
            "proxy.golang" + ".org",
        )
    )
)
BINARY_SUFFIXES = {".binpb", ".gz", ".parquet", ".png", ".ico", ".woff2", ".npz", ".tgz"}


def project_files() -> list[Path]:
    """Every file git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Path -> content of the project's text files; vendored files keep their authors' words."""
    found = {}
    for path in project_files():
        name = path.relative_to(ROOT).as_posix()
        if path.suffix not in BINARY_SUFFIXES and "vendor" not in name:
            found[name] = path.read_text(encoding="utf-8", errors="replace")
    return found


def hits(texts: dict[str, str], pattern: re.Pattern[str]) -> list[str]:
    """FILE:LINE: text of every line the pattern finds."""
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts.items()
        if pattern.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_paths_of_a_machine(texts):
    assert hits(texts, MACHINE_PATH) == []


def test_no_host_of_a_package_index(texts):
    assert hits(texts, INDEX_HOST) == []


@pytest.mark.parametrize(
    "line", ["see /" + "work/main/x", '"/root' + '/.cache"', "/home/" + "anna/x", "C:\\" + "Users\\x"]
)
def test_the_pattern_finds_machine_paths(line):
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["x/work/s", "/home/suanli/x", "a/root/b", "work/x", "/tmp"])
def test_the_pattern_leaves_other_paths_alone(line):
    assert not MACHINE_PATH.search(line)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_name_no_address_and_pin_every_package_with_hashes(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    for entry in re.split(r"\n(?=\S)", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)):
        assert re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_developers_lock_contains_the_smaller_one():
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"^([A-Za-z0-9._-]+==\S+)", (ROOT / lock).read_text(), re.MULTILINE))

    assert pins("requirements.lock") <= pins("requirements-dev.lock")


def test_large_files_stay_out():
    large = {path.relative_to(ROOT).as_posix() for path in project_files() if path.stat().st_size > 2_000_000}
    assert large == set()


def test_users_type_checkers_read_our_types():
    assert (ROOT / "suanli" / "py.typed").is_file()
