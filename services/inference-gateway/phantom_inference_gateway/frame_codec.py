"""Frames as bytes: requests are joined, not copied into messages; answers are taken apart by the generated parser."""

from __future__ import annotations

from collections.abc import Sequence

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_contracts.protobuf import varint
from phantom_inference_gateway.attempts import Attempt
from phantom_inference_gateway.domain.frames import Frame
from phantom_inference_gateway.domain.retry import Ending
from phantom_inference_gateway.wire import length_prefix

_FRAME_FIELD = 2  # FramesRequest.frame
_SEQUENCE_TAG = b"\x08"  # RequestFrame.sequence
_REQUEST_TAG = b"\x12"  # RequestFrame.requests
_REMAINING_FIELD = 3  # RequestFrame.remaining_ms


class BadAnswerError(ValueError):
    """An answer frame that does not fit its request frame."""


def encode_frame(frame: Frame[Attempt], now: float) -> bytes:
    """A FramesRequest that carries the frame; deadlines as the time that is left, at least 1 ms unless passed."""
    parts = [_SEQUENCE_TAG, varint(frame.sequence)]
    remaining = []
    for call in frame.calls:
        parts += (_REQUEST_TAG, varint(len(call.body)), call.body)
        left = int((call.deadline - now) * 1000)
        remaining.append(varint(max(left, 1) if call.deadline > now else 0))
    packed = b"".join(remaining)
    parts += (length_prefix(_REMAINING_FIELD, len(packed)), packed)
    parts.insert(0, length_prefix(_FRAME_FIELD, sum(map(len, parts))))
    return b"".join(parts)


def settle(frame: Frame[Attempt], answer: pb.AnswerFrame) -> int:
    """End the frame's attempts with its answers. Returns how many were refused as draining.

    Raises BadAnswerError, having ended none, where the answer does not fit.
    """
    calls = frame.calls
    responses = list(answer.responses)
    codes = answer.codes
    if len(responses) != len(calls) or (codes and len(codes) != len(calls)):
        raise BadAnswerError(
            f"frame {frame.sequence} of {len(calls)} calls got {len(responses)} responses and {len(codes)} codes"
        )
    _attach_blocks(calls, answer.blocks)
    if not codes:
        for call, response in zip(calls, responses, strict=True):
            if not call.ended.done():
                call.response = response
                call.ending = Ending.ANSWERED
                call.ended.set_result(None)
        return 0
    return _settle_mixed(calls, responses, list(codes), answer)


def _settle_mixed(
    calls: Sequence[Attempt], responses: Sequence[bytes], codes: Sequence[int], answer: pb.AnswerFrame
) -> int:
    errors = {error.call: (error.reason, error.message) for error in answer.errors}
    refused = 0
    for index, (call, response, code) in enumerate(zip(calls, responses, codes, strict=True)):
        if code == 0:
            call.response = response
            call.end(Ending.ANSWERED)
            continue
        reason, message = errors.get(index, ("", ""))
        is_refused = reason in ("draining", "wrong_replica")
        refused += is_refused
        call.end(Ending.REFUSED if is_refused else Ending.ANSWERED, code, reason, message)
    return refused


def _attach_blocks(calls: Sequence[Attempt], blocks: Sequence[pb.PackedBlock]) -> None:
    for packed in blocks:
        block = packed.block
        start = 0
        for index, row_offset, rows in zip(packed.calls, packed.row_offsets, packed.rows, strict=True):
            if index >= len(calls):
                raise BadAnswerError(f"a block names call {index} of {len(calls)}")
            call = calls[index]
            part = (block, start, rows, row_offset)
            call.parts = (*call.parts, part) if call.parts else (part,)
            start += rows
