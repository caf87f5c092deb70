#!/usr/bin/env bash
# Resolve every *.in anew into its hashed lock. With names (`tools/lock.sh requirements`) only those.
set -euo pipefail
cd "$(dirname "$0")/.."
inputs=(requirements deploy/local/requirements-java tests/clients/triton tests/clients/kserve)
[ $# -eq 0 ] || inputs=("$@")
cache=${PHANTOM_CACHE_DIR:-.cache}
[ -x "$cache/lock/bin/uv" ] || { python3 -m venv "$cache/lock" && "$cache/lock/bin/pip" install -q uv==0.13.9; }
for input in "${inputs[@]}"; do
  echo "lock: $input" >&2
  "$cache/lock/bin/uv" pip compile --quiet --universal --no-header --generate-hashes --python-version 3.11 \
    --output-file "$input.lock" "$input.in"
done
