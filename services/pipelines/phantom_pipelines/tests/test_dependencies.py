"""The dependency check, its rule case by case, and the file of advisories."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phantom_pipelines.runners import provided
from phantom_pipelines.runners.dependencies import Advisories, Checked, Runtime, Subject, check
from phantom_platform.errors import Refused

NOW = datetime(2026, 11, 24, tzinfo=UTC)
RUNTIME = Runtime(
    "3.11.9",
    {"xgboost-cpu": "3.2.0", "numpy": "2.4.6", "scikit-learn": "1.9.1", "scipy": "1.17.1", "pandas": "3.0.0"},
    {"xgboost-cpu": ["numpy", "scipy"], "scikit-learn": ["numpy", "joblib"]},
)
RECORDED = {"python": "3.11.4", "xgboost": "3.2.1", "numpy": "2.4.0"}


def checked(recorded: dict[str, str], framework: str = "xgboost", **more: Any) -> Checked:
    options = {"advisories": Advisories(unusable="none"), **more}
    is_pickle = bool(options.pop("is_pickle", False))
    return check(Subject(framework, recorded, is_pickle), RUNTIME, **options)


def test_versions_that_fit_have_nothing_to_be_said() -> None:
    found = checked(RECORDED)
    assert found.findings == ()
    assert found.advisories == "not assessed: none"


@pytest.mark.parametrize(
    ("recorded", "framework", "severity", "words"),
    [
        ({}, "xgboost", "fail", "no dependencies were recorded"),
        ({**RECORDED, "python": "2.7.18"}, "xgboost", "fail", "made with Python 2.7.18, served with 3.11.9"),
        ({**RECORDED, "python": "3.9.1"}, "xgboost", "warning", "made with Python 3.9.1"),
        ({**RECORDED, "python": "three"}, "xgboost", "warning", "no version of Python"),
        ({"xgboost": "3.2.0"}, "xgboost", "warning", "version of Python was not recorded"),
        ({**RECORDED, "onnxruntime": "1.2"}, "onnx", "fail", "onnxruntime is not installed here"),
        (RECORDED, "tensorflow", "fail", "no runtime for 'tensorflow'"),
        ({"python": "3.11.1", "numpy": "2.4.1"}, "xgboost", "warning", "xgboost was not recorded"),
        ({**RECORDED, "xgboost": "2.1.0"}, "xgboost", "warning", "served with 3.2.0: another major version"),
        ({**RECORDED, "numpy": "2.3.0"}, "xgboost", "warning", "served with 2.4.6: another minor version"),
        ({**RECORDED, "numpy": "recent"}, "xgboost", "warning", "'recent' is no version of numpy"),
        ({**RECORDED, "SKLearn": "1.8.0"}, "xgboost", "warning", "scikit-learn 1.8.0"),
    ],
)
def test_the_rule(recorded: dict[str, str], framework: str, severity: str, words: str) -> None:
    found = checked(recorded, framework)
    assert [each.severity for each in found.findings if words in each.words] == [severity], found.findings


def test_a_pickle_needs_the_same_minor_version_of_python() -> None:
    recorded = {**RECORDED, "python": "3.10.2", "scikit-learn": "1.9.0"}
    assert checked(recorded, "scikit-learn").failures == ()
    assert "minor" in checked(recorded, "scikit-learn", is_pickle=True).failures[0].words


def test_a_recorded_package_that_is_not_there_is_a_warning() -> None:
    found = checked({**RECORDED, "matplotlib": "3.0"})
    assert found.failures == ()
    (warning,) = found.findings
    assert (warning.severity, warning.package, warning.recorded, warning.provided) == (
        "warning",
        "matplotlib",
        "3.0",
        "",
    )
    assert "matplotlib 3.0, which is not installed" in warning.words


def osv(package: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    affected = [{"package": {"ecosystem": "PyPI", "name": package}, "ranges": ranges}]
    return {"id": "GHSA-1", "summary": "runs code", "affected": affected, **more}


def read(path: Path, document: Any, max_age_days: int = 0) -> Advisories:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return provided.advisories(path, NOW, max_age_days)


@pytest.mark.parametrize(
    ("record", "is_bad"),
    [
        (osv("xgboost", {"introduced": "0"}, {"fixed": "3.2.2"}), True),
        (osv("XGBoost", {"introduced": "0"}, {"fixed": "3.2.1"}), True),  # what serves is 3.2.0
        (osv("xgboost", {"introduced": "0"}, {"fixed": "3.2.0"}), False),
        (osv("xgboost", {"introduced": "3.2.1"}, {"last_affected": "3.2.1"}), True),
        (osv("xgboost", {"introduced": "3.2.2"}), False),
        (osv("xgboost", {"introduced": "3"}), True),
        (
            osv("xgboost", {"introduced": "1"}, {"fixed": "2"}, {"introduced": "3.2"}, {"fixed": "3.3"}),
            True,
        ),
        (osv("scipy", {"introduced": "0"}), True),  # not recorded, but xgboost requires it
        (osv("pandas", {"introduced": "0"}), False),  # there, and no part of serving
        (osv("xgboost", {"introduced": "0"}, withdrawn="2025-01-01T00:00:00Z"), False),
        (
            {
                "id": "PYSEC-1",
                "affected": [
                    {"package": {"ecosystem": "PyPI", "name": "numpy"}, "versions": ["2.4.0", "odd"]}
                ],
            },
            True,
        ),
        ({"id": "NPM", "affected": [{"package": {"ecosystem": "npm", "name": "numpy"}}]}, False),
    ],
)
def test_known_bad_versions_fail(tmp_path: Path, record: dict[str, Any], is_bad: bool) -> None:
    found = checked(RECORDED, advisories=read(tmp_path / "osv.json", [record]))
    assert bool(found.failures) == is_bad
    if is_bad:
        assert record["id"] in found.failures[0].words
    assert "advisories as of an unknown day" in found.advisories


def test_advisories_that_are_missing_or_too_old_fail_only_where_they_are_required(tmp_path: Path) -> None:
    none = provided.advisories(None, NOW, 0)
    assert "PHANTOM_PIPELINES_ADVISORIES" in none.unusable
    assert checked(RECORDED, advisories=none).failures == ()
    assert len(checked(RECORDED, advisories=none, is_required=True).failures) == 1
    document = {"snapshot": "2026-10-01", "advisories": []}
    assert read(tmp_path / "a.json", document, 60) == Advisories((), "2026-10-01")
    assert "2026-10-01" in read(tmp_path / "a.json", document, 30).unusable
    assert "no known day" in read(tmp_path / "a.json", [], 30).unusable


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "3",
        {"advisories": 3},
        [{"summary": "no id"}],
        ["text"],
        [osv("xgboost", {"introduced": "not a version"})],
        {"snapshot": "yesterday", "advisories": []},
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(Refused) as error:
        read(tmp_path / "a.json", document)
    assert error.value.code == "advisories_unreadable"
    with pytest.raises(Refused):
        provided.advisories(tmp_path / "none.json", NOW, 0)


def test_this_runtime_provides_what_it_has_installed() -> None:
    found = provided.runtime()
    assert found.python.startswith("3.")
    assert "numpy" in found.versions
    assert "numpy" in found.requires["scipy"]
