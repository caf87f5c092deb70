"""Secrets are found wherever a model file carries text, and a report never repeats them."""

import json
import pickle

import numpy as np
import pytest
from onnx import TensorProto, helper

from phantom_scanner import secrets
from phantom_scanner.tests.conftest import dumped_by_joblib

# Shaped like the real ones; put together here so that no scanner of this repository takes them for real.
SECRETS = {
    "aws_access_key": "AKIA" + "IOSFODNN7EXAMPL2",
    "aws_temporary_access_key": "ASIA" + "IOSFODNN7EXAMPL2",
    "github_token": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "slack_token": "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx",
    "stripe_access_key": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "basic_auth_credentials": "postgres://scott:" + "t1ger-Lily@db.example.com/prod",
    "json_web_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "private_key": "-----BEGIN RSA " + "PRIVATE KEY-----",
}


def found_in(report):
    return {each.id.removeprefix("secret.") for each in report.findings if each.scan == "secret_detection"}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_found_in_every_kind_of_file(name, look):
    secret = SECRETS[name]
    document = {"learner": {"attributes": {"note": secret}}}
    node = helper.make_node("Relu", ["x"], ["y"])
    one = [helper.make_tensor_value_info(each, TensorProto.FLOAT, [1]) for each in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", one[:1], one[1:]))
    model.metadata_props.add(key="note", value=secret)
    files = {
        "json": json.dumps(document).encode(),
        "pickle 0": pickle.dumps([{"note": secret}], protocol=0),
        "pickle 5": pickle.dumps({"note": secret}, protocol=5),
        "bytes in a pickle": pickle.dumps({"note": b"\x00\x01" + secret.encode()}),
        "joblib": dumped_by_joblib({"note": secret, "array": np.arange(4)}, ("zlib", 3)),
        "onnx": model.SerializeToString(),
    }
    for kind, raw in files.items():
        report = look(raw, "")
        assert name in found_in(report), (kind, report.findings)
        assert report.verdicts["secret_detection"] == "fail"


def test_a_report_never_repeats_a_secret(look):
    for secret in SECRETS.values():
        report = look(pickle.dumps({"password": secret, "note": secret}), "")
        hidden = secret.split("scott:")[-1].split("@")[0]
        assert hidden not in json.dumps(report.to_dict()) or hidden.startswith("-----BEGIN")


def test_a_value_under_a_telling_name_is_a_secret_and_a_plain_word_is_not(look):
    report = look(pickle.dumps({"db_password": "hunter2-Xy7!q", "api_key": "none", "n_estimators": 3}), "")
    keyed = [each for each in report.findings if each.id == "secret.secret_keyword"]
    assert len(keyed) == 1
    assert "hunter2" not in keyed[0].evidence
    xgboost = {"learner": {"attributes": {"secret_token": "q8Zr-2kLw0-pTt5"}}}
    assert "secret_keyword" in found_in(look(json.dumps(xgboost).encode(), ""))


def test_a_secret_written_in_wide_letters_is_found(look):
    wide = SECRETS["aws_access_key"].encode("utf-16-le")
    assert "aws_access_key" in found_in(look(pickle.dumps({"x": b"\x00" + wide}), ""))


def test_honest_models_hold_no_secrets(pipelines, look):
    for name, estimator in pipelines.items():
        assert found_in(look(pickle.dumps(estimator))) == set(), name


def test_the_number_of_findings_is_bounded():
    lines = (("byte 0", f"AKIA{n:016d}", False) for n in range(100_000))
    assert len(list(secrets.find(lines, limit=20))) == 20


def test_nothing_asks_a_service(monkeypatch, look):
    import socket

    def no_network(*_args, **_kwargs):
        raise AssertionError("a secret was sent somewhere to ask whether it is one")

    monkeypatch.setattr(socket, "socket", no_network)
    look(pickle.dumps({"all": list(SECRETS.values())}), "")
