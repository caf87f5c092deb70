#!/usr/bin/env bash
# Environments of foreign clients, each from its own hashed lock: they cannot share a process, nor our dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${PHANTOM_CACHE_DIR:-.cache}/clients
python=${PYTHON:-.venv/bin/python}
for lock in tests/clients/*.lock; do
  name=$(basename "$lock" .lock)
  want=$(cat "$lock" <("$python" --version) | sha256sum | cut -d' ' -f1)
  [ "$(cat "$cache/$name/.stamp" 2>/dev/null)" = "$want" ] && continue
  echo "clients: making $cache/$name" >&2
  rm -rf "${cache:?}/$name"
  "$python" -m venv "$cache/$name"
  "$cache/$name/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r "$lock"
  echo "$want" >"$cache/$name/.stamp"
done
