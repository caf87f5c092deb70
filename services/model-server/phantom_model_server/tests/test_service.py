"""Frames: one run of the model, a status for each call, replies and packed blocks."""

import struct

import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom.predictions.v1.prediction_batch_pb2 import Block
from phantom_contracts.schema import Feature, ModelSchema, endpoint_schema
from phantom_model_server.answers import Answers, encode
from phantom_model_server.blocks import MAX_BYTES, MAX_ROWS
from phantom_model_server.decoding import Rows
from phantom_model_server.requests import Call
from phantom_model_server.service import Asked, ModelServer
from phantom_model_server.tests.conftest import MIXED, NUMERIC, request
from phantom_model_server.tests.test_decoding import FLIGHTS, named
from phantom_runtimes import Predictions, load
from phantom_runtimes.model import classified, regressed

LATER = 1e9


class Seen:
    def __init__(self):
        self.frames = []

    def answered(self, frame, seconds):
        self.frames.append(frame)


class Linear:
    """A model that answers the sum of each row, and raises on a row that holds 13 in its first column."""

    runtime = "linear"

    def __init__(self, schema):
        self.schema = schema
        self.runs = 0

    def predict(self, matrix):
        self.runs += 1
        if (matrix[:, 0] == 13).any():
            raise RuntimeError("unlucky\nmore words")
        if self.schema.task == "regression":
            return regressed(np.nansum(matrix, axis=1))
        classes = len(self.schema.class_labels)
        shares = np.zeros((len(matrix), classes), dtype=np.float32)
        shares[np.arange(len(matrix)), np.nan_to_num(matrix[:, 0]).astype(int) % classes] = 1
        return classified(self.schema, shares)


@pytest.fixture(scope="module")
def server(artifacts):
    schema, path, _ = artifacts[1]["numeric"]
    return ModelServer(load(path, "xgboost", schema), "1.0.0", Seen())


@pytest.fixture(scope="module")
def mixed(artifacts):
    schema, path, _ = artifacts[1]["mixed"]
    return ModelServer(load(path, "xgboost", schema), "1.1.0", Seen())


def linear(schema):
    return ModelServer(Linear(schema), "1", Seen())


def ask(server, *requests, endpoint=None, now=0.0, deadline=LATER):
    bodies = [each if isinstance(each, bytes) else each.SerializeToString() for each in requests]
    return server.answer(endpoint or server.own, [Asked(body, deadline) for body in bodies], now)


def outputs(reply):
    """name → values of a reply, raw or typed."""
    found = oip.ModelInferResponse.FromString(reply)
    kinds = {
        "FP32": ("<f4", "fp32_contents"),
        "FP64": ("<f8", "fp64_contents"),
        "INT64": ("<i8", "int64_contents"),
    }
    values = {}
    for place, output in enumerate(found.outputs):
        if output.datatype == "BYTES":
            if not found.raw_output_contents:
                values[output.name] = [each.decode() for each in output.contents.bytes_contents]
                continue
            raw, at, texts = found.raw_output_contents[place], 0, []
            while at < len(raw):
                (length,) = struct.unpack_from("<I", raw, at)
                texts.append(raw[at + 4 : at + 4 + length].decode())
                at += 4 + length
            values[output.name] = texts
        elif found.raw_output_contents:
            flat = np.frombuffer(found.raw_output_contents[place], kinds[output.datatype][0])
            values[output.name] = flat.reshape(list(output.shape)).tolist()
        else:
            flat = np.array(getattr(output.contents, kinds[output.datatype][1]))
            values[output.name] = flat.reshape(list(output.shape)).tolist()
    return values


def blocks_of(answered):
    return [pb.PackedBlock.FromString(each) for each in answered.blocks]


def rows_of(answered):
    """call → rows in its blocks, in order: (offset in the call, numbers, score)."""
    found = {}
    for packed in blocks_of(answered):
        block = Block.FromString(packed.block)
        width = len(block.number_columns)
        numbers = np.frombuffer(block.numbers, f"<f{block.number_width}").reshape(block.rows, width)
        scores = np.frombuffer(block.scores or block.values, "<f4" if block.scores else "<f8")
        at = 0
        for call, offset, rows in zip(packed.calls, packed.row_offsets, packed.rows, strict=True):
            for n in range(rows):
                found.setdefault(call, []).append((offset + n, numbers[at + n], scores[at + n]))
            at += rows
        assert at == block.rows
    return found


def test_a_frame_is_answered_with_one_run_and_one_block(server, artifacts):
    rng = np.random.default_rng(4)
    rows = [np.float32([[rng.normal(), n, n % 2, rng.normal()]]) for n in range(20)]
    answered = ask(server, *(request(each, request_id=str(n)) for n, each in enumerate(rows)))
    assert (answered.runs, answered.rows, answered.errors) == (1, 20, {})
    wanted = server.model.predict(np.concatenate(rows))
    packed = rows_of(answered)
    for n, reply in enumerate(answered.replies):
        message = oip.ModelInferResponse.FromString(reply)
        assert (message.model_name, message.model_version, message.id) == ("flights-prod", "1.0.0", str(n))
        found = outputs(reply)
        assert found["probabilities"] == [pytest.approx(wanted.probabilities[n].tolist())]
        assert found["score"] == [pytest.approx(wanted.scores[n])]
        assert found["label"] == [NUMERIC.class_labels[wanted.labels[n]]]
        ((offset, numbers, score),) = packed[n]
        assert offset == 0
        assert numbers.tolist() == rows[n][0].tolist()
        assert score == np.float32(wanted.scores[n])


