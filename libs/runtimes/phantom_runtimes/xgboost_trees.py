"""The trees of a checked XGBoost document as flat arrays, for whoever wants to walk or convert them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phantom_runtimes.model import Float32

Places = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


MOST_NODES = 1_000_000
"""A second copy of a larger model is not worth its memory (100 bytes a node while it is made)."""


class UnsupportedTreesError(ValueError):
    """The trees hold something that flat arrays of numeric splits do not say; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Every live node of every tree, one after the other; a tree's root comes first.

    A row goes left where its value is below `values`, right where not; a missing one as `missing_left` says.
    """

    tree: Places
    parent: Places  # position in these arrays; -1 for a root
    left: Places  # -1 for a leaf
    right: Places
    feature: Places
    values: Float32  # the threshold, or what a leaf adds
    missing_left: Truths
    group: Places  # whose sum a tree's leaves add to
    base_scores: Float32  # [groups]; as the objective answers, not as trees sum
    features: int

    @property
    def is_leaf(self) -> Truths:
        return self.left < 0


def read(document: Any) -> Forest:
    """The forest of a document that `xgboost_check` found sound. UnsupportedTreesError where it has no such form."""
    learner = document["learner"]
    parameters = learner["learner_model_param"]
    booster = learner["gradient_booster"]
    model = (booster["gbtree"] if booster["name"] == "dart" else booster)["model"]
    trees = model["trees"]
    if not trees:
        raise UnsupportedTreesError("the model has no trees")
    sizes = np.array([len(tree["left_children"]) for tree in trees])
    if sizes.sum() > MOST_NODES:
        raise UnsupportedTreesError(f"the model has {sizes.sum()} nodes, more than {MOST_NODES}")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    tree_of = np.repeat(np.arange(len(trees)), sizes)
    if any("split_type" in tree and np.any(np.asarray(tree["split_type"])) for tree in trees):
        raise UnsupportedTreesError("the model splits by category")
    left, right, parent = (
        np.where(found == (-1 if name != "parents" else _NO_PARENT), -1, found + starts[tree_of])
        for name in ("left_children", "right_children", "parents")
        for found in [_joined(trees, name)]
    )
    live = _reached(starts, left, right)
    place = np.cumsum(live) - 1  # of a live node among the live ones
    values = _joined(trees, "split_conditions").astype(np.float32)
    if booster["name"] == "dart":
        weights = np.asarray(booster["weight_drop"], dtype=np.float32)[tree_of]
        values = np.where(left < 0, values * weights, values)
    groups = max(1, int(parameters["num_class"]))
    return Forest(
        tree=tree_of[live],
        parent=_moved(parent[live], place),
        left=_moved(left[live], place),
        right=_moved(right[live], place),
        feature=_joined(trees, "split_indices")[live],
        values=values[live],
        missing_left=_joined(trees, "default_left")[live] != 0,
        group=np.asarray(model["tree_info"], dtype=np.int64)[tree_of[live]],
        base_scores=np.broadcast_to(_base_scores(parameters), groups).astype(np.float32),
        features=int(parameters["num_feature"]),
    )


_NO_PARENT = 2**31 - 1


def _joined(trees: list[Mapping[str, Any]], name: str) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(tree[name]) for tree in trees])


def _reached(roots: Places, left: Places, right: Places) -> Truths:
    """Which nodes the roots lead to: XGBoost keeps the places of those that it pruned."""
    reached = np.zeros(len(left), dtype=bool)
    level = roots
    while len(level):
        reached[level] = True
        inner = level[left[level] >= 0]
        level = np.concatenate([left[inner], right[inner]])
    return reached


def _moved(nodes: Places, place: Places) -> Places:
    moved: Places = np.where(nodes < 0, -1, place[nodes])
    return moved


def _base_scores(parameters: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    text = parameters["base_score"]
    return np.atleast_1d(np.asarray(json.loads(text) if isinstance(text, str) else text, dtype=np.float64))
