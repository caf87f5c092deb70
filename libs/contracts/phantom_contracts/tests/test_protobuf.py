"""Bytes written by hand are what protobuf reads."""

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_contracts.protobuf import field, tag, varint


@given(st.integers(0, 2**64 - 1))
def test_every_integer_is_read_back(value):
    assert pb.AnswerFrame.FromString(tag(1, delimited=False) + varint(value)).sequence == value


@pytest.mark.parametrize("size", [0, 1, 127, 128, 4095, 4096, 300_000])
def test_content_of_every_length_is_read_back(size):
    content = b"x" * size
    assert pb.PackedBlock.FromString(field(1, content)).block == content
    assert struct_pb2.Value.FromString(field(3, content)).string_value == content.decode()


def test_empty_content_is_left_out():
    assert field(1, b"") == b""
