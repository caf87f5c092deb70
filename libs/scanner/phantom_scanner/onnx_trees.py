"""Whether an ONNX graph's wiring, tree ensembles and weights hold together, node by node.

onnxruntime refuses most of this when it loads the model, and `onnx.checker` none of it; a scan says so before, and
says which node it is.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from phantom_runtimes.errors import Invalid, corrupt

Integers = npt.NDArray[np.int64]
_MODES = frozenset(
    [
        b"BRANCH_LEQ",
        b"BRANCH_LT",
        b"BRANCH_GTE",
        b"BRANCH_GT",
        b"BRANCH_EQ",
        b"BRANCH_NEQ",
        b"BRANCH_MEMBER",
        b"LEAF",
    ]
)


def check(raw: bytes) -> None:
    """Invalid `corrupt_model` with `node`, the place in the graph, and for trees `tree` and `tree_node`."""
    from onnx.onnx_ml_pb2 import ModelProto

    model = ModelProto()
    model.ParseFromString(raw)  # onnx_check has read it before
    widths = {each.name: _width(each) for each in model.graph.input}
    known = {each.name for each in model.graph.input} | {each.name for each in model.graph.initializer} | {""}
    known |= {each.values.name for each in model.graph.sparse_initializer}
    for tensor in model.graph.initializer:
        _check_finite(_floats(tensor, f"the weights {tensor.name!r:.60}"), f"the weights {tensor.name!r:.60}")
    for place, node in enumerate(model.graph.node):
        where = f"node {place} ({node.op_type} {node.name!r:.40})"
        missing = [name for name in node.input if name not in known]
        if missing:
            raise corrupt(f"{where} takes {missing[0]!r:.60}, which nothing before it makes", node=place)
        again = [name for name in node.output if name and name in known]
        if again:
            raise corrupt(f"{where} makes {again[0]!r:.60}, which is there already", node=place)
        known |= set(node.output)
        _check_node(node, place, where, widths.get(node.input[0]) if node.input else None)
    for output in model.graph.output:
        if output.name not in known:
            raise corrupt(f"the output {output.name!r:.60} is made by no node")


def _width(value: Any) -> int | None:
    """The size of an input's last dimension, where it is fixed."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[-1].dim_value) if dims and dims[-1].HasField("dim_value") else None


def _check_node(node: Any, place: int, where: str, width: int | None) -> None:
    for attribute in node.attribute:
        if attribute.name == "nodes_hitrates":
            continue
        what = f"{where}: {attribute.name}"
        for numbers in _numbers(attribute, what):
            bad = ~np.isfinite(numbers)
            if bad.any():
                raise corrupt(
                    f"{what} holds a number that is not finite, at {int(np.argmax(bad))}", node=place
                )
    try:
        if node.op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
            _Old(node, place, where).check(width)
        elif node.op_type == "TreeEnsemble":
            _New(node, place, where).check(width)
    except Invalid as error:
        error.fields.setdefault("node", place)
        raise


def _numbers(attribute: Any, what: str) -> Iterator[npt.NDArray[np.float64]]:
    yield np.array([attribute.f], np.float64)
    if attribute.floats:
        yield np.asarray(attribute.floats, np.float64)
    if attribute.HasField("t"):
        yield _floats(attribute.t, what)


def _floats(tensor: Any, what: str) -> npt.NDArray[np.float64]:
    """A float tensor's numbers; none for tensors of other kinds."""
    from onnx import numpy_helper

    if tensor.data_type not in (1, 10, 11):  # float, float16, double
        return np.zeros(0)
    try:
        return np.asarray(numpy_helper.to_array(tensor), np.float64).ravel()
    except (ValueError, TypeError, OverflowError) as error:
        raise corrupt(f"{what} does not have the size of its shape") from error


def _check_finite(numbers: npt.NDArray[np.float64], what: str) -> None:
    bad = ~np.isfinite(numbers)
    if bad.any():
        raise corrupt(f"{what} hold a number that is not finite, at {int(np.argmax(bad))}")


