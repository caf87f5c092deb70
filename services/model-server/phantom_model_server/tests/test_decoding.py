"""Requests in every form that clients send them, and every refusal."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from phantom_contracts.schema import EndpointSchema, Feature, ModelSchema, endpoint_schema
from phantom_model_server.decoding import Decoder
from phantom_model_server.projection import Projection
from phantom_model_server.tensors import NUMERIC as DATATYPES
from phantom_model_server.tests.conftest import CARRIERS, MIXED, NUMERIC, request
from phantom_platform.errors import Invalid


def decoder(*schemas, model=None, previous=None):
    endpoint = endpoint_schema(schemas, previous)
    return Decoder(Projection(endpoint, model or schemas[-1]))


def named(tensors, *, raw=True):
    """tensors: name → (datatype, shape, values or bytes)."""
    made = oip.ModelInferRequest(model_name="flights-prod")
    for name, (datatype, shape, values) in tensors.items():
        tensor = made.inputs.add(name=name, datatype=datatype, shape=shape)
        if datatype == "BYTES":
            texts = [text if isinstance(text, bytes) else text.encode() for text in values]
            if raw:
                made.raw_input_contents.append(b"".join(struct.pack("<I", len(t)) + t for t in texts))
            else:
                tensor.contents.bytes_contents.extend(texts)
        elif raw:
            made.raw_input_contents.append(np.asarray(values, dtype=DATATYPES[datatype][0]).tobytes())
        else:
            getattr(tensor.contents, DATATYPES[datatype][1]).extend(values)
    return made


FLIGHTS = {
    "carrier": ("BYTES", [2, 1], ["AA", "UA"]),
    "hour": ("INT64", [2], [7, 23]),
    "distance": ("FP32", [2, 1], [0.5, 1.5]),
}


def refused(of, wanted, *, code):
    with pytest.raises(Invalid) as caught:
        of.decode(wanted)
    assert caught.value.code == code
    return caught.value.message


def test_one_tensor_with_all_columns_is_taken_as_it_lies():
    rows = decoder(NUMERIC).decode(request([[1, 2, 0, 4], [5, 6, 1, np.nan]]))
    assert rows.count == 2
    assert rows.numbers.dtype == np.float32
    np.testing.assert_array_equal(rows.numbers, np.float32([[1, 2, 0, 4], [5, 6, 1, np.nan]]))
    assert (rows.missing, rows.unknown, rows.is_raw) == (0, 0, True)


def test_one_tensor_of_doubles_stays_double():
    rows = decoder(NUMERIC).decode(request([[0.1, 2, 0, 4]], dtype="<f8"))
    assert rows.numbers.dtype == np.float64
    assert rows.numbers[0, 0] == 0.1


@pytest.mark.parametrize("raw", [True, False])
def test_named_tensors_come_in_any_order_and_type(raw):
    of = decoder(MIXED)
    rows = of.decode(named(FLIGHTS, raw=raw))
    assert of.projection.number_columns == ("distance", "hour")
    assert rows.numbers.tolist() == [[0.5, 7], [1.5, 23]]
    assert rows.numbers.dtype == np.float64
    assert rows.texts == [["AA", "UA"]]
    assert rows.codes.tolist() == [[1], [0]]
    assert rows.is_raw == raw


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"FP16"}))
def test_every_numeric_datatype_is_read_raw_and_typed(datatype, raw):
    wanted = {name: (datatype, [2], [1, 0]) for name in ("distance", "hour", "is_weekend", "wind")}
    rows = decoder(NUMERIC).decode(named(wanted, raw=raw))
    assert rows.numbers.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


def test_half_precision_is_read_raw_only():
    tensors = {name: ("FP16", [1], [0.5]) for name in ("distance", "hour", "is_weekend")}
    assert decoder(NUMERIC).decode(named(tensors)).numbers[0, 0] == 0.5
    tensor = oip.ModelInferRequest()
    tensor.inputs.add(name="features", datatype="FP16", shape=[1, 4]).contents.fp32_contents.extend([0.5] * 4)
    assert "raw_input_contents for FP16" in refused(decoder(NUMERIC), tensor, code="wrong_datatype")


def test_typed_integers_keep_their_sign_and_their_range():
    tensors = {"distance": ("INT8", [2], [-128, 127]), "hour": ("INT64", [2], [-1, 2**40])}
    tensors["is_weekend"] = ("BOOL", [2], [True, False])
    rows = decoder(NUMERIC).decode(named(tensors, raw=False))
    assert rows.numbers[:, :3].tolist() == [[-128, -1, 1], [127, 2**40, 0]]
    tensors["distance"] = ("INT8", [2], [-129, 0])
    message = refused(decoder(NUMERIC), named(tensors, raw=False), code="value_out_of_range")
    assert message == "tensor 'distance': expected INT8 from -128 to 127, got a value outside"


def test_an_unknown_category_is_a_missing_value_and_counted():
    tensors = {**FLIGHTS, "carrier": ("BYTES", [2, 1], ["ZZ", ""])}
    rows = decoder(MIXED).decode(named(tensors))
    assert np.isnan(rows.codes).all()
    assert rows.unknown == 1  # the empty text is simply missing
    assert rows.texts == [["ZZ", ""]]


def test_a_feature_that_this_model_does_not_use_is_packed_all_the_same():
    of = decoder(NUMERIC, MIXED, model=MIXED)
    wanted = {**FLIGHTS, "wind": ("FP32", [2], [3.0, 4.0])}
    rows = of.decode(named(wanted))
    assert of.projection.number_columns == ("distance", "hour", "is_weekend", "wind")
    np.testing.assert_array_equal(rows.numbers, [[0.5, 7, np.nan, 3], [1.5, 23, np.nan, 4]])
    matrix = of.projection.matrix(rows.numbers, rows.codes)
    assert matrix.tolist() == [[0.5, 7, 1], [1.5, 23, 0]]


def test_the_width_of_an_earlier_version_is_accepted_and_its_later_columns_are_missing():
    first = ModelSchema(features=NUMERIC.features[:3], class_labels=NUMERIC.class_labels)
    grown = endpoint_schema([first, NUMERIC], endpoint_schema([first]))
    assert grown.accepted_widths == {3, 4}
    of = Decoder(Projection(grown, NUMERIC))
    rows = of.decode(request([[1, 2, 0], [3, 4, 1]]))
    np.testing.assert_array_equal(rows.numbers, np.float32([[1, 2, 0, np.nan], [3, 4, 1, np.nan]]))
    assert rows.missing == 2  # `wind` is optional: counted, a row each
    message = refused(of, request([[1, 2]]), code="wrong_shape")
    assert message == "tensor 'features': expected [rows, 3] or [rows, 4], got [1, 2]"
    needs = NUMERIC.model_copy(update={"features": (*first.features, Feature(name="wind"))})
    message = refused(Decoder(Projection(grown, needs)), request([[1, 2, 0]]), code="missing_feature")
    assert "'wind'" in message


def test_a_required_feature_that_did_not_come_is_named_and_an_optional_one_is_counted():
    some = {name: ("FP32", [1], [1]) for name in ("distance", "hour")}
    message = refused(decoder(NUMERIC), named(some), code="missing_feature")
    assert message == "the model needs 'is_weekend', which did not come; send them too"
    rows = decoder(NUMERIC).decode(named({**some, "is_weekend": ("BOOL", [1], [1])}))
    assert rows.missing == 1
    assert np.isnan(rows.numbers[0, 3])


def test_an_undeclared_feature_is_refused_by_name():
    message = refused(
        decoder(MIXED), named({**FLIGHTS, "pilot": ("FP32", [2], [1, 1])}), code="unknown_feature"
    )
    assert message == (
        "tensor 'pilot' is not in the endpoint's schema; send one tensor a feature: distance, hour, carrier"
    )
    message = refused(decoder(NUMERIC), named({"input-0": ("FP32", [1, 4], [1] * 4)}), code="unknown_feature")
    assert "send one tensor 'features' of shape [rows, 4], or one a feature: distance, hour" in message


def test_the_single_tensor_is_refused_where_a_column_is_text():
    message = refused(decoder(MIXED), request([[1, 2, 3]]), code="unknown_feature")
    assert "the endpoint takes text (carrier), so it needs one tensor a feature" in message


def test_a_column_may_itself_be_called_features():
    schema = ModelSchema(features=(Feature(name="features"),), task="regression")
    assert decoder(schema).decode(named({"features": ("FP32", [3], [1, 2, 3])})).count == 3


CASES = [
    (
        "wrong_length",
        {"hour": ("INT64", [2], [1])},
        "tensor 'hour': expected 16 bytes (2 × INT64), got 8 bytes",
    ),
    ("wrong_shape", {"hour": ("INT64", [3], [1] * 3)}, "tensor 'hour': expected [2] or [2, 1], got [3]"),
    ("wrong_shape", {"hour": ("INT64", [2, 2], [1] * 4)}, "got [2, 2]"),
    ("wrong_shape", {"hour": ("INT64", [], [1])}, "got []"),
    (
        "wrong_shape",
        {"carrier": ("BYTES", [0], [])},
        "tensor 'carrier': expected at least one row, got 0 rows",
    ),
    (
        "wrong_datatype",
        {"hour": ("BYTES", [2], ["1", "2"])},
        "expected a numeric datatype for int, got 'BYTES'",
    ),
    ("wrong_datatype", {"carrier": ("FP32", [2], [1, 2])}, "tensor 'carrier': expected BYTES, got 'FP32'"),
    ("wrong_length", {"carrier": ("BYTES", [2], ["AA"])}, "tensor 'carrier': expected 2 texts, got 1"),
    ("wrong_length", {"carrier": ("BYTES", [2], ["A", "B", "C"])}, "expected 2 texts, got more"),
    ("invalid_utf8", {"carrier": ("BYTES", [2], ["AA", b"\xff\xfe"])}, "bytes that are no UTF-8 in row 1"),
    ("text_too_long", {"carrier": ("BYTES", [2], ["AA", "x" * 2000])}, "at most 1024 bytes, got 2000 bytes"),
]


@pytest.mark.parametrize(("code", "change", "message"), CASES)
def test_a_tensor_that_is_not_as_the_schema_wants_it_is_refused_by_name(code, change, message):
    tensors = {**change, **{name: value for name, value in FLIGHTS.items() if name not in change}}
    if code == "wrong_shape":
        tensors = {**FLIGHTS, **change}
    assert message in refused(decoder(MIXED), named(tensors), code=code)


@pytest.mark.parametrize("shape", [[4], [1, 4, 1], [], [1, 5], [-1, 4], [0, 4], [2**62, 4]])
def test_the_single_tensors_shape_is_checked(shape):
    wanted = request([[1, 2, 0, 4]])
    wanted.inputs[0].shape[:] = shape
    with pytest.raises(Invalid) as caught:
        decoder(NUMERIC).decode(wanted)
    assert caught.value.code in ("wrong_shape", "wrong_length")
    assert "'features'" in caught.value.message


@pytest.mark.parametrize("raw", [True, False])
def test_a_shape_that_claims_too_much_is_refused_before_memory_is_taken(raw):
    tensors = {name: ("FP32", [2**61], [1.0]) for name in ("distance", "hour", "is_weekend")}
    refused(decoder(NUMERIC), named(tensors, raw=raw), code="wrong_length")
    texts = {
        "carrier": ("BYTES", [2**61], ["AA"]),
        "hour": ("FP32", [2**61], [1]),
        "distance": ("FP32", [2**61], [1]),
    }
    refused(decoder(MIXED), named(texts, raw=raw), code="wrong_length")


@pytest.mark.parametrize("datatype", ["BYTES", "BF16", "fp32", "", "X" * 500])
def test_a_datatype_that_is_none_is_refused(datatype):
    wanted = request([[1, 2, 0, 4]])
    wanted.inputs[0].datatype = datatype
    message = refused(decoder(NUMERIC), wanted, code="wrong_datatype")
    assert len(message) < 300


def test_contents_come_raw_or_typed_and_one_an_input():
    both = request([[1, 2, 0, 4]])
    both.inputs[0].contents.fp32_contents.extend([1, 2, 0, 4])
    assert "send one of them" in refused(decoder(NUMERIC), both, code="mixed_contents")
    more = request([[1, 2, 0, 4]])
    more.raw_input_contents.append(b"")
    assert "2 entries for 1 inputs" in refused(decoder(NUMERIC), more, code="wrong_length")
    none = request([[1, 2, 0, 4]])
    del none.raw_input_contents[:]
    message = refused(decoder(NUMERIC), none, code="wrong_length")
    assert message == "tensor 'features': expected 4 values in fp32_contents, got none"
    none.inputs[0].contents.fp64_contents.extend([1, 2, 0, 4])
    assert "got 4 in fp64_contents" in refused(decoder(NUMERIC), none, code="wrong_length")
    assert "no input tensor" in refused(decoder(NUMERIC), oip.ModelInferRequest(), code="missing_feature")


def test_a_tensor_that_comes_twice_is_refused():
    wanted = named(FLIGHTS)
    wanted.inputs.add().CopyFrom(wanted.inputs[1])
    wanted.raw_input_contents.append(wanted.raw_input_contents[1])
    assert "'hour' comes twice" in refused(decoder(MIXED), wanted, code="duplicate_tensor")


def test_a_broken_length_inside_raw_texts_is_refused():
    for content in (b"\x02\x00\x00\x00AA\xff\xff\xff\x7f", b"\x02\x00", b"\x02\x00\x00\x00AA\x01"):
        wanted = named(FLIGHTS)
        wanted.raw_input_contents[0] = content
        refused(decoder(MIXED), wanted, code="wrong_length")


@pytest.mark.parametrize(
    ("rows", "code", "message"),
    [
        ([[1, np.nan, 0, 1]], "missing_value", "tensor 'hour': expected int, never missing, got no value"),
        ([[1, 2, 0, 1], [np.inf, 2, 0, 1]], "invalid_value", "expected float, got an infinite value in row 1"),
        ([[1, 2.5, 0, 1]], "invalid_value", "tensor 'hour': expected int, never missing, got a fraction in row 0"),
        ([[1, 2, 2, 1]], "invalid_value", "tensor 'is_weekend': expected bool, got neither 0 nor 1 in row 0"),
    ],
)  # fmt: skip
def test_values_that_the_model_forbids_are_refused_by_feature_and_row(rows, code, message):
    of = decoder(NUMERIC)
    decoded = of.decode(request(rows))
    with pytest.raises(Invalid) as caught:
        of.projection.check(of.projection.matrix(decoded.numbers, decoded.codes))
    assert caught.value.code == code
    assert message in caught.value.message


def test_an_unknown_category_is_refused_where_the_feature_may_not_be_missing():
    strict = MIXED.model_copy(
        update={
            "features": (Feature(name="carrier", type="string", categories=CARRIERS, allows_missing=False),)
        }
    )
    of = decoder(strict)
    decoded = of.decode(named({"carrier": ("BYTES", [1], ["ZZ"])}))
    with pytest.raises(Invalid, match="none of its categories in row 0"):
        of.projection.check(of.projection.matrix(decoded.numbers, decoded.codes))


def test_an_endpoint_column_of_another_kind_than_the_models_feature_is_a_conflict():
    endpoint = EndpointSchema.model_validate({"columns": [{"name": "carrier", "type": "double"}]})
    with pytest.raises(Invalid) as caught:
        Projection(endpoint, MIXED)
    assert caught.value.code == "schema_conflict"


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_arbitrary_bytes_are_decoded_or_refused(raw):
    of = decoder(MIXED)
    try:
        wanted = oip.ModelInferRequest.FromString(raw)
    except Exception:
        return
    with pytest.raises(Invalid):
        of.decode(wanted)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["carrier", "hour", "distance", "features", "x"]),
            st.sampled_from(["FP32", "INT64", "BYTES", "BOOL", ""]),
            st.lists(st.integers(-2, 3), max_size=3),
            st.binary(max_size=24),
        ),
        max_size=4,
    ),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_arbitrary_tensors_are_decoded_or_refused(tensors, raw):
    of = decoder(MIXED)
    wanted = oip.ModelInferRequest()
    for name, datatype, shape, content in tensors:
        tensor = wanted.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw:
            wanted.raw_input_contents.append(content)
        else:
            tensor.contents.fp32_contents.extend(float(each) for each in content)
            tensor.contents.bytes_contents.append(content)
    try:
        rows = of.decode(wanted)
    except Invalid:
        return
    assert rows.numbers.shape == (rows.count, 2)
