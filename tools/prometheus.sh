#!/usr/bin/env bash
# Print the path of a real Prometheus: the one on PATH, else the binary of Debian's package, unpacked into the cache.
# The package is not installed, so no service starts.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v prometheus; then exit 0; fi
cache=${PHANTOM_CACHE_DIR:-$PWD/.cache}
binary=$cache/prometheus/usr/bin/prometheus
if [ ! -x "$binary" ]; then
  command -v apt-get dpkg >/dev/null || { echo "prometheus.sh: install Prometheus and put it on PATH" >&2; exit 1; }
  mkdir -p "$cache"
  stage=$(mktemp -d "$cache/.prometheus-XXXXXX")
  trap 'rm -rf "$stage"' EXIT
  fetch() { (cd "$stage" && apt-get download -qq prometheus >&2); }
  fetch || { apt-get update -qq >&2 && fetch; }
  dpkg -x "$stage"/prometheus_*.deb "$stage/root"
  rm -rf "$cache/prometheus"
  mv "$stage/root" "$cache/prometheus"
fi
echo "$binary"
