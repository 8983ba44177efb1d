#!/usr/bin/env bash
# The release answers, and what it was told survives its Pod: helm test, delete the Pod, helm test again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

in_namespace() { kubectl --context "$CONTEXT" --namespace "$NAMESPACE" "$@"; }
helm_test() { helm test "$RELEASE" --kube-context "$CONTEXT" --namespace "$NAMESPACE" --logs --timeout 3m; }

helm_test
volume_before=$(in_namespace get pvc "data-$RELEASE-0" -o jsonpath='{.spec.volumeName}')
in_namespace delete pod "$RELEASE-0" --wait
in_namespace rollout status statefulset/"$RELEASE" --timeout 3m
volume_after=$(in_namespace get pvc "data-$RELEASE-0" -o jsonpath='{.spec.volumeName}')
if [ "$volume_before" != "$volume_after" ]; then
  echo "error: the Pod came back with another volume ($volume_before, then $volume_after)" >&2
  exit 1
fi
helm_test
echo "smoke test passed"
