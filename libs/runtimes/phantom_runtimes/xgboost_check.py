"""Is this document an XGBoost model that cannot crash the process?

XGBoost loads a model whose nodes point outside the tree, at each other in a circle, or at features that do not
exist, and then reads foreign memory. So every index is checked here first.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from phantom_contracts.schema import ModelSchema
from phantom_runtimes.errors import Invalid, corrupt

NO_PARENT = 2**31 - 1
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the runtime needs to know of a model."""

    objective: str
    classes: int  # 0 or 1 for a binary or a regression model
    trees: int


def parse_json(raw: bytes) -> Any:
    """The JSON document; Invalid for repeated keys, non-finite numbers and what is no JSON."""
    try:
        return json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise corrupt("the JSON document is nested too deeply") from error
    except ValueError as error:  # json's and Unicode's errors are ValueErrors; so is ours
        if isinstance(error, Invalid):
            raise
        raise corrupt(f"the model is not JSON: {error}") from error


def check(document: Any, schema: ModelSchema) -> Shape:
    """The model's shape, after every tree was found sound; Invalid with the tree and the node otherwise."""
    learner = _mapping(document, "learner")
    parameters = _mapping(learner, "learner_model_param")
    features = _number(parameters, "num_feature")
    classes = _number(parameters, "num_class")
    _check_features(learner, features, schema)
    if _number(parameters, "num_target", 1) != 1:
        raise Invalid("unsupported_model", "the model has several targets; one per model is supported")
    groups = max(1, classes)
    if groups > 10_000:
        raise corrupt(f"the model has {classes} classes")
    _check_base_score(parameters.get("base_score"), groups)
    trees = _check_booster(_mapping(learner, "gradient_booster"), groups, features, schema)
    objective = _mapping(learner, "objective").get("name")
    if not isinstance(objective, str):
        raise corrupt("the model names no objective")
    return Shape(objective, classes, trees)


