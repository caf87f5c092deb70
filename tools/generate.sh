#!/usr/bin/env bash
# Generate the Python stubs of every contract in proto/ (and buf/validate beside them) into libs/contracts.
# The stubs are never committed: this is part of set-up, and quick.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
validate=${PHANTOM_CACHE_DIR:-.cache}/proto
out=libs/contracts
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
if [ -f "$validate/buf/validate/validate.proto" ]; then
  rules=(-I "$validate")
else
  "$python" tools/validate_descriptors.py "$stage/validate.binpb"
  rules=(--descriptor_set_in="$stage/validate.binpb")
fi
export PATH="$(dirname "$(command -v "$python")"):$PATH"
mapfile -t protos < <(cd proto && find . -name '*.proto' | sed 's|^\./||' | sort)
"$python" -m grpc_tools.protoc -I proto "${rules[@]}" \
  --python_out="$stage" --pyi_out="$stage" --grpc_python_out="$stage" --mypy_grpc_out=quiet:"$stage" \
  "${protos[@]}" buf/validate/validate.proto
# The SDK loads the Open Inference Protocol into a descriptor pool of its own, from this file.
"$python" -m grpc_tools.protoc -I proto --include_imports --descriptor_set_out="$stage/inference.binpb" inference/grpc_service.proto
sdk=libs/sdk/phantom_ml_studio/inference.binpb
cmp -s "$stage/inference.binpb" "$sdk" || mv "$stage/inference.binpb" "$sdk"
for package in phantom inference buf; do
  mkdir -p "$out/$package"
  # one move per file, so that a running process never sees a half-written module
  (cd "$stage" && find "$package" -type f) | while read -r file; do
    mkdir -p "$out/$(dirname "$file")"
    cmp -s "$stage/$file" "$out/$file" || mv "$stage/$file" "$out/$file"
  done
  # what no longer has a contract
  (cd "$out" && find "$package" -name '*_pb2*' -type f -not -path '*/__pycache__/*') | while read -r file; do
    (cd proto && ls "$(echo "$file" | sed -E 's/_pb2(_grpc)?\.pyi?$/.proto/')" >/dev/null 2>&1) || [ "$package" = buf ] || rm -f "$out/$file"
  done
done
