"""The frame stream's messages ↔ values. The two that every call crosses are read and written with the fewest steps."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_contracts.protobuf import tag, varint
from phantom_model_server import failures
from phantom_model_server.service import Answered, Asked
from phantom_platform.errors import Invalid

DEFAULT_MS = 30_000
"""For calls of a frame that says nothing of their time."""

_FRAME = tag(2)  # of FramesResponse
_SEQUENCE, _RESPONSE, _BLOCK = tag(1, delimited=False), tag(2), tag(5)  # of AnswerFrame


def read_message(raw: bytes) -> pb.FramesRequest:
    """A message of the stream. Invalid `unparsable_request` where it is none."""
    try:
        return pb.FramesRequest.FromString(raw)
    except DecodeError as error:
        raise Invalid("the message is no FramesRequest", code="unparsable_request") from error


def read_calls(frame: pb.RequestFrame, received: float) -> list[Asked]:
    """The frame's calls; `received` is on the monotonic clock. Invalid `bad_frame` where columns disagree."""
    bodies = frame.requests[:]  # lists: a message's own sequences are slow to walk
    remaining = frame.remaining_ms[:] or [DEFAULT_MS] * len(bodies)
    if len(remaining) != len(bodies):
        raise Invalid(
            f"frame {frame.sequence} has {len(bodies)} requests and {len(remaining)} times", code="bad_frame"
        )
    return [Asked(body, received + ms / 1000) for body, ms in zip(bodies, remaining, strict=True)]


def write_answer(sequence: int, answered: Answered) -> bytes:
    """A serialized FramesResponse with the answers to a frame."""
    parts = [_SEQUENCE, varint(sequence)]
    for reply in answered.replies:
        parts += (_RESPONSE, varint(len(reply)), reply)
    for block in answered.blocks:
        parts += (_BLOCK, varint(len(block)), block)
    if answered.errors:
        parts.append(_errors(answered))
    return b"".join((_FRAME, varint(sum(map(len, parts))), *parts))


def _errors(answered: Answered) -> bytes:
    """Codes and errors of an AnswerFrame, serialized."""
    frame = pb.AnswerFrame()
    codes = [0] * len(answered.replies)
    for call, error in sorted(answered.errors.items()):
        codes[call] = failures.code_of(error)
        frame.errors.add(call=call, reason=error.code, message=error.message[:1000])
    frame.codes.extend(codes)
    return frame.SerializeToString()
