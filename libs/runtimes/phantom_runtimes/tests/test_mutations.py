"""Damaged files never crash the process that loads them: hundreds of mutations, in a child process."""

import copy
import json
import random
import subprocess
import sys

import pytest

from phantom_runtimes.tests.conftest import MIXED, NUMBERS

CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from phantom_contracts.schema import ModelSchema
from phantom_runtimes import Invalid, load

framework, schema, folder = sys.argv[1], ModelSchema.model_validate_json(sys.argv[2]), Path(sys.argv[3])
matrix = np.random.default_rng(0).normal(size=(64, len(schema.features))).astype(np.float32)
counts = {}
for path in sorted(folder.iterdir()):
    print(path.name, file=sys.stderr, flush=True)
    try:
        load(path, framework, schema).predict(matrix)
        what = "loaded"
    except Invalid as error:
        what = error.code
    counts[what] = counts.get(what, 0) + 1
print("COUNTS", json.dumps(counts))
"""


def mutated(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    kind = rng.randrange(5)
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = rng.randrange(len(changed))
        if kind == 0:
            changed[place] = rng.randrange(256)
        elif kind == 1:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del changed[place : place + rng.choice([1, 4, 100])]
        elif kind == 3:
            changed[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 16])))
        elif changed[place : place + 1].isdigit():
            changed[place] = rng.choice(b"0123456789-")
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.05 else changed)


STRANGE = [
    -1, 0, 1, 7, 2**31 - 1, 2**31, 2**63 - 1, -(2**31), 1e39, -1e300, "0", "-1", "99999999999", "", None, True,
    [], {}, [0], [[0]], {"a": 1}, 1.5,
]  # fmt: skip


def places(value, rng, path=()):
    """Paths into a document; of a long list some elements only."""
    keys = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        keys = rng.sample(range(len(value)), min(len(value), 3))
    for key in keys:
        yield (*path, key)
        yield from places(value[key], rng, (*path, key))


def rebuilt(document, rng):
    """The document with one to three of its values replaced, removed, cut or doubled."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2, 3])):
        path = rng.choice(list(places(changed, rng)))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        last, kind = path[-1], rng.randrange(5)
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(holder[last], list):
            holder[last] = holder[last][: rng.randrange(len(holder[last]) + 1)]
        elif kind == 2 and isinstance(holder[last], list):
            holder[last] = holder[last] * 2
        else:
            holder[last] = rng.choice(STRANGE)
    return changed


@pytest.mark.parametrize(("name", "schema"), [("binary", NUMBERS), ("category", MIXED)])
def test_a_well_formed_document_with_strange_values_is_refused_or_harmless(
    name, schema, boosters, folder, tmp_path
):
    rng = random.Random(name)
    document = json.loads((folder / f"{name}.json").read_text())
    for number in range(250):
        (tmp_path / f"{number:03}").write_text(json.dumps(rebuilt(document, rng)))
    counts = run("xgboost", schema, tmp_path)
    assert sum(counts.values()) == 250
    assert counts["corrupt_model"] > 100, counts


def run(framework, schema, folder):
    child = subprocess.run(
        [sys.executable, "-c", CHILD, framework, schema.model_dump_json(), str(folder)],
        capture_output=True,
        timeout=150,
        check=False,
    )
    last = child.stderr.decode(errors="replace").splitlines()[-5:]
    assert child.returncode == 0, f"ended with {child.returncode} at {last}"
    return json.loads(child.stdout.decode().rsplit("COUNTS", 1)[1])


@pytest.mark.parametrize(
    ("name", "suffix", "framework", "schema"),
    [
        ("binary", "json", "xgboost", NUMBERS),
        ("binary", "ubj", "xgboost", NUMBERS),
        ("category", "json", "xgboost", MIXED),
        ("category", "ubj", "xgboost", MIXED),
        ("binary", "onnx", "onnx", NUMBERS),
    ],
)
def test_a_damaged_file_is_refused_or_harmless(
    name, suffix, framework, schema, boosters, onnx_binary, folder, tmp_path
):
    rng = random.Random(f"{name}.{suffix}")
    raw = (folder / f"{name}.{suffix}").read_bytes()
    for number in range(150):
        (tmp_path / f"{number:03}").write_bytes(mutated(raw, rng))
    counts = run(framework, schema, tmp_path)
    assert sum(counts.values()) == 150
    assert counts.get("corrupt_model", 0) > 10, counts
