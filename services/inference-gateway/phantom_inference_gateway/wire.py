"""The few fields of an inference.ModelInferRequest that routing needs, read from its raw bytes.

Only fields 1 to 4 (model_name, model_version, id, parameters) are decoded; tensors stay bytes. The fields are read
by a message that has nothing else, in a descriptor pool of its own. Such a parse copies what it does not know, so a
large body is first scanned for its top-level fields, and only fields 1 to 4 are handed to the parser. Measured: 45
floats 0.8 µs parsed and 3.1 µs scanned; 32 KB 1.8 and 3.4 µs; 1 MB 36 and 3.3 µs.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from phantom_contracts.protobuf import tag, varint
from phantom_platform.errors import Invalid
from phantom_statistics.assignment import AssignmentError, unit_text

SCAN_FROM_BYTES = 64 * 1024
"""Bodies at least this long are scanned before they are parsed."""

_NAMES = {1: "model_name", 2: "model_version", 3: "id", 4: "parameters"}
_LAST_ROUTING_FIELD = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _head_class() -> type:
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="phantom_inference_gateway/head.proto", package="phantom.head", syntax="proto3"
    )
    parameter = file.message_type.add(name="Parameter")
    parameter.oneof_decl.add(name="choice")
    for number, (name, of) in enumerate(
        [
            ("bool_param", kind.TYPE_BOOL),
            ("int64_param", kind.TYPE_INT64),
            ("string_param", kind.TYPE_STRING),
            ("double_param", kind.TYPE_DOUBLE),
            ("uint64_param", kind.TYPE_UINT64),
        ],
        start=1,
    ):
        parameter.field.add(name=name, number=number, type=of, label=kind.LABEL_OPTIONAL, oneof_index=0)
    head = file.message_type.add(name="Head")
    for number in (1, 2, 3):
        head.field.add(name=_NAMES[number], number=number, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    entry = head.nested_type.add(name="ParametersEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=kind.TYPE_MESSAGE,
        type_name=".phantom.head.Parameter",
        label=kind.LABEL_OPTIONAL,
    )
    head.field.add(
        name="parameters",
        number=4,
        type=kind.TYPE_MESSAGE,
        type_name=".phantom.head.Head.ParametersEntry",
        label=kind.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("phantom.head.Head"))


_Head = _head_class()
_parse_head = _Head.FromString  # type: ignore[attr-defined]

Scalar = bool | int | float | str


class Head:
    """What a request says about itself. Parameters are decoded only when asked for."""

    __slots__ = ("_message", "model_name", "model_version", "request_id")

    def __init__(self, message: object) -> None:
        self._message = message
        self.model_name: str = message.model_name  # type: ignore[attr-defined]
        self.model_version: str = message.model_version  # type: ignore[attr-defined]
        self.request_id: str = message.id  # type: ignore[attr-defined]

    def parameter(self, name: str) -> Scalar | None:
        """A request parameter's value; None where there is none of that name, or it is empty."""
        found = self._message.parameters.get(name)  # type: ignore[attr-defined]
        if found is None:
            return None
        choice = found.WhichOneof("choice")
        return None if choice is None else getattr(found, choice)

    def unit(self, name: str) -> str | None:
        """A request parameter as the text of a unit key; `Invalid` where it is a floating point number."""
        value = self.parameter(name)
        if value is None:
            return None
        try:
            return unit_text(value)
        except AssignmentError as error:
            raise Invalid(f"parameter {name!r}: {error}", code="invalid_unit", parameter=name) from error


def read_head(body: bytes) -> Head:
    """The routing fields of a serialized ModelInferRequest.

    A scalar that comes twice: the last one counts. Raises `Invalid` (`unparsable_request`) where the bytes are no
    protobuf message, or a text in fields 1 to 4 is no UTF-8. What is inside tensors is not looked at.
    """
    try:
        if len(body) < SCAN_FROM_BYTES:
            return Head(_parse_head(body))
        return Head(_parse_head(_routing_fields(body)))
    except DecodeError as error:
        raise _unparsable(_diagnose(body)) from error


def encode_head(
    *,
    model_name: str = "",
    model_version: str = "",
    request_id: str = "",
    parameters: Mapping[str, Scalar] | None = None,
) -> bytes:
    """Fields 1 to 4 as bytes; they have these numbers in ModelInferRequest and ModelInferResponse alike."""
    head = _Head(model_name=model_name, model_version=model_version, id=request_id)
    for name, value in (parameters or {}).items():
        slot = head.parameters[name]
        if isinstance(value, bool):
            slot.bool_param = value
        elif isinstance(value, int):
            slot.int64_param = value
        elif isinstance(value, float):
            slot.double_param = value
        else:
            slot.string_param = value
    encoded: bytes = head.SerializeToString()
    return encoded


def length_prefix(field: int, length: int) -> bytes:
    """Tag and length of a length-delimited field."""
    return tag(field) + varint(length)


def _unparsable(why: str) -> Invalid:
    return Invalid(
        f"the request is not a valid inference.ModelInferRequest: {why}; send a complete serialized message",
        code="unparsable_request",
    )


class _BadWireError(DecodeError):
    """The bytes end early or follow no wire format; the message says where."""


def _routing_fields(body: bytes) -> bytes:
    """The bytes of the fields 1 to 4 of a message, in order; others are skipped without a copy."""
    parts: list[bytes] = []
    at, end = 0, len(body)
    while at < end:
        begin = at
        tag, at = _read_varint(body, at, end)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _BYTES:
            length, at = _read_varint(body, at, end)
            at += length
        elif wire_type == _VARINT:
            _, at = _read_varint(body, at, end)
        elif wire_type == _FIXED64:
            at += 8
        elif wire_type == _FIXED32:
            at += 4
        else:  # a group, long out of use: let the parser judge the whole
            return body
        if at > end:
            raise _BadWireError(f"it ends inside field {field}, {at - end} bytes too early")
        if field <= _LAST_ROUTING_FIELD:
            parts.append(body[begin:at])
    return b"".join(parts)


def _read_varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _BadWireError(f"it ends, or is malformed, at byte {at}")


def _diagnose(body: bytes) -> str:
    """Why the parser refused these bytes, in words."""
    try:
        fields = _routing_fields(body)
        at = 0
        while at < len(fields):
            tag, at = _read_varint(fields, at, len(fields))
            if tag & 7 != _BYTES:
                break
            length, at = _read_varint(fields, at, len(fields))
            field, value = tag >> 3, fields[at : at + length]
            at += length
            if field < _LAST_ROUTING_FIELD and not _is_utf8(value):
                return f"{_NAMES[field]} is not UTF-8"
            if field == _LAST_ROUTING_FIELD and not _is_entry(length_prefix(field, length) + value):
                return "an entry of parameters is malformed, or a text in it is not UTF-8"
    except DecodeError as error:
        return str(error)
    return "a field number or wire type is malformed"


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_entry(field: bytes) -> bool:
    try:
        _parse_head(field)
    except DecodeError:
        return False
    return True
