"""Frames on the wire: what is read, and what is written by hand."""

import pytest

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_model_server import failures, frame_codec
from phantom_model_server.service import Answered
from phantom_platform.errors import Invalid


def test_a_frame_without_times_gives_its_calls_thirty_seconds():
    calls = frame_codec.read_calls(pb.RequestFrame(requests=[b"a", b"b"]), 5.0)
    assert [(call.body, call.deadline) for call in calls] == [(b"a", 35.0), (b"b", 35.0)]


def test_each_call_has_its_own_time():
    frame = pb.RequestFrame(requests=[b"a", b""], remaining_ms=[0, 1500])
    assert [call.deadline for call in frame_codec.read_calls(frame, 5.0)] == [5.0, 6.5]


def test_a_frame_with_fewer_times_than_calls_is_refused():
    with pytest.raises(Invalid, match="frame 7 has 2 requests and 1 times") as caught:
        frame_codec.read_calls(pb.RequestFrame(sequence=7, requests=[b"a", b"b"], remaining_ms=[1]), 5.0)
    assert caught.value.code == "bad_frame"


@pytest.mark.parametrize("raw", [b"\xff", b"\x12\x05\x08"])
def test_bytes_that_are_no_message_are_refused(raw):
    with pytest.raises(Invalid) as caught:
        frame_codec.read_message(raw)
    assert caught.value.code == "unparsable_request"


@pytest.mark.parametrize("sequence", [0, 1, 127, 128, 2**63])
def test_an_answer_is_written_as_protobuf_reads_it(sequence):
    blocks = [pb.PackedBlock(block=b"x" * 5_000, calls=[0, 2], row_offsets=[0, 0], rows=[1, 1])] * 2
    answered = Answered(
        [b"one", b"", b"three" * 100],
        {1: failures.draining()},
        [block.SerializeToString() for block in blocks],
    )
    found = pb.FramesResponse.FromString(frame_codec.write_answer(sequence, answered))
    error = pb.CallError(call=1, reason="draining", message=failures.draining().message)
    assert found == pb.FramesResponse(
        frame=pb.AnswerFrame(
            sequence=sequence, responses=answered.replies, codes=[0, 14, 0], errors=[error], blocks=blocks
        )
    )


def test_an_answer_without_failures_has_no_codes():
    found = pb.FramesResponse.FromString(frame_codec.write_answer(3, Answered([b"one"])))
    assert found == pb.FramesResponse(frame=pb.AnswerFrame(sequence=3, responses=[b"one"]))
