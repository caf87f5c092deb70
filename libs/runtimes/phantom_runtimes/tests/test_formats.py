import gzip
import pickle

import pytest

from phantom_runtimes import Invalid, load, sniff, verify_digest
from phantom_runtimes.digest import sha256_of
from phantom_runtimes.tests.conftest import NUMBERS


def test_a_format_is_told_by_content_and_never_by_name(boosters, onnx_binary, folder, tmp_path):
    import skops.io
    from sklearn.dummy import DummyClassifier

    made = DummyClassifier().fit([[0.0], [1.0]], [0, 1])
    (tmp_path / "a.onnx").write_bytes((folder / "binary.json").read_bytes())
    (tmp_path / "b.json").write_bytes((folder / "binary.ubj").read_bytes())
    (tmp_path / "c.pkl").write_bytes(onnx_binary.read_bytes())
    (tmp_path / "d.ubj").write_bytes(pickle.dumps(made))
    (tmp_path / "e.json").write_bytes(pickle.dumps(made, protocol=0))
    (tmp_path / "f.json").write_bytes(gzip.compress(pickle.dumps(made)))
    skops.io.dump(made, tmp_path / "g.json")
    found = {path.name[0]: sniff(path) for path in tmp_path.iterdir()}
    assert found == {
        "a": "xgboost-json",
        "b": "xgboost-ubj",
        "c": "onnx",
        "d": "pickle",
        "e": "pickle",
        "f": "pickle",
        "g": "skops",
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"hello, this is a text",
        b"\x89PNG\r\n\x1a\n",
        b"PK\x03\x04broken",
        b"{",
        b"[1]",
        b"<html>",
        b"\x7fELF",
    ],
)
def test_what_is_no_model_is_refused(content, tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(Invalid) as caught:
        load(path, "xgboost", NUMBERS)
    assert caught.value.code in ("unknown_format", "corrupt_model")


def test_a_model_of_another_framework_is_refused_by_name(boosters, folder):
    with pytest.raises(Invalid, match="the artifact is xgboost-ubj, but was registered as onnx") as caught:
        load(folder / "binary.ubj", "onnx", NUMBERS)
    assert caught.value.code == "wrong_format"
    with pytest.raises(Invalid, match="there are xgboost, onnx, scikit-learn") as caught:
        load(folder / "binary.ubj", "tensorflow", NUMBERS)
    assert caught.value.code == "unknown_framework"


def test_a_digest_that_differs_is_refused(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"one")
    good = sha256_of(path)
    verify_digest(path, good.upper())
    path.write_bytes(b"two")
    for wanted in (good, "abc", ""):
        with pytest.raises(Invalid) as caught:
            verify_digest(path, wanted)
        assert caught.value.code == "digest_mismatch"


def test_no_thread_at_all_is_refused(boosters, folder):
    with pytest.raises(ValueError, match="at least one thread"):
        load(folder / "binary.ubj", "xgboost", NUMBERS, threads=0)
