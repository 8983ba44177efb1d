#!/bin/sh
# Write both locks anew from pyproject.toml: hashed, for every platform, naming no index.
# Pins that still fit are kept; `tools/lock.sh --upgrade` looks for newer ones.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    pyproject.toml requirements-build.in "$@"
}
compile --extra dev -o requirements-dev.lock "$@"
# the smaller lock takes its versions from the larger one: an environment can grow from one to the other
compile --extra sim -c requirements-dev.lock -o requirements.lock "$@"
