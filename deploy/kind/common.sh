# What up.sh and down.sh share; sourced, not run.
CLUSTER=suanli
CONTEXT=kind-$CLUSTER
NAMESPACE=suanli
RELEASE=suanli
IMAGE=suanli:kind
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PATH=$ROOT/.tools/bin:$PATH

# need PROGRAM HOW: end with a message when a program is not there
need() {
  command -v "$1" >/dev/null 2>&1 || { echo "error: $1 is missing. $2" >&2; exit 3; }
}

need_docker_and_kind() {
  need docker "Install Docker (or Podman with its docker command), then try again."
  need kind "Install it as its site says (kind.sigs.k8s.io, \"Quick Start\"), then try again."
  docker info >/dev/null 2>&1 || {
    echo "error: docker is installed but its daemon does not answer. Start it, or join its group." >&2
    exit 3
  }
}
