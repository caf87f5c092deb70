"""The routing fields are read right from any valid message, and anything else is refused clearly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from phantom_contracts.protobuf import varint
from phantom_inference_gateway import wire
from phantom_platform.errors import Invalid

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), texts)


def message(name="m", version="", request_id="", parameters=None, floats=0):
    request = oip.ModelInferRequest(model_name=name, model_version=version, id=request_id)
    for key, value in (parameters or {}).items():
        slot = request.parameters[key]
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[
            type(value)
        ]
        setattr(slot, kind, value)
    if floats:
        request.inputs.add(name="features", datatype="FP32", shape=[1, floats])
        request.raw_input_contents.append(b"\0" * 4 * floats)
    return request


@settings(max_examples=200, deadline=None)
@given(texts, texts, texts, st.dictionaries(texts, scalars, max_size=4), st.sampled_from([0, 45, 30_000]))
def test_the_head_is_what_the_client_wrote(name, version, request_id, parameters, floats):
    head = wire.read_head(message(name, version, request_id, parameters, floats).SerializeToString())
    assert (head.model_name, head.model_version, head.request_id) == (name, version, request_id)
    for key, value in parameters.items():
        assert head.parameter(key) == value
        assert type(head.parameter(key)) is type(value)
    assert head.parameter("absent \x00") is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_scanning_and_parsing_agree_on_any_bytes(body):
    def outcome(read):
        try:
            head = wire.Head(read(body))
        except wire.DecodeError:
            return None
        return head.model_name, head.model_version, head.request_id

    parsed = outcome(wire._parse_head)
    if parsed is None:
        with pytest.raises(Invalid) as refused:
            wire.read_head(body)
        assert refused.value.code == "unparsable_request"
    else:
        assert outcome(lambda each: wire._parse_head(wire._routing_fields(each))) == parsed


@pytest.mark.parametrize("floats", [45, 30_000])
def test_a_truncated_message_is_refused_wherever_it_ends(floats):
    body = message("flights", request_id="r", parameters={"u": "x"}, floats=floats).SerializeToString()
    head = message("flights", request_id="r", parameters={"u": "x"})
    fields = {
        9,
        12,
        head.ByteSize(),
        message("flights", request_id="r", parameters={"u": "x"}, floats=floats).ByteSize(),
    }
    tensor = message("", floats=floats)
    del tensor.raw_input_contents[:]
    fields.add(head.ByteSize() + tensor.ByteSize())
    for length in [*range(1, min(len(body), 60)), len(body) - 1, len(body) // 2]:
        if length in fields:  # cut exactly between two of them
            assert wire.read_head(body[:length]).model_name == "flights"
            continue
        with pytest.raises(Invalid, match=r"inference\.ModelInferRequest") as refused:
            wire.read_head(body[:length])
        assert refused.value.code == "unparsable_request"


@pytest.mark.parametrize("padding", [0, 100_000])
def test_invalid_utf8_names_the_field(padding):
    tail = b"\x3a" + varint(padding) + b"\0" * padding if padding else b""
    for field, name in ((1, "model_name"), (2, "model_version"), (3, "id")):
        with pytest.raises(Invalid, match=f"{name} is not UTF-8"):
            wire.read_head(wire.length_prefix(field, 2) + b"\xff\xfe" + tail)
    with pytest.raises(Invalid, match="parameters"):
        wire.read_head(b"\x22\x04\x0a\x02\xff\xfe" + tail)


def test_the_last_of_a_repeated_field_counts_and_fields_may_come_in_any_order():
    tensors = b"\x3a\x04abcd"
    parts = [
        message("first").SerializeToString(),
        tensors,
        message("last", request_id="r").SerializeToString(),
    ]
    late = message("x", parameters={"u": 7}).SerializeToString()
    head = wire.read_head(b"".join([*parts, late, message("end").SerializeToString()]))
    assert (head.model_name, head.request_id, head.unit("u")) == ("end", "r", "7")


def test_a_field_of_the_wrong_wire_type_is_another_field():
    assert wire.read_head(b"\x08\x05" + b"\x0a\x01m").model_name == "m"


def test_units_are_texts_integers_and_booleans():
    head = wire.Head(message(parameters={"s": "N1", "i": -3, "b": True, "e": "", "f": 1.5}))
    head = wire.read_head(
        message(parameters={"s": "N1", "i": -3, "b": True, "e": "", "f": 1.5}).SerializeToString()
    )
    assert [head.unit(name) for name in ("s", "i", "b", "e", "none")] == ["N1", "-3", "true", "", None]
    with pytest.raises(Invalid, match="send it as a string") as refused:
        head.unit("f")
    assert refused.value.code == "invalid_unit"


def test_unsigned_parameters_of_triton_are_read():
    request = message()
    request.parameters["u"].uint64_param = 2**63 + 1
    assert wire.read_head(request.SerializeToString()).unit("u") == str(2**63 + 1)


def test_appended_parameters_are_the_response_s():
    response = oip.ModelInferResponse(model_name="m", id="i")
    response.parameters["old"].string_param = "x"
    added = {"phantom_revision": "m.1", "phantom_route_version": 3, "triton_final_response": True}
    read = oip.ModelInferResponse.FromString(
        response.SerializeToString() + wire.encode_head(parameters=added)
    )
    assert read.id == "i"
    assert read.parameters["old"].string_param == "x"
    assert read.parameters["phantom_revision"].string_param == "m.1"
    assert read.parameters["phantom_route_version"].int64_param == 3
    assert read.parameters["triton_final_response"].bool_param is True
