"""The catalogue of metrics is one table without contradictions."""

import re

import pytest

from phantom_contracts import metrics

EXPORTED = {export.name: export for export in metrics.EXPORTS}
NAME = re.compile(r"phantom_(monitor|drift)_[a-z0-9_]+")


def test_names_are_unique_and_well_formed() -> None:
    names = [metric.name for metric in metrics.CATALOGUE]
    assert len(set(names)) == len(names)
    assert len(EXPORTED) == len(metrics.EXPORTS)
    for name in (*EXPORTED, *(metric.prometheus for metric in metrics.CATALOGUE)):
        assert NAME.fullmatch(name), name


def test_counters_and_only_counters_end_in_total() -> None:
    for export in metrics.EXPORTS:
        assert export.name.endswith("_total") == (export.kind == "counter"), export.name


def test_selectors_use_labels_that_the_family_has() -> None:
    for metric in metrics.CATALOGUE:
        export = EXPORTED.get(metric.prometheus)
        assert export is None or set(metric.selector) <= set(export.labels), metric.name


@pytest.mark.parametrize(("percentile", "label"), [(50, "0.5"), (90, "0.9"), (95, "0.95"), (99, "0.99")])
def test_a_percentile_selects_its_quantile(percentile: int, label: str) -> None:
    assert metrics.named(f"prediction_latency_p{percentile}").selector == {"quantile": label}


@pytest.mark.parametrize(
    ("name", "words"), [("prediction_latency_p97", "p50, p90, p95, p99"), ("acuracy", "prediction_accuracy")]
)
def test_an_unknown_name_is_refused_with_the_valid_ones(name: str, words: str) -> None:
    with pytest.raises(LookupError, match=words):
        metrics.named(name)
