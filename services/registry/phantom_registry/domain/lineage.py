"""The lineage graph: model versions and what they were made from. Edges point upstream; it has no cycle."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from phantom_platform.errors import Invalid, Refused, Violation
from phantom_platform.ids import check_name, check_resource_id

_HEX = re.compile(r"[0-9a-f]{64}")
MAX_DEPTH = 100


class Kind(StrEnum):
    """What a node is."""

    MODEL_VERSION = "model_version"
    DATASET = "dataset"
    PIPELINE = "pipeline"
    CODE = "code"


@dataclass(frozen=True, order=True)
class Node:
    """A thing of some version; of code, the repository and the commit."""

    kind: Kind
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.version}"


@dataclass(frozen=True)
class Edge:
    """`made` was made from `source`."""

    made: Node
    source: Node


@dataclass(frozen=True)
class Source:
    """A dataset that a version was made from, as its author names it."""

    dataset: str
    version: str
    hash: str = ""
    role: str = "training"
    verification: str = "unverified"


@dataclass(frozen=True)
class Pipeline:
    pipeline: str
    version: str
    transformations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Code:
    repository: str
    commit: str
    branch: str = ""


@dataclass(frozen=True)
class LineageContent:
    """What `create_lineage` is told."""

    source_data: tuple[Source, ...] = ()
    feature_pipelines: tuple[Pipeline, ...] = ()
    training_code: Code | None = None
    dependencies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from."""

    lineage_id: str
    model_id: str
    version: str
    content: LineageContent
    created_at: datetime
    created_by: str


def verification(given: str, registered: str | None) -> str:
    """How the hash that an author gives stands to the digest of the registered dataset (None: not registered)."""
    if registered is None or not given:
        return "unverified"
    text = given.strip().lower()
    text = f"sha256:{text}" if _HEX.fullmatch(text) else text
    return "verified" if text == registered else "mismatch"


def edges_of_lineage(model_id: str, version: str, content: LineageContent) -> list[Edge]:
    """The edges that a version's lineage adds."""
    made = Node(Kind.MODEL_VERSION, model_id, version)
    sources = [Node(Kind.DATASET, each.dataset, each.version) for each in content.source_data]
    sources += [Node(Kind.PIPELINE, each.pipeline, each.version) for each in content.feature_pipelines]
    if content.training_code is not None:
        sources.append(Node(Kind.CODE, content.training_code.repository, content.training_code.commit))
    return [Edge(made, source) for source in dict.fromkeys(sources)]


def edges_of_dataset(name: str, version: str, metadata: Mapping[str, Any]) -> list[Edge]:
    """The edges that a dataset's `metadata.derived_from` adds.

    A list of {dataset, version} or {model, version}: data derived from data, or labelled by a model.
    """
    derived = metadata.get("derived_from", [])
    if not isinstance(derived, list):
        raise _underivable("metadata.derived_from", "is a list of {dataset or model, version}")
    made = Node(Kind.DATASET, name, version)
    sources = [_derived(each, f"metadata.derived_from[{i}]") for i, each in enumerate(derived)]
    return [Edge(made, source) for source in dict.fromkeys(sources)]


def _derived(entry: object, place: str) -> Node:
    if not (isinstance(entry, dict) and all(isinstance(each, str) and each for each in entry.values())):
        raise _underivable(place, "is {dataset or model, version}, all texts")
    if set(entry) == {"dataset", "version"}:
        return Node(Kind.DATASET, check_name(entry["dataset"], f"{place}.dataset"), entry["version"])
    if set(entry) == {"model", "version"}:
        model = check_resource_id(entry["model"], f"{place}.model")
        return Node(Kind.MODEL_VERSION, model, entry["version"])
    raise _underivable(
        place, f"has {', '.join(sorted(entry)) or 'nothing'}, and needs dataset or model, and version"
    )


def check_acyclic(added: Iterable[Edge], upstream: Iterable[Edge]) -> None:
    """Raise `Refused` `lineage_cycle` where an added edge leads back to what it makes.

    `upstream` holds at least every existing edge that is reachable from the sources of `added`.
    """
    added = list(added)
    known = [*upstream, *added]
    for edge in added:
        if edge.made == edge.source or edge.made in distances([edge.source], known):
            raise Refused(
                f"{edge.made} cannot be made from {edge.source}, which is made from it",
                code="lineage_cycle",
                made=str(edge.made),
                source=str(edge.source),
            )


def distances(
    starts: Iterable[Node], edges: Iterable[Edge], *, downstream: bool = False, limit: int | None = None
) -> dict[Node, int]:
    """Nodes reachable over `edges` and their least number of edges from a start; starts themselves at 0."""
    following: dict[Node, list[Node]] = {}
    for edge in edges:
        here, there = (edge.source, edge.made) if downstream else (edge.made, edge.source)
        following.setdefault(here, []).append(there)
    found = dict.fromkeys(starts, 0)
    queue = deque(found)
    while queue:
        node = queue.popleft()
        if limit is not None and found[node] >= limit:
            continue
        for neighbour in following.get(node, ()):
            if neighbour not in found:
                found[neighbour] = found[node] + 1
                queue.append(neighbour)
    return found


def _underivable(field_: str, description: str) -> Invalid:
    return Invalid(code="invalid_derivation", violations=[Violation(field_, description)])
