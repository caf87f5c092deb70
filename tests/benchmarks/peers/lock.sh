#!/usr/bin/env bash
# Resolve the peers' requirements anew into their hashed locks. With names (`lock.sh kserve`) only those.
set -euo pipefail
cd "$(dirname "$0")/../../.."
cache=${PHANTOM_CACHE_DIR:-.cache}
peers=(mlserver kserve bentoml litserve ray_serve envoy)
[ $# -eq 0 ] || peers=("$@")
[ -x "$cache/lock/bin/uv" ] || { python3 -m venv "$cache/lock" && "$cache/lock/bin/pip" install -q uv==0.13.9; }
for peer in "${peers[@]}"; do
  echo "lock: tests/benchmarks/peers/$peer" >&2
  "$cache/lock/bin/uv" pip compile --quiet --no-header --generate-hashes --python-version 3.11 \
    --overrides tests/benchmarks/peers/overrides.txt \
    --output-file "tests/benchmarks/peers/$peer/requirements.lock" "tests/benchmarks/peers/$peer/requirements.in"
done
