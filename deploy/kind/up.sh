#!/usr/bin/env bash
# Build the image, make a kind cluster (or keep the one there is), install the chart, and smoke-test it.
#   make kind-up
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need_docker_and_kind
need helm "make tools fetches it for Linux on x86-64."
need kubectl "make tools fetches it for Linux on x86-64."

step() { printf '\n== %s\n' "$1"; }

step "image $IMAGE"
docker build --tag "$IMAGE" "$ROOT"

step "cluster $CLUSTER"
if kind get clusters 2>/dev/null | grep -qx "$CLUSTER"; then
  echo "already there"
else
  kind create cluster --config "$ROOT/deploy/kind/kind.yaml" --wait 120s
fi
kind load docker-image "$IMAGE" --name "$CLUSTER"

step "namespace $NAMESPACE, held to Pod Security restricted"
kubectl --context "$CONTEXT" apply -f "$ROOT/deploy/kind/namespace.yaml"

step "chart"
helm upgrade --install "$RELEASE" "$ROOT/helm/suanli" \
  --kube-context "$CONTEXT" --namespace "$NAMESPACE" \
  --values "$ROOT/deploy/kind/values.yaml" --wait --timeout 5m
# the image's tag stays the same from build to build: make the Pod take the one just loaded
kubectl --context "$CONTEXT" --namespace "$NAMESPACE" rollout restart statefulset/"$RELEASE"
kubectl --context "$CONTEXT" --namespace "$NAMESPACE" rollout status statefulset/"$RELEASE" --timeout 5m

step "smoke test"
"$ROOT/deploy/kind/smoke.sh"

cat <<EOF

Suanli runs on kind. To talk to it:
  kubectl --context $CONTEXT --namespace $NAMESPACE port-forward service/$RELEASE 7470 &
  SUANLI_ADDRESS=127.0.0.1:7470 .venv/bin/suanli sites
and to remove it: make kind-down
EOF