class _Ensemble:
    def __init__(self, node: Any, place: int, where: str) -> None:
        self.attributes = {each.name: each for each in node.attribute}
        self.place, self.where = place, where

    def bad(self, what: str, **fields: object) -> Invalid:
        return corrupt(f"{self.where}: {what}", node=self.place, **fields)

    def ints(self, name: str, length: int | None = None) -> Integers:
        found = self.attributes.get(name)
        array = np.asarray(found.ints if found is not None else [], np.int64)
        if length is not None and len(array) != length:
            raise self.bad(f"{name} has {len(array)} entries for {length} nodes")
        return array

    def floats(self, name: str) -> npt.NDArray[np.float64]:
        found = self.attributes.get(name)
        if found is not None and len(found.floats):
            return np.asarray(found.floats, np.float64)
        tensor = self.attributes.get(name if found is not None else f"{name}_as_tensor")
        return _floats(tensor.t, name) if tensor is not None and tensor.HasField("t") else np.zeros(0)

    def check_features(self, features: Integers, width: int | None, label: Any) -> None:
        wrong = (features < 0) | (features >= (width if width is not None else 2**31))
        if wrong.any():
            tree, node = label(int(np.argmax(wrong)))
            limit = f"one of {width}" if width is not None else "a feature"
            what = (
                f"tree {tree}, node {node}: it splits on feature {features[wrong][0]}, which is not {limit}"
            )
            raise self.bad(what, tree=tree, tree_node=node)


class _Old(_Ensemble):
    """TreeEnsembleClassifier and -Regressor: nodes named by (tree, node) pairs."""

    def check(self, width: int | None) -> None:
        trees = self.ints("nodes_treeids")
        count = len(trees)
        nodes = self.ints("nodes_nodeids", count)
        modes = list(self.attributes["nodes_modes"].strings) if "nodes_modes" in self.attributes else []
        if not count or len(modes) != count or len(self.floats("nodes_values")) != count:
            raise self.bad(
                f"it has {count} nodes, {len(modes)} modes and {len(self.floats('nodes_values'))} values"
            )
        self.numbers = np.stack([trees, nodes], axis=1)
        index = {pair: at for at, pair in enumerate(zip(trees.tolist(), nodes.tolist(), strict=True))}
        if len(index) != count:
            raise self.bad("two nodes have the same number", **self._twice(trees, nodes))
        unknown = [at for at, mode in enumerate(modes) if mode not in _MODES]
        if unknown:
            raise self._at(unknown[0], f"it decides by {modes[unknown[0]]!r:.40}, which is not known")
        inner = np.array([at for at, mode in enumerate(modes) if mode != b"LEAF"], np.int64)
        self.check_features(
            self.ints("nodes_featureids", count)[inner], width, lambda at: self.label(int(inner[at]))
        )
        self._check_links(inner, index)
        self._check_leaves(index, set(inner.tolist()))

    def label(self, at: int) -> tuple[int, int]:
        """(tree, node) of the node that is listed at this place."""
        tree, node = self.numbers[at].tolist()
        return tree, node

    def _twice(self, trees: Integers, nodes: Integers) -> dict[str, object]:
        pairs, counts = np.unique(np.stack([trees, nodes]), axis=1, return_counts=True)
        tree, node = pairs[:, int(np.argmax(counts > 1))]
        return {"tree": int(tree), "tree_node": int(node)}

    def _at(self, at: int, what: str) -> Invalid:
        tree, node = self.label(at)
        return self.bad(f"tree {tree}, node {node}: {what}", tree=tree, tree_node=node)

    def _check_links(self, inner: Integers, index: dict[tuple[int, int], int]) -> None:
        """Every child is a node of the same tree, of one parent, and every tree has one root that reaches it all."""
        count = len(index)
        true, false = self.ints("nodes_truenodeids", count), self.ints("nodes_falsenodeids", count)
        parent: dict[int, int] = {}
        for at in inner.tolist():
            for child in (int(true[at]), int(false[at])):
                target = index.get((self.label(at)[0], child))
                if target is None:
                    raise self._at(at, f"its child {child} is no node of the tree")
                if target in parent:
                    raise self._at(
                        at, f"its child {child} has another parent too, so that there is a circle or a knot"
                    )
                parent[target] = at
        roots: dict[int, int] = {}
        for at in range(count):
            if at not in parent and roots.setdefault(self.label(at)[0], at) != at:
                raise self._at(at, "no node leads to it")
        for tree in {self.label(at)[0] for at in range(count)}:
            if tree not in roots:
                raise self.bad(f"tree {tree} has no root: its nodes lead in a circle", tree=tree, tree_node=0)
        self._check_reach(inner, index, roots, true, false)

    def _check_reach(
        self,
        inner: Integers,
        index: dict[tuple[int, int], int],
        roots: dict[int, int],
        true: Integers,
        false: Integers,
    ) -> None:
        splits, seen = set(inner.tolist()), np.zeros(len(index), bool)
        waiting = list(roots.values())
        while waiting:
            at = waiting.pop()
            seen[at] = True
            if at in splits:
                waiting += [index[(self.label(at)[0], int(side[at]))] for side in (true, false)]
        if not seen.all():
            raise self._at(int(np.argmin(seen)), "its tree's root does not lead to it: it stands in a circle")

    def _check_leaves(self, index: dict[tuple[int, int], int], inner: set[int]) -> None:
        kind = "class" if "class_ids" in self.attributes else "target"
        ids = self.ints(f"{kind}_ids")
        trees, nodes = self.ints(f"{kind}_treeids", len(ids)), self.ints(f"{kind}_nodeids", len(ids))
        if len(self.floats(f"{kind}_weights")) != len(ids):
            raise self.bad(f"{len(ids)} leaves have {len(self.floats(f'{kind}_weights'))} weights")
        for place, pair in enumerate(zip(trees.tolist(), nodes.tolist(), strict=True)):
            if pair not in index or index[pair] in inner:
                what = f"the weight {place} belongs to tree {pair[0]}, node {pair[1]}, which is no leaf"
                raise self.bad(what, tree=pair[0], tree_node=pair[1])
        outputs = self._outputs(kind)
        if len(ids) and ((ids < 0) | (ids >= outputs)).any():
            place = int(np.argmax((ids < 0) | (ids >= outputs)))
            what = (
                f"tree {trees[place]}, node {nodes[place]}: its {kind} {ids[place]} is not one of {outputs}"
            )
            raise self.bad(what, tree=int(trees[place]), tree_node=int(nodes[place]))

    def _outputs(self, kind: str) -> int:
        if kind == "target":
            return int(self.attributes["n_targets"].i) if "n_targets" in self.attributes else 1
        labels = [self.attributes.get(name) for name in ("classlabels_strings", "classlabels_int64s")]
        return max(max(len(each.strings), len(each.ints)) if each is not None else 0 for each in labels)