def _check_features(learner: Mapping[str, Any], features: int, schema: ModelSchema) -> None:
    wanted = [feature.name for feature in schema.features]
    names = learner.get("feature_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise corrupt("the names of the features are no list of texts")
    if names and list(names) != wanted:
        differing = next(
            (
                f"{n + 1} is {a!r}, not {b!r}"
                for n, (a, b) in enumerate(zip(names, wanted, strict=False))
                if a != b
            ),
            f"it has {len(names)}, not {len(wanted)}",
        )
        raise Invalid("schema_mismatch", f"the model's features are not those of its schema: {differing}")
    if features != len(wanted):
        raise Invalid(
            "schema_mismatch", f"the model takes {features} features, its schema lists {len(wanted)}"
        )


def _check_base_score(text: Any, groups: int) -> None:
    try:
        value = json.loads(text) if isinstance(text, str) else text
        scores = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise corrupt(f"the base score {text!r:.80} is no number") from error
    if scores.ndim != 1 or len(scores) not in (1, groups) or not np.isfinite(scores).all():
        raise corrupt(f"the base score {text!r:.80} is not finite, or not one a class")


def _check_booster(booster: Mapping[str, Any], groups: int, features: int, schema: ModelSchema) -> int:
    name = booster.get("name")
    if name == "dart":
        inner = _mapping(booster, "gbtree")
        weights = np.asarray(_array(booster, "weight_drop", "dart", np.float64))
        return _check_model(_mapping(inner, "model"), groups, features, schema, weights)
    if name != "gbtree":
        raise Invalid("unsupported_model", f"the booster {name!r:.40} is not supported; gbtree and dart are")
    return _check_model(_mapping(booster, "model"), groups, features, schema, None)


def _check_model(
    model: Mapping[str, Any], groups: int, features: int, schema: ModelSchema, weights: np.ndarray | None
) -> int:
    trees = model.get("trees")
    if not isinstance(trees, list):
        raise corrupt("the model has no list of trees")
    count = _number(_mapping(model, "gbtree_model_param"), "num_trees")
    info = _array(model, "tree_info", "the model", np.int64)
    if count != len(trees) or len(info) != count:
        raise corrupt(f"the model has {len(trees)} trees, announces {count} and describes {len(info)}")
    if count and not ((info >= 0) & (info < groups)).all():
        raise corrupt(f"a tree belongs to a class that is not one of {groups}")
    if weights is not None and (len(weights) != count or not np.isfinite(weights).all()):
        raise corrupt("the weights of the trees are not finite, or not one a tree")
    _check_rounds(model, count)
    categories = np.array([len(feature.categories) for feature in schema.features], dtype=np.int64)
    for place, tree in enumerate(trees):
        _Tree(tree, place).check(features, categories)
    if model.get("cats") is not None:
        _check_cats(_mapping(model, "cats"), schema)
    return count


def _check_rounds(model: Mapping[str, Any], trees: int) -> None:
    if "iteration_indptr" not in model:
        return
    pointers = _array(model, "iteration_indptr", "the model", np.int64)
    sound = (
        len(pointers) >= 1 and pointers[0] == 0 and pointers[-1] == trees and (np.diff(pointers) >= 0).all()
    )
    if not sound and not (len(pointers) == 0 and trees == 0):
        raise corrupt("the boosting rounds do not cover the trees in order")


def _check_cats(cats: Mapping[str, Any], schema: ModelSchema) -> None:
    """The model's own categories, where it kept them, are the schema's, in the schema's order."""
    encoded = cats.get("enc") or []
    if not isinstance(encoded, list):
        raise corrupt("the model's categories are no list")
    if len(encoded) not in (0, len(schema.features)):
        raise corrupt(f"the model has categories for {len(encoded)} of {len(schema.features)} features")
    sizes = []
    for feature, each in zip(schema.features, encoded, strict=False):
        found = category_texts(each, feature.name)
        sizes.append(len(found))
        if found and tuple(found) != feature.categories:
            raise Invalid(
                "schema_mismatch",
                f"the model knows the categories {found[:20]} of {feature.name!r}, its schema lists "
                f"{list(feature.categories[:20])}; they must be the same, in the same order",
                feature=feature.name,
            )
    segments = _array(cats, "feature_segments", "the categories", np.int64)
    order = _array(cats, "sorted_idx", "the categories", np.int64)
    expected = np.concatenate([[0], np.cumsum(sizes)]) if encoded else np.zeros(0)
    if len(segments) and not np.array_equal(segments, expected):
        raise corrupt("the segments of the categories do not fit the categories")
    if len(order) != sum(sizes) or (len(order) and not ((order >= 0) & (order < max(sizes))).all()):
        raise corrupt("the order of the categories points outside them")


def category_texts(encoded: Any, feature: str) -> list[str]:
    """The categories that a model keeps of one feature; none where it keeps none."""
    if not isinstance(encoded, Mapping):
        raise corrupt(f"the categories of {feature!r} are broken")
    if "offsets" not in encoded:
        if not len(_array(encoded, "values", feature, np.float64)):
            return []
        raise Invalid("unsupported_model", f"the categories of {feature!r} are numbers; train with texts")
    offsets = _array(encoded, "offsets", feature, np.int64)
    values = _array(encoded, "values", feature, np.int64)
    if not len(offsets) and not len(values):
        return []
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise corrupt(f"the categories of {feature!r} point outside their text")
    raw = (values & 0xFF).astype(np.uint8).tobytes()
    try:
        return [raw[a:b].decode() for a, b in pairwise(offsets.tolist())]
    except UnicodeDecodeError as error:
        raise corrupt(f"a category of {feature!r} is not UTF-8") from error


class _Tree:
    """One tree's arrays, and what must hold of them."""

    def __init__(self, tree: Any, place: int) -> None:
        if not isinstance(tree, Mapping):
            raise corrupt(f"tree {place} is no object", tree=place)
        self.tree, self.place = tree, place
        parameters = _mapping(tree, "tree_param")
        self.nodes = _number(parameters, "num_nodes")
        if self.nodes < 1:
            raise corrupt(f"tree {place} has no nodes", tree=place)
        if _number(parameters, "size_leaf_vector", 1) > 1:
            raise Invalid(
                "unsupported_model", f"tree {place} has vectors in its leaves; one value is supported"
            )

    def array(self, name: str, kind: type) -> npt.NDArray[Any]:
        found = _array(self.tree, name, f"tree {self.place}", kind)
        if len(found) != self.nodes:
            raise corrupt(
                f"tree {self.place} has {self.nodes} nodes, but {len(found)} entries in {name}",
                tree=self.place,
            )
        return found

    def fail(self, wrong: npt.NDArray[np.bool_], nodes: Integers, what: str) -> None:
        if wrong.any():
            node = int(nodes[int(np.argmax(wrong))])
            raise corrupt(f"tree {self.place}, node {node}: {what}", tree=self.place, node=node)

    def check(self, features: int, categories: Integers) -> None:
        if _number(self.tree, "id", self.place) != self.place:
            raise corrupt(f"tree {self.place} has the id {self.tree.get('id')!r:.40}", tree=self.place)
        live, inner = self._reachable()
        conditions = self.array("split_conditions", np.float64)
        self.fail(~np.isfinite(conditions[live]), live, "its condition or leaf value is not a finite number")
        for name in ("base_weights", "sum_hessian", "loss_changes"):
            if name in self.tree:
                self.fail(~np.isfinite(self.array(name, np.float64)[live]), live, f"its {name} is not finite")
        self.array("default_left", np.int64)
        split = self.array("split_indices", np.int64)[inner]
        self.fail(
            (split < 0) | (split >= features), inner, f"it splits on a feature that is not one of {features}"
        )
        self._check_categories(inner, split, categories)

    def _reachable(self) -> tuple[Integers, Integers]:
        """The nodes that the root leads to, and those of them that split, level by level."""
        left, right = self.array("left_children", np.int64), self.array("right_children", np.int64)
        parents = self.array("parents", np.int64)
        seen = np.zeros(self.nodes, dtype=bool)
        seen[0] = True
        level = np.zeros(1, dtype=np.int64)
        live, inner = [level], []
        while len(level):
            splits = level[left[level] != -1]
            self.fail((left[level] == -1) != (right[level] == -1), level, "it has one child only")
            children = np.concatenate([left[splits], right[splits]])
            above = np.concatenate([splits, splits])
            self.fail(
                (children < 1) | (children >= self.nodes), above, f"a child is not one of {self.nodes} nodes"
            )
            self.fail(
                seen[children], above, "a child has another parent too, so that there is a circle or a knot"
            )
            seen[children] = True
            first = np.unique(children, return_index=True)[1]
            self.fail(~np.isin(np.arange(len(children)), first), above, "it shares a child with another node")
            self.fail(parents[children] != above, children, "it does not name its parent")
            inner.append(splits)
            live.append(children)
            level = children
        return np.concatenate(live), np.concatenate(inner)

    def _check_categories(self, inner: Integers, split: Integers, categories: Integers) -> None:
        kinds = (
            self.array("split_type", np.int64)
            if "split_type" in self.tree
            else np.zeros(self.nodes, np.int64)
        )
        self.fail(
            (kinds[inner] != 0) & (kinds[inner] != 1), inner, "its split is neither by number nor by category"
        )
        where = f"tree {self.place}"
        nodes, starts, sizes, values = (
            _array(self.tree, name, where, np.int64) if name in self.tree else np.zeros(0, np.int64)
            for name in ("categories_nodes", "categories_segments", "categories_sizes", "categories")
        )
        by_category = inner[kinds[inner] == 1]
        if not len(nodes) and not len(by_category):
            return
        sound = len(nodes) == len(starts) == len(sizes) and (np.diff(nodes) > 0).all()
        if not sound or not np.isin(by_category, nodes).all():
            raise corrupt(f"{where}: its categories do not belong to its splits", tree=self.place)
        self.fail((nodes < 0) | (nodes >= self.nodes), nodes, "it has categories but is no node")
        self.fail(
            (starts < 0) | (sizes < 1) | (starts + sizes > len(values)), nodes, "its categories lie outside"
        )
        limit = dict(zip(inner.tolist(), categories[split].tolist(), strict=True))
        for node, start, size in zip(nodes.tolist(), starts.tolist(), sizes.tolist(), strict=True):
            taken = values[start : start + size]
            if node in limit and not ((taken >= 0) & (taken < limit[node])).all():
                message = f"{where}, node {node}: it splits on a category that its schema does not list"
                raise Invalid("schema_mismatch", message, tree=self.place, node=node)
            if (taken < 0).any() or (taken > 10_000_000).any():
                raise corrupt(
                    f"{where}, node {node}: a category of {taken.max()}", tree=self.place, node=node
                )


def _mapping(parent: Any, key: str) -> Mapping[str, Any]:
    found = parent.get(key) if isinstance(parent, Mapping) else None
    if not isinstance(found, Mapping):
        raise corrupt(f"the model has no object {key!r}")
    return found


def _number(parent: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A count below 2^31, which XGBoost writes as text."""
    found = parent.get(key, default)
    if isinstance(found, str) and re.fullmatch(r"[0-9]{1,10}", found):
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**31:
        raise corrupt(f"{key} is {found!r:.40}, not a count")
    return found


def _array(parent: Mapping[str, Any], key: str, where: str, kind: type) -> npt.NDArray[Any]:
    found = parent.get(key)
    if not isinstance(found, list | np.ndarray):
        raise corrupt(f"{where} has no array {key}")
    if len(found) == 0:
        return np.zeros(0, dtype=kind)
    try:
        array = np.asarray(found)
    except ValueError as error:
        raise corrupt(f"{where}: {key} is no plain array") from error
    if array.ndim != 1 or array.dtype.kind not in "iub" + ("f" if kind is np.float64 else ""):
        raise corrupt(f"{where}: {key} does not hold numbers of the right type")
    return array.astype(kind)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise corrupt(f"the key {twice!r:.80} comes twice")
    return found


def _no_constant(text: str) -> float:
    raise corrupt(f"the model holds {text}, which is not a finite number")
