"""The lineage graph: verification, derivation, reach, and that it cannot have a cycle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom_platform.errors import Invalid, Refused
from phantom_registry.domain.lineage import (
    Code,
    Edge,
    Kind,
    LineageContent,
    Node,
    Pipeline,
    Source,
    check_acyclic,
    distances,
    edges_of_dataset,
    edges_of_lineage,
    verification,
)

HEX = "ab" * 32


def data(name: str) -> Node:
    return Node(Kind.DATASET, name, "1")


@pytest.mark.parametrize(
    ("given_hash", "registered", "expected"),
    [
        ("sha256:abc123...", None, "unverified"),
        ("", f"sha256:{HEX}", "unverified"),
        (f"sha256:{HEX}", f"sha256:{HEX}", "verified"),
        (HEX.upper(), f"sha256:{HEX}", "verified"),
        (f"sha256:{'cd' * 32}", f"sha256:{HEX}", "mismatch"),
        ("sha256:abc123...", f"sha256:{HEX}", "mismatch"),
    ],
)
def test_how_a_hash_stands_to_the_registered_dataset(
    given_hash: str, registered: str | None, expected: str
) -> None:
    assert verification(given_hash, registered) == expected


def test_a_versions_lineage_has_one_edge_for_each_thing_it_was_made_from() -> None:
    content = LineageContent(
        source_data=(Source("q1", "1"), Source("q1", "1", role="evaluation"), Source("q2", "1")),
        feature_pipelines=(Pipeline("features", "3"),),
        training_code=Code("repo", "a1b2", "main"),
    )
    sources = [edge.source for edge in edges_of_lineage("fraud", "2", content)]
    assert [str(each) for each in sources] == [
        "dataset q1 1",
        "dataset q2 1",
        "pipeline features 3",
        "code repo a1b2",
    ]


@pytest.mark.parametrize(
    "derived",
    [
        "raw",
        ["raw"],
        [{}],
        [{"dataset": "raw"}],
        [{"dataset": "raw", "version": ""}],
        [{"dataset": "raw", "version": 1}],
        [{"model": "Bad Id", "version": "1"}],
        [{"dataset": "raw", "model": "m", "version": "1"}],
    ],
)
def test_a_derivation_that_cannot_be_read_is_refused(derived: Any) -> None:
    with pytest.raises(Invalid) as caught:
        edges_of_dataset("clean", "1", {"derived_from": derived})
    assert caught.value.violations[0].field.startswith("metadata.derived_from")


def test_nearest_paths_are_counted_in_both_directions() -> None:
    a, b, c, d = map(data, "abcd")
    edges = [Edge(a, b), Edge(b, c), Edge(a, c), Edge(c, d)]
    assert distances([a], edges) == {a: 0, b: 1, c: 1, d: 2}
    assert distances([d], edges, downstream=True) == {d: 0, c: 1, b: 2, a: 2}
    assert distances([a], edges, limit=1) == {a: 0, b: 1, c: 1}


def test_nothing_is_made_from_itself_or_from_what_is_made_from_it() -> None:
    a, b, c = map(data, "abc")
    for added in (Edge(a, a), Edge(c, a)):
        with pytest.raises(Refused) as caught:
            check_acyclic([added], [Edge(a, b), Edge(b, c)])
        assert caught.value.code == "lineage_cycle"


def test_two_added_edges_that_close_a_cycle_together_are_refused() -> None:
    a, b = map(data, "ab")
    with pytest.raises(Refused):
        check_acyclic([Edge(a, b), Edge(b, a)], [])


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40))
def test_a_graph_that_grew_through_the_check_can_always_be_put_in_order(pairs: list[tuple[int, int]]) -> None:
    edges: list[Edge] = []
    for made, source in pairs:
        edge = Edge(data(str(made)), data(str(source)))
        try:
            check_acyclic([edge], edges)
        except Refused:
            continue
        edges.append(edge)
    left = {node for edge in edges for node in (edge.made, edge.source)}
    while left:  # take away what nothing left is made from (Kahn)
        free = {n for n in left if not any(e.made == n and e.source in left for e in edges)}
        assert free
        left -= free