def test_typed_in_gives_typed_out_and_raw_in_gives_raw_out(server):
    raw = request([[0.5, 13, 1, 2.0]])
    typed = oip.ModelInferRequest(model_name="flights-prod", id="r1")
    tensor = typed.inputs.add(name="features", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([0.5, 13, 1, 2.0])
    answered = ask(server, raw, typed)
    first, second = (oip.ModelInferResponse.FromString(each) for each in answered.replies)
    assert len(first.raw_output_contents) == 3
    assert len(second.raw_output_contents) == 0
    assert outputs(answered.replies[0]) == outputs(answered.replies[1])
    assert [list(output.shape) for output in first.outputs] == [[1], [1, 2], [1]]
    assert [output.datatype for output in first.outputs] == ["BYTES", "FP32", "FP32"]


def test_only_the_outputs_that_were_asked_for_are_answered_in_their_order(server):
    wanted = request([[0.5, 13, 1, 2.0]])
    wanted.outputs.add(name="score")
    wanted.outputs.add(name="label")
    answered = ask(server, wanted, request([[0.5, 13, 1, 2.0]]))
    assert list(outputs(answered.replies[0])) == ["score", "label"]
    assert list(outputs(answered.replies[1])) == ["label", "probabilities", "score"]


@pytest.mark.parametrize(
    ("names", "code", "message"),
    [
        (
            ["lable"],
            "unknown_output",
            "output 'lable' is not one of the model's: label, probabilities, score",
        ),
        (["label", "label"], "duplicate_output", "asked for twice"),
    ],
)
def test_an_output_that_is_none_is_refused(server, names, code, message):
    wanted = request([[0.5, 13, 1, 2.0]])
    for name in names:
        wanted.outputs.add(name=name)
    error = ask(server, wanted).errors[0]
    assert error.code == code
    assert message in error.message


def test_an_output_parameter_that_cannot_be_honoured_is_refused(server):
    wanted = request([[0.5, 13, 1, 2.0]])
    wanted.outputs.add(name="label").parameters["classification"].int64_param = 3
    assert ask(server, wanted).errors[0].code == "unsupported_parameter"


def test_a_bad_call_never_fails_its_neighbours(server):
    good = request([[0.5, 13, 1, 2.0]])
    bad = {
        "unparsable_request": b"\xff\xff\xff",
        "wrong_shape": request([[1, 2]]),
        "invalid_value": request([[np.inf, 2, 0, 1]]),
        "missing_value": request([[0.5, np.nan, 0, 1]]),
    }
    answered = ask(server, good, *bad.values(), good)
    assert {n: error.code for n, error in answered.errors.items()} == {
        n + 1: code for n, code in enumerate(bad)
    }
    assert outputs(answered.replies[0]) == outputs(answered.replies[5])
    assert answered.replies[1:5] == [b""] * 4
    assert (answered.runs, answered.rows) == (1, 2)
    assert sorted(rows_of(answered)) == [0, 5]


def test_a_row_on_which_the_model_raises_fails_its_call_alone():
    server = linear(NUMERIC)
    answered = ask(server, *(request([[n, 1, 0, 0]]) for n in (1, 13, 2)))
    assert {n: error.code for n, error in answered.errors.items()} == {1: "model_failed"}
    assert answered.errors[1].message == "the model failed: unlucky"
    assert answered.runs == 4  # together, then one by one
    assert sorted(rows_of(answered)) == [0, 2]


def test_a_call_whose_time_has_passed_is_refused_before_the_model_is_run():
    server = linear(NUMERIC)
    body = request([[1, 1, 0, 0]]).SerializeToString()
    answered = server.answer(server.own, [Asked(body, 5.0), Asked(body, 5.1)], 5.0)
    assert [answered.errors[0].code, answered.rows] == ["deadline_exceeded", 1]


def test_invalid_utf8_and_cut_off_requests_are_unparsable(server):
    good = request([[0.5, 13, 1, 2.0]], request_id="abc").SerializeToString()
    for body in (good.replace(b"abc", b"a\xffc"), good[:-3], b"\x0a\xff"):
        assert ask(server, body).errors[0].code == "unparsable_request"


def test_float_and_double_calls_share_a_frame_but_not_a_block(server):
    answered = ask(server, request([[0.5, 1, 1, 2.0]]), request([[0.5, 1, 1, 2.0]], dtype="<f8"))
    assert answered.runs == 2
    assert sorted(Block.FromString(each.block).number_width for each in blocks_of(answered)) == [4, 8]
    assert outputs(answered.replies[0]) == outputs(answered.replies[1])


def test_categories_are_packed_as_they_came_and_unknown_ones_counted(mixed):
    endpoint = mixed.endpoint(endpoint_schema([NUMERIC, MIXED]))
    strange = {**FLIGHTS, "carrier": ("BYTES", [2, 1], ["ZZ", ""]), "wind": ("FP64", [2], [1.0, 2.0])}
    answered = ask(mixed, named(FLIGHTS), named(strange), endpoint=endpoint)
    assert not answered.errors
    (packed,) = blocks_of(answered)
    block = Block.FromString(packed.block)
    assert list(block.number_columns) == ["distance", "hour", "is_weekend", "wind"]
    assert list(block.category_columns) == ["carrier"]
    assert list(block.categories) == ["AA", "UA", "ZZ", ""]
    assert (block.unknown_categories, answered.unknown) == (1, 1)
    numbers = np.frombuffer(block.numbers, "<f8").reshape(4, 4)
    np.testing.assert_array_equal(numbers[:, 3], [np.nan, np.nan, 1, 2])
    labels = np.frombuffer(block.label_indexes, "<i4")
    names = [text for reply in answered.replies for text in outputs(reply)["label"]]
    assert [block.class_labels[n] for n in labels] == names
    assert np.frombuffer(block.probabilities, "<f4").shape == (8,)
    assert block.runtime == "xgboost"


def test_a_large_call_is_split_into_blocks_by_rows():
    server = linear(NUMERIC)
    many = np.tile(np.float32([[1, 1, 0, 0]]), (1_300, 1))
    answered = ask(server, request([[2, 1, 0, 0]]), request(many), request([[3, 1, 0, 0]]))
    assert [sum(each.rows) for each in blocks_of(answered)] == [512, 512, 278]
    packed = rows_of(answered)
    assert [offset for offset, _, _ in packed[1]] == list(range(1_300))
    assert len(packed[0]) == len(packed[2]) == 1
    assert packed[2][0][1][0] == 3


def test_blocks_stay_below_their_limit_however_wide_the_rows():
    wide = ModelSchema(features=tuple(Feature(name=f"f{n}") for n in range(3_000)), task="regression")
    server = linear(wide)
    answered = ask(server, request(np.ones((100, 3_000)), dtype="<f8"))
    assert len(answered.blocks) > 5
    assert max(len(each.block) for each in blocks_of(answered)) <= MAX_BYTES
    assert sum(sum(each.rows) for each in blocks_of(answered)) == 100
    texts = ModelSchema(
        features=tuple(Feature(name=f"c{n}", type="string", categories=("a",)) for n in range(20)),
        task="regression",
    )
    long = {f"c{n}": ("BYTES", [200], ["é" * 500] * 200) for n in range(20)}
    answered = ask(linear(texts), named(long))
    assert not answered.errors
    assert max(len(each.block) for each in blocks_of(answered)) <= MAX_BYTES
    assert all(sum(each.rows) <= MAX_ROWS for each in blocks_of(answered))


def test_a_regression_model_answers_value_and_score():
    schema = ModelSchema(features=(Feature(name="a"), Feature(name="b")), task="regression")
    server = linear(schema)
    answered = ask(server, request([[1.5, 2], [3, 4]], dtype="<f8"))
    assert outputs(answered.replies[0]) == {"value": [3.5, 7.0], "score": [3.5, 7.0]}
    block = Block.FromString(blocks_of(answered)[0].block)
    assert np.frombuffer(block.values, "<f8").tolist() == [3.5, 7.0]
    assert not block.label_indexes
    assert not block.scores


def test_labels_that_are_numbers_are_answered_as_numbers():
    schema = NUMERIC.model_copy(update={"class_labels": ("0", "1"), "positive_label": "1"})
    typed = oip.ModelInferRequest(model_name="m")
    typed.inputs.add(name="features", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend(
        [1, 1, 0, 0]
    )
    answered = ask(linear(schema), request([[1, 1, 0, 0], [2, 1, 0, 0]]), typed)
    assert outputs(answered.replies[0])["label"] == [1, 0]
    assert outputs(answered.replies[1])["label"] == [1]


def test_every_call_and_row_is_observed(server):
    server._observer.frames.clear()
    ask(server, request([[0.5, 13, 1, 2.0]] * 3), b"\xff")
    (frame,) = server._observer.frames
    assert (frame.rows, len(frame.replies), len(frame.errors)) == (3, 2, 1)


def test_replies_are_valid_protobuf_at_every_length_of_content():
    schema = ModelSchema(features=(Feature(name="a"),), task="regression")
    answers = Answers(schema, "1")
    for rows in (1, 15, 16, 17, 2_047, 2_048, 300_000):
        found = Predictions(None, np.arange(rows, dtype=np.float64), None, np.arange(rows, dtype=np.float64))
        ones = np.ones(rows, dtype=np.float32)
        asked = Rows(rows, 1, np.float32, ones.reshape(rows, 1), [], None, 0, 0, True)
        call = Call(0, "m", "i", asked, answers.wanted(oip.ModelInferRequest()))
        (reply,) = answers.replies([call], encode(found))
        assert outputs(reply)["value"] == list(range(rows))
