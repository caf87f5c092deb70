"""Datasets: what is read, and each refusal by name."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from phantom_contracts.schema import Feature, ModelSchema, Outcome
from phantom_platform.errors import Invalid, NotFound, PhantomError, Refused, Unsupported
from phantom_probing.bounds import Bounds
from phantom_probing.dataset_files import Access, Dataset
from phantom_probing.datasets import Labelled
from phantom_probing.datasets import read as read_with

SCHEMA = ModelSchema(
    features=(
        Feature(name="amount", type="float"),
        Feature(name="hour", type="int", allows_missing=False),
        Feature(name="night", type="bool"),
        Feature(name="channel", type="string", categories=("web", "shop"), required=False),
    ),
    class_labels=("legit", "fraud"),
    outcome=Outcome(field="actual_fraud", type="bool", mapping={"true": "fraud", "false": "legit"}),
)
CSV = """id,amount,hour,night,channel,actual_fraud
a,1.5,3,true,web,true
b,,4,0,,False
c,nan,5,1,phone,0
"""
JSON_LINES = """{"id": "a", "amount": 1.5, "hour": 3, "night": true, "channel": "web", "actual_fraud": true}
{"id": "b", "amount": null, "hour": 4, "night": false, "actual_fraud": false}

{"id": "c", "hour": 5, "night": 1, "channel": "phone", "actual_fraud": "legit"}
"""


def registered(path: Path, content: str | bytes) -> Dataset:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Dataset("checks", "1", path.as_uri(), f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")


def read(
    dataset: Dataset, schema: ModelSchema, expected_column: str = "", id_column: str = "", **more: Any
) -> Labelled:
    """From anywhere, unless told otherwise."""
    access = Access(more.pop("roots", (Path("/"),)), Bounds(**more))
    return read_with(dataset, schema, access, expected_column, id_column)


def as_parquet(path: Path) -> bytes:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "amount": [1.5, None, None],
            "hour": [3, 4, 5],
            "night": [True, False, True],
            "channel": ["web", None, "phone"],
            "actual_fraud": [True, False, False],
        }
    )
    frame.to_parquet(path)
    return path.read_bytes()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_format_has_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"my checks.{ending}"
    contents = {"csv": lambda: CSV, "jsonl": lambda: JSON_LINES, "parquet": lambda: as_parquet(path)}
    found = read(registered(path, contents[ending]()), SCHEMA, id_column="id")
    assert found.ids == ["a", "b", "c"]
    assert found.expected == ["fraud", "legit", "legit"]
    assert found.rows.count == 3
    np.testing.assert_array_equal(found.rows.columns["amount"], [1.5, np.nan, np.nan])
    np.testing.assert_array_equal(found.rows.columns["hour"], [3, 4, 5])
    np.testing.assert_array_equal(found.rows.columns["night"], [1, 0, 1])
    assert found.rows.columns["channel"] == ["web", "", "phone"]


def test_labels_may_be_class_labels_in_a_column_of_their_own(tmp_path: Path) -> None:
    dataset = registered(tmp_path / "a.csv", "amount,hour,night,truth\n1,2,1,fraud\n1,2,1,legit\n")
    found = read(dataset, SCHEMA, expected_column="truth")
    assert found.expected == ["fraud", "legit"]
    assert found.ids == ["1", "2"]
    assert "channel" not in found.rows.columns  # optional


def test_labels_that_are_integers_survive_a_gapless_column_of_doubles(tmp_path: Path) -> None:
    schema = ModelSchema(features=(Feature(name="x"),), class_labels=("0", "1"))
    dataset = registered(tmp_path / "a.jsonl", '{"x": 1, "y": 1.0}\n{"x": 2, "y": 0}\n')
    assert read(dataset, schema, expected_column="y").expected == ["1", "0"]


def test_regression_expects_values(tmp_path: Path) -> None:
    schema = ModelSchema(
        features=(Feature(name="x"),), task="regression", outcome=Outcome(field="price", type="number")
    )
    dataset = registered(tmp_path / "a.csv", "x,price\n1,2.5\n2,3\n")
    np.testing.assert_array_equal(read(dataset, schema).expected, [2.5, 3.0])
    bad = registered(tmp_path / "b.csv", "x,price\n1,cheap\n")
    with pytest.raises(Invalid, match="row 1, column price: 'cheap' is no number"):
        read(bad, schema)


def test_at_most_so_many_rows_are_evenly_spread(tmp_path: Path) -> None:
    lines = "".join(f"1,{hour},1,fraud\n" for hour in range(10))
    found = read(registered(tmp_path / "a.csv", "amount,hour,night,t\n" + lines), SCHEMA, "t")
    assert found.spread(3).ids == ["1", "4", "7"]
    assert found.spread(0) is found
    assert found.spread(10) is found


def test_bad_cells_are_named_by_row_and_column(tmp_path: Path) -> None:
    text = "amount,hour,night,actual_fraud\nmuch,1,1,true\n1,,1,true\n1,2.5,2,true\n1,2,1,perhaps\n1,2,1,\n"
    with pytest.raises(Invalid) as error:
        read(registered(tmp_path / "a.csv", text), SCHEMA)
    assert error.value.code == "dataset_rows_invalid"
    assert {(each.field, each.description) for each in error.value.violations} == {
        ("row 1, column amount", "'much' is no number"),
        ("row 2, column hour", "is missing and may not be"),
        ("row 3, column hour", "'2.5' is no integer"),
        ("row 3, column night", "'2' is neither true nor false"),
        ("row 4, column actual_fraud", "'perhaps' is none of legit, fraud, nor mapped to one"),
        ("row 5, column actual_fraud", "is missing: it is what the answer is checked against"),
    }


def test_only_the_first_bad_cells_are_named(tmp_path: Path) -> None:
    text = "amount,hour,night,actual_fraud\n" + "x,1,1,true\n" * 100
    with pytest.raises(Invalid, match="and 80 more") as error:
        read(registered(tmp_path / "a.csv", text), SCHEMA)
    assert len(error.value.violations) == 20


@pytest.mark.parametrize(
    "uri", ["https://x/a.csv", "s3://b/a.csv", "a.csv", "", "file://other/a.csv", "pypi:x"]
)
def test_what_is_not_on_this_machine_is_refused(uri: str) -> None:
    with pytest.raises(Unsupported) as error:
        read(Dataset("checks", "1", uri, "sha256:0"), SCHEMA)
    assert error.value.code == "dataset_uri_unsupported"


def code_of(dataset: Dataset, **options: object) -> PhantomError:
    with pytest.raises(PhantomError) as error:
        read(dataset, SCHEMA, **options)
    return error.value


def test_another_digest_says_that_it_may_have_been_taken_of_other_content(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(CSV)
    error = code_of(Dataset("checks", "1", str(path), f"sha256:{'0' * 64}"))
    assert error.code == "dataset_digest_mismatch"
    assert "other content" in error.message
    real = hashlib.sha256(CSV.encode()).hexdigest()
    assert real not in error.message + str(error.fields), "it tells about bytes that the caller may not know"


def test_only_files_below_the_roots_are_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "datasets", tmp_path / "datasets-of-others"
    inside.mkdir()
    outside.mkdir()
    secret = registered(outside / "secret.csv", CSV)
    error = code_of(secret, roots=(inside,))
    assert (type(error), error.code) == (Refused, "dataset_outside_roots")
    assert str(inside) in error.message
    assert "PHANTOM_PIPELINES_DATASET_ROOTS" in error.message
    (inside / "link.csv").symlink_to(outside / "secret.csv")
    (inside / "circle.csv").symlink_to(inside / "circle.csv")
    for uri in (
        str(inside / "link.csv"),
        str(inside / "circle.csv"),
        f"{inside}/../datasets-of-others/secret.csv",
        f"file://{inside}/%2e%2e/datasets-of-others/secret.csv",
        str(outside / "is-it-there.csv"),
    ):
        found = code_of(Dataset("checks", "1", uri, secret.digest), roots=(inside,))
        assert found.code == "dataset_outside_roots", uri
    assert read(secret, SCHEMA, roots=(inside, outside)).rows.count == 3
    (tmp_path / "elsewhere").symlink_to(inside)
    linked = registered(tmp_path / "elsewhere" / "mine.csv", CSV)
    assert read(linked, SCHEMA, roots=(inside,)).rows.count == 3
    assert read(linked, SCHEMA, roots=(tmp_path / "elsewhere",)).rows.count == 3


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    gone = code_of(Dataset("checks", "1", str(tmp_path / "a.csv"), "sha256:0"))
    assert (type(gone), gone.code) == (NotFound, "dataset_file_missing")
    folder = tmp_path / "b.csv"
    folder.mkdir()
    assert code_of(Dataset("checks", "1", str(folder), "sha256:0")).code == "dataset_file_missing"
    assert code_of(registered(tmp_path / "a.xlsx", "x")).code == "dataset_format_unsupported"
    large = code_of(registered(tmp_path / "a.csv", CSV), size=10)
    assert (type(large), large.code) == (Refused, "dataset_too_large")
    assert code_of(registered(tmp_path / "c.csv", "amount,hour,night,actual_fraud\n")).code == "dataset_empty"
    assert code_of(registered(tmp_path / "d.csv", "")).code == "dataset_unreadable"
    for text in ("amount,amount\n1,2\n", "amount,hour\n1\n", 'amount\n"1\n'):
        assert code_of(registered(tmp_path / "g.csv", text)).code == "dataset_unreadable"
    assert code_of(registered(tmp_path / "g.csv", b"amount\n\xff\n")).code == "dataset_unreadable"
    broken = code_of(registered(tmp_path / "e.jsonl", '{"amount": 1}\n{"amount":\n'))
    assert broken.code == "dataset_unreadable"
    assert "line 2" in broken.message
    assert code_of(registered(tmp_path / "f.jsonl", "[1]\n")).code == "dataset_unreadable"


@pytest.mark.parametrize(
    ("ending", "bounds"),
    [
        ("csv", {"rows": 2}),
        ("csv", {"columns": 5}),
        ("csv", {"cells": 17}),
        ("csv", {"row_commas": 4}),
        ("jsonl", {"rows": 2}),
        ("jsonl", {"columns": 5}),
        ("jsonl", {"cells": 17}),
        ("jsonl", {"line": 50}),
        ("parquet", {"rows": 2}),
        ("parquet", {"columns": 5}),
        ("parquet", {"cells": 17}),
        ("parquet", {"unpacked": 100}),
    ],
)
def test_more_than_is_read_is_refused_with_the_limit(
    tmp_path: Path, ending: str, bounds: dict[str, int]
) -> None:
    contents: dict[str, Any] = {"csv": CSV, "jsonl": JSON_LINES}
    content = contents[ending] if ending in contents else as_parquet(tmp_path / "made.parquet")
    error = code_of(registered(tmp_path / f"a.{ending}", content), **bounds)
    assert (type(error), error.code) == (Refused, "dataset_too_large")
    assert f"more than {next(iter(bounds.values()))} " in error.message


def test_a_small_parquet_file_of_huge_columns_is_not_unpacked(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = 300_000
    table = pa.table({"amount": pa.nulls(rows, pa.float64()), "hour": pa.array([1] * rows)})
    parquet.write_table(table, tmp_path / "nulls.parquet")
    one = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 10_000]))
    parquet.write_table(pa.table({"channel": one}), tmp_path / "texts.parquet")
    for name, words in (("nulls", "cells"), ("texts", "bytes of texts")):
        content = (tmp_path / f"{name}.parquet").read_bytes()
        assert len(content) < 100_000
        tracemalloc.start()
        error = code_of(registered(tmp_path / f"{name}-2.parquet", content), cells=500_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert error.code == "dataset_too_large"
        assert words in error.message
        assert peak < 50 << 20
    assert pa.total_allocated_bytes() < 50 << 20
    assert pa.default_memory_pool().max_memory() < 200 << 20, "the texts were made once for every row"


def test_columns_of_lists_and_objects_are_left_out(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"amount": [1.0], "hour": [3], "night": [True], "y": ["fraud"], "tags": [["a", "b"]]})
    parquet.write_table(table, tmp_path / "made.parquet")
    packed = registered(tmp_path / "a.parquet", (tmp_path / "made.parquet").read_bytes())
    line = '{"amount": 1.0, "hour": 3, "night": true, "y": "fraud", "tags": ["a", "b"]}'
    for dataset in (packed, registered(tmp_path / "a.jsonl", line)):
        assert read(dataset, SCHEMA, "y").expected == ["fraud"]
        assert code_of(dataset, expected_column="tags").code == "dataset_column_missing"


def test_missing_columns_are_named(tmp_path: Path) -> None:
    lacks = code_of(registered(tmp_path / "a.csv", "amount,actual_fraud\n1,true\n"))
    assert lacks.code == "dataset_column_missing"
    assert "hour, night" in lacks.message
    dataset = registered(tmp_path / "b.csv", "amount,hour,night\n1,2,1\n")
    assert "'actual_fraud'" in code_of(dataset).message
    assert (
        "'id'" in code_of(registered(tmp_path / "c.csv", CSV.replace("id,", "no,")), id_column="id").message
    )
    silent = SCHEMA.model_copy(update={"outcome": None})
    with pytest.raises(Invalid, match="declares no outcome"):
        read(dataset, silent)