class _New(_Ensemble):
    """TreeEnsemble (ai.onnx.ml 5): nodes and leaves by their place, trees by the place of their root."""

    def check(self, width: int | None) -> None:
        features = self.ints("nodes_featureids")
        count = len(features)
        targets, roots = self.ints("leaf_targetids"), self.ints("tree_roots")
        sides = [
            (self.ints(f"nodes_{side}nodeids", count), self.ints(f"nodes_{side}leafs", count))
            for side in ("true", "false")
        ]
        self.check_features(features, width, lambda at: ("?", at))
        outputs = int(self.attributes["n_targets"].i) if "n_targets" in self.attributes else 1
        if len(targets) and ((targets < 0) | (targets >= outputs)).any():
            raise self.bad(f"a leaf's target is not one of {outputs}")
        seen = np.zeros(count, bool)
        for tree, root in enumerate(roots.tolist()):
            self._walk(tree, root, sides, seen, len(targets))

    def _walk(
        self,
        tree: int,
        root: int,
        sides: list[tuple[Integers, Integers]],
        seen: npt.NDArray[np.bool_],
        leaves: int,
    ) -> None:
        waiting = [root]
        while waiting:
            at = waiting.pop()
            if not 0 <= at < len(seen) or seen[at]:
                what = f"tree {tree}: node {at} is not there, or two nodes lead to it"
                raise self.bad(what, tree=tree, tree_node=at)
            seen[at] = True
            for children, is_leaf in sides:
                child = int(children[at])
                if not is_leaf[at]:
                    waiting.append(child)
                elif not 0 <= child < leaves:
                    what = f"tree {tree}, node {at}: its leaf {child} is not one of {leaves}"
                    raise self.bad(what, tree=tree, tree_node=at)
