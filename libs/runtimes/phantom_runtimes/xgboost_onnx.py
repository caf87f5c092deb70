"""XGBoost's trees as an ONNX graph of one node, which onnxruntime sums up a few rows of far sooner than XGBoost.

The graph is written here, byte by byte, from the same arrays that were checked: a converter would bring the `onnx`
package into every replica (12 MB, a quarter of a second), for a format of five messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from phantom_contracts.protobuf import field, tag, varint
from phantom_runtimes import onnx_runtime
from phantom_runtimes.model import Float32
from phantom_runtimes.xgboost_trees import Forest

_IR_VERSION, _OPSET, _ML_OPSET = 8, 18, 3
_FLOAT = 1  # TensorProto.DataType
_FLOATS, _INTS, _STRINGS, _INT, _STRING = 6, 7, 8, 2, 3  # AttributeProto.AttributeType


class OnnxTrees:
    """A forest run by onnxruntime. Safe to call from several threads."""

    def __init__(self, forest: Forest, base_margins: Float32, *, threads: int) -> None:
        self._session = onnx_runtime.session(graph(forest, base_margins), threads)

    def margins(self, matrix: Float32) -> Float32:
        """The sums of the trees [rows, groups] for a C-contiguous float32 matrix; NaN is missing."""
        found: Float32 = self._session.run(["margins"], {"rows": matrix})[0]
        return found


def graph(forest: Forest, base_margins: Float32) -> bytes:
    """A serialized ModelProto: `rows` [n, features] → `margins` [n, groups]."""
    groups = len(base_margins)
    node = (
        field(1, b"rows")
        + field(2, b"margins")
        + field(4, b"TreeEnsembleRegressor")
        + field(7, b"ai.onnx.ml")
        + b"".join(field(5, attribute) for attribute in _attributes(forest, base_margins))
    )
    whole = (
        field(1, node)
        + field(2, b"trees")
        + field(11, _tensor(b"rows", forest.features))
        + field(12, _tensor(b"margins", groups))
    )
    return (
        _integer(1, _IR_VERSION)
        + field(7, whole)
        + field(8, _integer(2, _OPSET))
        + field(8, field(1, b"ai.onnx.ml") + _integer(2, _ML_OPSET))
    )


def _attributes(forest: Forest, base_margins: Float32) -> Iterable[bytes]:
    """Of the TreeEnsembleRegressor."""
    is_leaf, tree = forest.is_leaf, forest.tree
    node = np.arange(len(tree)) - np.searchsorted(tree, tree)  # within its tree
    inner = np.where(is_leaf, 0, node[forest.left]), np.where(is_leaf, 0, node[forest.right])
    yield _ints("nodes_treeids", tree)
    yield _ints("nodes_nodeids", node)
    yield _ints("nodes_featureids", np.where(is_leaf, 0, forest.feature))
    yield _floats("nodes_values", np.where(is_leaf, np.float32(0), forest.values))
    yield _strings("nodes_modes", [b"LEAF" if leaf else b"BRANCH_LT" for leaf in is_leaf.tolist()])
    yield _ints("nodes_truenodeids", inner[0])
    yield _ints("nodes_falsenodeids", inner[1])
    yield _ints("nodes_missing_value_tracks_true", forest.missing_left & ~is_leaf)
    yield _ints("target_treeids", tree[is_leaf])
    yield _ints("target_nodeids", node[is_leaf])
    yield _ints("target_ids", forest.group[is_leaf])
    yield _floats("target_weights", forest.values[is_leaf])
    yield _attribute("n_targets", _INT, _integer(3, len(base_margins)))
    yield _floats("base_values", base_margins)
    yield _attribute("aggregate_function", _STRING, field(4, b"SUM"))
    yield _attribute("post_transform", _STRING, field(4, b"NONE"))


def _attribute(name: str, kind: int, content: bytes) -> bytes:
    return field(1, name.encode()) + content + _integer(20, kind)


def _ints(name: str, values: Any) -> bytes:
    return _attribute(
        name, _INTS, field(8, b"".join([varint(value) for value in np.asarray(values, np.int64).tolist()]))
    )


def _floats(name: str, values: Float32) -> bytes:
    return _attribute(name, _FLOATS, field(7, struct.pack(f"<{len(values)}f", *values.tolist())))


def _strings(name: str, values: list[bytes]) -> bytes:
    return _attribute(name, _STRINGS, b"".join([field(9, value) for value in values]))


def _integer(number: int, value: int) -> bytes:
    return tag(number, delimited=False) + varint(value)


def _tensor(name: bytes, columns: int) -> bytes:
    """A ValueInfoProto: float [n, columns]."""
    shape = field(1, field(2, b"n")) + field(1, _integer(1, columns))
    return field(1, name) + field(2, field(1, _integer(1, _FLOAT) + field(2, shape)))
