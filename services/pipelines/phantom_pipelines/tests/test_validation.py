"""Validation stages on real model servers, real files and a real Kafka."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from phantom_contracts import topics
from phantom_pipelines.domain.values import Lineage, SourceData
from phantom_pipelines.runners.runner import StageResult
from phantom_pipelines.runners.validation import ValidationRunner, ValidationSettings
from phantom_pipelines.tests.fakes import Deployments
from phantom_pipelines.tests.laboratory import (
    DEPENDENCIES,
    MemoryStage,
    Versions,
    endpoint_of,
    make_laboratory,
    make_versions,
    stage_of,
)
from phantom_platform.errors import NotFound, PhantomError, Refused
from phantom_platform.ids import new_id
from phantom_platform.kafka import Producer, ensure_topics
from phantom_probing.rows import Rows
from phantom_probing.tests.conftest import flights
from phantom_probing.tests.past_calls import Call, GatewayLog

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return make_versions(tmp_path_factory.mktemp("versions"))


def runner_of(versions: Versions, root: Path, **settings: Any) -> ValidationRunner:
    quick = {"kafka_bootstrap": "127.0.0.1:1", "latency_calls": 100, "throughput_s": 0.5, "warm_up_s": 0.1}
    return ValidationRunner(
        versions,
        settings.pop("deployments", Deployments()),
        make_laboratory(versions, root),
        ValidationSettings(**{**quick, **settings}),
    )


async def ran(
    versions: Versions, root: Path, config: dict[str, Any], version: str = "good", **settings: Any
) -> tuple[StageResult, MemoryStage]:
    stage = stage_of("validation", config, versions.versions[version])
    result = await runner_of(versions, root, **settings).run(stage)
    json.dumps(stage.finished, allow_nan=False)
    assert not list((root / "scratch").glob("*"))
    return result, stage


async def test_a_good_version_passes_every_check_and_keeps_each(versions: Versions, tmp_path: Path) -> None:
    config = {
        "performance_checks": {"min_accuracy": 0.85, "max_latency": 1000, "min_throughput": 5},
        "security_scan": True,
        "dependency_check": True,
        "dataset": "held-out",
    }
    result, stage = await ran(versions, tmp_path, config)
    assert result.ok, result.reason
    assert list(stage.finished) == ["security_scan", "dependency_check", "accuracy", "latency", "throughput"]
    assert set(result.result["checks"].values()) == {"pass"}
    accuracy = stage.finished["accuracy"]
    assert accuracy["rows"] == 400
    assert 0.85 < accuracy["lower"] < accuracy["accuracy"] < accuracy["upper"]
    assert accuracy["log_loss"] < 0.6
    assert stage.finished["latency"]["calls"] == 100
    assert stage.finished["throughput"]["requests_per_s"] > 5
    assert stage.finished["dependency_check"]["advisories"].startswith("not assessed")
    assert stage.shares == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert [level for level, _ in stage.lines] == ["info"] * 6


async def test_every_check_that_fails_is_told_with_its_figures(versions: Versions, tmp_path: Path) -> None:
    config = {
        "performance_checks": {"min_accuracy": 0.85, "max_latency": 0.0001, "min_throughput": 10**6},
        "dataset": "held-out",
    }
    result, stage = await ran(versions, tmp_path, config, "bad")
    assert not result.ok
    assert result.reason_code == "accuracy_failed"
    assert set(result.result["checks"].values()) == {"fail"}
    for words in ("accuracy 0.", "at least 0.", "p95", "requests/s"):
        assert words in result.reason
    assert [level for level, _ in stage.lines].count("error") == 3


async def test_accuracy_passes_on_the_lower_end_of_its_interval(versions: Versions, tmp_path: Path) -> None:
    config = {"performance_checks": {"min_accuracy": 0.5}, "dataset": "held-out"}
    _, stage = await ran(versions, tmp_path, config)
    found = stage.finished["accuracy"]
    between = (found["lower"] + found["accuracy"]) / 2
    result, _ = await ran(
        versions, tmp_path, {"performance_checks": {"min_accuracy": between}, "dataset": "held-out"}
    )
    assert not result.ok


async def test_an_interrupted_stage_goes_on_with_the_next_check(versions: Versions, tmp_path: Path) -> None:
    config = {"performance_checks": {"min_accuracy": 0.85, "max_latency": 1000}, "dataset": "none-yet"}
    stage = stage_of(
        "validation", {**config, "security_scan": True, "dataset": "none-yet"}, versions.versions["good"]
    )
    runner = runner_of(versions, tmp_path)
    with pytest.raises(NotFound):
        await runner.run(stage)
    assert list(stage.finished) == ["security_scan"]
    stage.finished["security_scan"]["reason"] = "as it was found then"
    versions.datasets["none-yet"] = versions.datasets["held-out"]
    second = stage.again()
    assert (await runner.run(second)).ok
    assert ("info", "security_scan: pass: as it was found then") in second.lines
    assert list(second.finished) == ["security_scan", "accuracy", "latency"]
    assert await runner.undo(second) == ""


async def test_the_lineages_evaluation_dataset_is_the_default(versions: Versions, tmp_path: Path) -> None:
    config = {"performance_checks": {"min_accuracy": 0.85}}
    with pytest.raises(Refused) as error:
        await ran(versions, tmp_path, config)
    assert error.value.code == "no_evaluation_dataset"
    kept = versions.lineages["good"]
    evaluation = SourceData("held-out", "1", "evaluation")
    training = SourceData("elsewhere", "1", "training")
    try:
        versions.lineages["good"] = Lineage((training, evaluation), kept.dependencies)
        result, stage = await ran(versions, tmp_path, config)
        assert result.ok
        assert ("info", "evaluating on dataset held-out 1") in stage.lines
        versions.lineages["good"] = Lineage((evaluation, replace(evaluation, dataset="b")), {})
        with pytest.raises(Refused) as ambiguous:
            await ran(versions, tmp_path, config)
        assert ambiguous.value.code == "evaluation_dataset_ambiguous"
    finally:
        versions.lineages["good"] = kept


async def test_a_regression_model_has_no_accuracy(versions: Versions, tmp_path: Path) -> None:
    config = {"performance_checks": {"min_accuracy": 0.85}, "dataset": "held-out"}
    with pytest.raises(Refused) as error:
        await ran(versions, tmp_path, config, "price")
    assert error.value.code == "accuracy_of_regression"


async def test_what_the_scan_objects_to_is_never_run(versions: Versions, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("harm",))

    versions.add("harmful", pickle.dumps(Harm()), framework="scikit-learn")
    config = {"performance_checks": {"max_latency": 1000}, "security_scan": True}
    result, stage = await ran(versions, tmp_path, config, "harmful")
    assert not result.ok
    assert result.reason_code == "security_scan_failed"
    assert result.result["not_run"] == ["latency"]
    assert "print" in result.reason
    assert stage.finished["security_scan"]["findings"][0]["severity"] in ("high", "critical")


async def test_an_artifact_that_is_not_in_the_store_is_fetched(versions: Versions, tmp_path: Path) -> None:
    good = versions.versions["good"]
    sha256 = good.digest.removeprefix("sha256:")
    stored = versions.store / "sha256" / sha256[:2] / sha256
    versions.away[good.digest] = stored.read_bytes()
    away = tmp_path / "away"
    shutil.move(stored, away)
    try:
        result, stage = await ran(versions, tmp_path, {"security_scan": True})
        versions.away[good.digest] = b"{}"
        other, _ = await ran(versions, tmp_path, {"security_scan": True})
    finally:
        shutil.move(away, stored)
    assert result.ok
    assert stage.finished["security_scan"]["format"] == "xgboost-ubj"
    assert not other.ok


async def test_known_bad_versions_fail_and_a_missing_list_only_where_it_is_required(
    versions: Versions, tmp_path: Path
) -> None:
    required, _ = await ran(versions, tmp_path, {"dependency_check": True, "require_advisories": True})
    assert required.reason_code == "dependency_check_failed"
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]
    affected = [{"package": {"ecosystem": "PyPI", "name": "xgboost"}, "ranges": ranges}]
    path = tmp_path / "osv.json"
    path.write_text(json.dumps([{"id": "GHSA-9", "summary": "bad", "affected": affected}]))
    bad, stage = await ran(versions, tmp_path, {"dependency_check": True}, advisories=path)
    assert not bad.ok
    assert "GHSA-9" in bad.reason
    assert stage.finished["dependency_check"]["advisories"] == "1 advisories as of an unknown day"


async def test_a_recorded_package_that_is_not_installed_is_told_in_result_and_log(
    versions: Versions, tmp_path: Path
) -> None:
    before = versions.lineages["good"]
    versions.lineages["good"] = Lineage((), {**DEPENDENCIES, "no-such-package": "1.0"})
    try:
        result, stage = await ran(versions, tmp_path, {"dependency_check": True})
    finally:
        versions.lineages["good"] = before
    assert result.ok
    (words,) = [each for each in stage.finished["dependency_check"]["warnings"] if "no-such-package" in each]
    assert ("warning", f"dependency_check: {words}") in stage.lines


async def test_a_version_that_cannot_be_served_fails_in_the_servers_words(
    versions: Versions, tmp_path: Path
) -> None:
    versions.add("broken", b'{"learner": {}}')
    with pytest.raises(PhantomError) as error:
        await ran(versions, tmp_path, {"performance_checks": {"max_latency": 1000}}, "broken")
    assert error.value.code == "corrupt_model"
    versions.versions["bare"] = replace(versions.versions["good"], version="bare", schema_json="")
    with pytest.raises(Refused) as bare:
        await ran(versions, tmp_path, {"performance_checks": {"max_latency": 1000}}, "bare")
    assert bare.value.code == "schema_missing"


@pytest_asyncio.fixture(loop_scope="session")
async def log(kafka_bootstrap: str) -> AsyncIterator[GatewayLog]:
    await ensure_topics(kafka_bootstrap, [topics.PREDICTIONS, topics.OUTCOMES])
    producer = Producer(kafka_bootstrap, client_id="validation-test")
    await producer.start()
    yield GatewayLog(producer, f"fraud-{new_id()[-8:]}", ("legit", "fraud"))
    await producer.stop()


@pytest.mark.integration
async def test_past_requests_are_replayed(
    kafka_bootstrap: str, log: GatewayLog, versions: Versions, tmp_path: Path
) -> None:
    frame, _ = flights(60, 3)
    columns = {"amount": frame.amount.to_numpy(float), "hour": frame.hour.to_numpy(float)}
    rows = Rows({**columns, "channel": [str(each) for each in frame.channel]}, 60)
    async with make_laboratory(versions, tmp_path).serving("default", versions.versions["good"]) as client:
        for at in range(60):
            row = rows.part(at, at + 1)
            await log.write(Call(row, await client.infer(row)))
    deployments = Deployments({log.endpoint: endpoint_of(versions.versions["good"], log.endpoint)})
    settings = {"kafka_bootstrap": kafka_bootstrap, "deployments": deployments}
    replay = {"requests": 50, "environment": "staging", "max_disagreement": 0.1}
    good, stage = await ran(versions, tmp_path, {"replay": replay}, "same", **settings)
    assert good.ok, good.reason
    assert stage.finished["replay"]["requests"] == 50
    assert stage.finished["replay"]["endpoint"] == log.endpoint
    named = {**replay, "endpoint": log.endpoint}
    del named["environment"]
    bad, stage = await ran(versions, tmp_path, {"replay": named}, "bad", **settings)
    assert bad.reason_code == "replay_failed"
    assert "answered differently" in bad.reason
    assert stage.finished["replay"]["examples"]


@pytest.mark.integration
async def test_where_there_is_nothing_to_replay_a_limit_cannot_pass(
    kafka_bootstrap: str, log: GatewayLog, versions: Versions, tmp_path: Path
) -> None:
    deployments = Deployments({"quiet": endpoint_of(versions.versions["good"], "quiet")})
    settings = {"kafka_bootstrap": kafka_bootstrap, "deployments": deployments}
    limited = {"replay": {"requests": 50, "endpoint": "quiet", "max_disagreement": 0.1}}
    assert not (await ran(versions, tmp_path, limited, **settings))[0].ok
    reported, stage = await ran(
        versions, tmp_path, {"replay": {"requests": 50, "endpoint": "quiet"}}, **settings
    )
    assert reported.ok
    assert reported.result["checks"] == {"replay": "not_assessed"}
    assert stage.lines[-1][0] == "warning"
    elsewhere = {"replay": {"requests": 50, "environment": "production"}}
    with pytest.raises(NotFound) as error:
        await ran(versions, tmp_path, elsewhere, **settings)
    assert error.value.code == "deployment_not_found"
