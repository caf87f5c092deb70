#!/usr/bin/env bash
# What the tests need to build and run real images: buildah, and a stand-in for python:3.11-slim in a store of our own
# below the cache, so that the machine's images stay as they are. Prints the storage configuration to use
# (CONTAINERS_STORAGE_CONF=…). Where something cannot be had it says what, and exits with 3: the tests then skip.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$(realpath -m "${PHANTOM_CACHE_DIR:-.cache}")/images
base=localhost/python:3.11-slim
missing() { echo "images.sh: no images can be built here: $*" >&2; exit 3; }

[ "$(id -u)" = 0 ] || missing "it takes root to make a base image and to run one"
need=()
command -v buildah >/dev/null || need+=(buildah)
[ -s "$cache/base.tar" ] || command -v mmdebstrap >/dev/null || need+=(mmdebstrap)
if [ ${#need[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || missing "install ${need[*]} (there is no apt-get)"
  echo "images.sh: installing ${need[*]}" >&2
  install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >&2; }
  install || { apt-get update -qq >&2 && install; } || missing "apt-get could not install ${need[*]}"
fi

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ ! -s "$cache/base.tar" ]; then
  echo "images.sh: making a stand-in for $base (a minute or two, once)" >&2
  mmdebstrap --quiet --variant=minbase --include=python3.11,python3.11-venv,adduser,gcc,g++ bookworm "$cache/.base.tar" >&2 ||
    missing "mmdebstrap could not make a base image"
  mv "$cache/.base.tar" "$cache/base.tar"
fi

export CONTAINERS_STORAGE_CONF=$cache/storage.conf
[ -s "$CONTAINERS_STORAGE_CONF" ] || cat >"$CONTAINERS_STORAGE_CONF" <<EOF
[storage]
driver = "${PHANTOM_IMAGES_DRIVER:-overlay}"
graphroot = "$cache/storage"
runroot = "$cache/run"
EOF
export BUILDAH_ISOLATION=chroot
if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  echo "images.sh: importing it" >&2
  import() {
    container=$(buildah from scratch) &&
      buildah add -q "$container" "$cache/base.tar" / >/dev/null &&
      buildah run "$container" -- python3.11 -m venv /usr/local &&
      buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin "$container" &&
      buildah commit -q --rm "$container" "$base" >/dev/null
  }
  import >&2 || missing "buildah could not import the base image"
fi
echo "CONTAINERS_STORAGE_CONF=$CONTAINERS_STORAGE_CONF"
