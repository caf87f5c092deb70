"""A request whose form is known is read as one whose form is not: whatever clients send, and whatever is damaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from phantom_contracts.schema import endpoint_schema
from phantom_model_server import requests
from phantom_model_server.answers import Answers
from phantom_model_server.decoding import Decoder
from phantom_model_server.projection import Projection
from phantom_model_server.requests import Reader
from phantom_model_server.tests.conftest import CARRIERS, MIXED, NUMERIC, request
from phantom_model_server.tests.test_decoding import named
from phantom_platform.errors import Invalid

SCHEMAS = {"numeric": NUMERIC, "mixed": MIXED}


def projection(schema):
    return Projection(endpoint_schema([NUMERIC, MIXED] if schema is MIXED else [schema]), schema)


def reader(schema):
    return Reader(Decoder(projection(schema)), Answers(schema, "1").wanted)


def seen(read):
    """What came of a reading, comparable."""
    try:
        call = read()
    except Invalid as error:
        return error.code, error.message
    rows = call.rows
    codes = None if rows.codes is None else rows.codes.tobytes()
    numbers = (rows.numbers.dtype, rows.numbers.shape, rows.numbers.tobytes())
    return (
        call.index,
        call.model_name,
        call.request_id,
        call.wanted,
        numbers,
        (rows.count, rows.columns, rows.kind, rows.texts, codes, rows.missing, rows.unknown, rows.is_raw),
    )


def slowly(schema, body):
    """Read from the whole message, by a decoder that has seen nothing."""

    def read():
        try:
            whole = oip.ModelInferRequest.FromString(body)
        except Exception as error:
            raise requests._unparsable() from error
        rows = Decoder(projection(schema)).decode(whole)
        return requests.Call(0, whole.model_name, whole.id, rows, Answers(schema, "1").wanted(whole))

    return seen(read)


def fields_of(body):
    """The top-level fields of a message, as bytes."""
    found, at = [], 0
    while at < len(body):
        begin, at = at, at + 1  # every field number here is below 16
        if body[begin] & 7 == 2:
            length = shift = 0
            while True:
                byte = body[at]
                length |= (byte & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if byte < 0x80:
                    break
            at += length
        else:
            while body[at] >= 0x80:
                at += 1
            at += 1
        found.append(body[begin:at])
    return found


def shuffled(body, chance):
    """The same message in another order of fields; entries of one field keep theirs."""
    fields = fields_of(body)
    order = [each[0] for each in fields]
    chance.shuffle(order)
    queues = {number: [each for each in fields if each[0] == number] for number in set(order)}
    return b"".join(queues[number].pop(0) for number in order)


NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=False)


@st.composite
def messages(draw):
    """Requests in many forms, right and slightly wrong."""
    rows = draw(st.integers(1, 3))
    raw = draw(st.booleans())
    if draw(st.booleans()):
        width = draw(st.sampled_from([4, 4, 4, 3, 5]))
        values = draw(st.lists(NUMBERS, min_size=rows * width, max_size=rows * width))
        datatype = draw(st.sampled_from(["FP32", "FP64", "FP32", "INT64"]))
        values = values if datatype != "INT64" else [int(np.nan_to_num(v)) % 100 for v in values]
        made = named({"features": (datatype, [rows, width], values)}, raw=raw)
    else:
        tensors = {}
        for name, datatype in draw(
            st.permutations(
                [
                    ("distance", "FP32"),
                    ("hour", "INT32"),
                    ("wind", "FP64"),
                    ("carrier", "BYTES"),
                    ("new", "FP32"),
                ]
            )
        )[: draw(st.integers(1, 5))]:
            shape = draw(st.sampled_from([[rows], [rows, 1]]))
            if datatype == "BYTES":
                values = draw(
                    st.lists(st.sampled_from([*CARRIERS, "ZZ", "", "é"]), min_size=rows, max_size=rows)
                )
            else:
                values = draw(st.lists(st.integers(0, 23), min_size=rows, max_size=rows))
            tensors[name] = (datatype, shape, values)
        made = named(tensors, raw=raw)
    made.model_name = draw(st.sampled_from(["flights", "", "é"]))
    made.id = draw(st.text(max_size=5))
    for name in draw(st.lists(st.sampled_from(["label", "score", "probabilities", "none"]), max_size=3)):
        made.outputs.add(name=name)
    if draw(st.booleans()):
        made.parameters["unit"].string_param = draw(st.text(max_size=5))
        made.inputs[0].parameters["binary_data_size"].int64_param = draw(st.integers(0, 1000))
    wrong = draw(st.integers(0, 9))
    if wrong == 0 and made.raw_input_contents:
        made.raw_input_contents[0] = made.raw_input_contents[0][:-1]
    if wrong == 1:
        made.raw_input_contents.append(b"more")
    return made


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(SCHEMAS)), st.lists(messages(), min_size=1, max_size=4), st.randoms())
def test_known_forms_are_read_as_new_ones_whatever_the_order_of_fields(kind, made, chance):
    schema = SCHEMAS[kind]
    one = reader(schema)
    for message in made:
        plain = message.SerializeToString()
        for body in (plain, shuffled(plain, chance), plain + b"\x7d\x01\x02\x03\x04", b"\x1a\x03old" + plain):
            wanted = slowly(schema, body)
            for _ in range(2):  # the second time its form is known, if it was a good one
                assert seen(lambda: one.read(0, body)) == wanted  # noqa: B023 - called at once


@settings(deadline=None, max_examples=400)
@given(messages(), st.data())
def test_damaged_bytes_are_read_or_refused_like_the_whole_message(message, data):
    one = reader(NUMERIC)
    body = bytearray(message.SerializeToString())
    seen(lambda: one.read(0, bytes(body)))  # its form is known
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    broken = bytes(body[: data.draw(st.integers(0, len(body)))]) if data.draw(st.booleans()) else bytes(body)
    assert seen(lambda: one.read(0, broken)) == slowly(NUMERIC, broken)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    assert seen(lambda: reader(NUMERIC).read(0, body)) == slowly(NUMERIC, body)


@pytest.mark.parametrize("place", ["name", "id", "parameter"])
def test_text_that_is_no_utf8_is_refused_also_where_the_form_is_known(place):
    good = request([[1, 2, 0, 4]], name="ABC", request_id="DEF")
    good.parameters["GHI"].string_param = "JKL"
    body = good.SerializeToString()
    one = reader(NUMERIC)
    one.read(0, body)
    broken = body.replace({"name": b"ABC", "id": b"DEF", "parameter": b"JKL"}[place], b"\xff\xfe\xfd")
    with pytest.raises(Invalid, match="UTF-8"):
        one.read(0, broken)


def test_the_whole_message_is_parsed_once_a_form(monkeypatch):
    one = reader(NUMERIC)
    parsed = []
    whole = requests._parse_whole
    monkeypatch.setattr(requests, "_parse_whole", lambda body: parsed.append(body) or whole(body))
    for n in range(5):
        found = one.read(n, request([[n, 2, 0, 4]], request_id=str(n)).SerializeToString())
        assert (found.request_id, found.rows.numbers[0, 0]) == (str(n), n)
    for n in range(5):
        columns = {"distance": n, "hour": 2, "is_weekend": 1}
        found = one.read(n, named({k: ("FP32", [1], [v]) for k, v in columns.items()}).SerializeToString())
        assert found.rows.numbers[0, 0] == n
    assert len(parsed) == 2


def test_forms_that_never_come_again_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(requests, "MAX_FORM_BYTES", 20_000)
    one = reader(NUMERIC)
    for n in range(200):
        made = request([[n, 2, 0, 4]])
        made.inputs[0].parameters["token"].string_param = f"{n:050}"
        assert one.read(0, made.SerializeToString()).rows.numbers[0, 0] == n
        assert len(one._forms) <= 20
    assert one._forms


def test_forms_with_errors_are_not_remembered():
    one = reader(NUMERIC)
    mixed = request([[1, 2, 0, 4]])
    mixed.inputs[0].contents.fp32_contents.append(1)
    for body in (mixed, request([[1, 2]]), oip.ModelInferRequest(raw_input_contents=[b"1234"])):
        for _ in range(2):
            with pytest.raises(Invalid):
                one.read(0, body.SerializeToString())
    assert not one._forms
