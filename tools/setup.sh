#!/usr/bin/env bash
# Everything a fresh clone needs, in the checkout: .venv, .cache and the generated stubs. Quick when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${PHANTOM_CACHE_DIR:-.cache}
say() { printf 'setup: %s\n' "$*" >&2; }

find_python() {
  local candidate
  for candidate in ${PHANTOM_PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  say "Python 3.11 or newer is needed (Debian: apt-get install python3.11 python3.11-venv), or name one in PHANTOM_PYTHON"
  exit 1
}

# One digest of everything that decides what is installed; a stamp with another one means: install.
digest_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

python=$(find_python)
if [ ! -x .venv/bin/python ]; then
  say "making .venv with $("$python" --version)"
  "$python" -m venv .venv || { rm -rf .venv; say "no venv module: apt-get install python3-venv"; exit 1; }
fi

want=$(digest_of requirements.lock <(.venv/bin/python --version))
if [ "$(cat .venv/.requirements 2>/dev/null)" != "$want" ]; then
  say "installing what requirements.lock names (about two minutes the first time)"
  .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
  echo "$want" >.venv/.requirements
fi

export PYTHONPATH=deploy/local
if ! .venv/bin/python -m phantom_local.embedded.java >/dev/null 2>&1; then
  say "no Java 17 or newer on this machine: installing one into .venv"
  .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r deploy/local/requirements-java.lock
fi
if [ ! -d "$cache/kafka" ]; then say "fetching Apache Kafka with Maven"; fi
if ! .venv/bin/python -m phantom_local.embedded.kafka; then
  # With servers of one's own the jars are not needed, and the rules of the protos come out of a wheel.
  [ -n "${PHANTOM_KAFKA_BOOTSTRAP:-}" ] && [ -n "${PHANTOM_POSTGRES_DSN:-}" ] || exit 1
  say "going on without Kafka's jars, with the servers that PHANTOM_KAFKA_BOOTSTRAP and PHANTOM_POSTGRES_DSN name"
fi
unset PYTHONPATH
# buf.yaml names validate.proto below .cache, wherever the cache really is.
if [ -d "$cache/proto" ] && [ ! -e .cache/proto ]; then mkdir -p .cache && ln -sfn "$(realpath "$cache/proto")" .cache/proto; fi

want=$(digest_of tools/generate.sh requirements.lock <(find proto $(ls -d "$cache/proto" 2>/dev/null || true) -name '*.proto' | sort | xargs cat))
if [ "$(cat .venv/.generated 2>/dev/null)" != "$want" ] || [ ! -d libs/contracts/phantom ]; then
  say "generating stubs from proto/"
  tools/generate.sh
  echo "$want" >.venv/.generated
fi

packages=(libs/*/ services/*/ deploy/local/ demo/)
want=$(digest_of "${packages[@]/%/pyproject.toml}" <(printf '%s\n' "$PWD" "${packages[@]}"))
if [ "$(cat .venv/.packages 2>/dev/null)" != "$want" ]; then
  say "installing our packages"
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat "${packages[@]/#/-e}"
  echo "$want" >.venv/.packages
fi
