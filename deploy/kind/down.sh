#!/usr/bin/env bash
# Delete the kind cluster that up.sh made, with everything in it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need_docker_and_kind
kind delete cluster --name "$CLUSTER"
