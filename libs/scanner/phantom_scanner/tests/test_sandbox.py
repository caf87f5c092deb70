"""A scan from outside: limits, crashes, the environment, the command, and SARIF."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from phantom_scanner import Limits, Report, scan, to_sarif
from phantom_scanner.__main__ import main
from phantom_scanner.tests.conftest import begin, called, text


@pytest.fixture
def file(tmp_path):
    def write(data, name="model.onnx"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_a_scan_in_a_child_process_says_what_the_file_is_and_its_digest(file, pipelines):
    path = file(pickle.dumps(pipelines["logistic"]))
    report = scan(path, framework="scikit-learn")
    assert (report.verdict, report.format, report.blocks) == ("pass", "pickle", False)
    assert report.size == path.stat().st_size
    assert len(report.sha256) == 64
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_a_hostile_file_fails(file):
    report = scan(file(called("os", "system", "id")))
    assert report.verdicts == {"malware_scan": "fail", "secret_detection": "pass", "structure": "pass"}


def test_a_scan_that_takes_too_long_is_not_assessed_and_blocks(file):
    # Numbers that all hash alike: filling the set takes quadratic time, in a real unpickler as in ours.
    alike = b"".join(b"\x8a\x40" + (n * (2**61 - 1)).to_bytes(64, "little") for n in range(1, 40_000))
    path = file(begin() + b"\x8f(" + alike + b"\x90.")
    for limits in (Limits(wall_s=1.5), Limits(cpu_s=1)):
        report = scan(path, limits=limits)
        assert set(report.verdicts.values()) == {"not_assessed"}
        assert report.blocks
    assert "too much time" in report.unassessed["malware_scan"]


def test_a_scan_that_needs_too_much_memory_is_not_a_pass(file):
    report = scan(file(pickle.dumps(bytes(64 * 1024 * 1024))), limits=Limits(memory_bytes=128 * 1024 * 1024))
    assert report.blocks


def test_a_scan_whose_reader_crashes_is_not_assessed(file):
    # Tuples in tuples, a million deep, hashed as a key: the interpreter itself overflows its stack.
    path = file(begin() + b"}" + b")" + b"\x85" * 3_000_000 + b"K\x01s.")
    report = scan(path)
    assert report.verdicts["malware_scan"] in ("not_assessed", "fail")
    assert report.blocks


def test_a_file_larger_than_the_limit_is_not_assessed(file):
    report = scan(file(pickle.dumps(bytes(1000))), limits=Limits(file_bytes=100))
    assert "at most 100" in report.unassessed["structure"]


def test_the_child_has_none_of_the_callers_environment(file, monkeypatch):
    monkeypatch.setenv("PHANTOM_SECRET_FOR_TEST", "s3cret")
    seen = []
    real = subprocess.Popen

    def spy(*args, **kwargs):
        seen.append(kwargs["env"])
        return real(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", spy)
    scan(file(pickle.dumps(1)))
    assert set(seen[0]) == {"LANG", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TMPDIR"}
    assert "s3cret" not in json.dumps(seen)


def test_the_working_directory_is_no_place_to_hide_a_module_in(file, tmp_path, monkeypatch):
    path = file(pickle.dumps(1))
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    assert scan(path).verdict == "pass"


def test_no_file_and_an_unknown_framework_are_errors_not_verdicts(tmp_path, file):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        scan(tmp_path / "nothing")
    with pytest.raises(ValueError, match="there are xgboost, onnx, scikit-learn"):
        scan(file(b"{}"), framework="torch")


def test_the_command_prints_a_verdict_and_ends_with_it(file, capsys):
    assert main([str(file(pickle.dumps({"a": 1})))]) == 0
    assert capsys.readouterr().out.startswith("pass  model.onnx (pickle, ")
    assert main([str(file(called("os", "system", "id"))), "--framework", "scikit-learn"]) == 5
    said = capsys.readouterr().out
    assert "critical pickle.global at byte 14 (STACK_GLOBAL): the pickle names os.system" in said
    with pytest.raises(SystemExit) as ended:
        main(["/nowhere/model"])
    assert ended.value.code == 2


def test_the_command_runs_as_a_module(file):
    done = subprocess.run(
        [sys.executable, "-m", "phantom_scanner", str(file(called("os", "system", "id"))), "--json"],
        capture_output=True, timeout=60, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 5
    assert json.loads(done.stdout)["verdicts"]["malware_scan"] == "fail"


def test_sarif_holds_every_finding_and_its_rule(file, capsys):
    path = file(pickle.dumps({"password": "hunter2-Xy7!q"})[:-1] + text("os") + text("system") + b"\x93.")
    assert main([str(path), "--sarif"]) == 5
    log = json.loads(capsys.readouterr().out)
    run = log["runs"][0]
    assert log["version"] == "2.1.0"
    assert run["properties"]["verdict"] == "fail"
    rules = {each["id"] for each in run["tool"]["driver"]["rules"]}
    assert {each["ruleId"] for each in run["results"]} == rules >= {"pickle.global", "secret.secret_keyword"}
    assert {each["level"] for each in run["results"]} <= {"error", "warning", "note", "none"}
    assert all(each["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] for each in run["results"])
    assert run["invocations"][0]["executionSuccessful"]


def test_sarif_of_what_was_not_assessed_is_an_unsuccessful_execution(file):
    report = scan(file(bytes(1000)), limits=Limits(file_bytes=10))
    invocation = to_sarif(report)["runs"][0]["invocations"][0]
    assert not invocation["executionSuccessful"]
    assert all("not assessed" in each["message"]["text"] for each in invocation["toolExecutionNotifications"])
