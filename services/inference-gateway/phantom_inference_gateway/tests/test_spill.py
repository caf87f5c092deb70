"""The spill: order, bound, damage, locks, taking over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phantom_inference_gateway import spill as spill_module
from phantom_inference_gateway.batches import Batch
from phantom_inference_gateway.segments import MAGIC, encode, parse_name
from phantom_inference_gateway.spill import Spill, SpillLane
from phantom_platform.errors import Refused


def batch(sequence: int, size: int = 50, **more: object) -> Batch:
    value = sequence.to_bytes(8, "big") + bytes(size)
    return Batch(0, "default/delays", "boot", sequence, value, 3, 1234, traceparent="00-ab-cd-01", **more)


async def opened(folder: Path, limit: int = 1 << 20) -> Spill:
    spill = Spill(folder, 6, limit)
    await spill.open(patience_s=0.2)
    return spill


def drain(lane: SpillLane) -> list[Batch]:
    """Read and acknowledge everything."""
    batches = []
    while (read := lane.read()) is not None:
        batches.append(read[0])
        lane.acknowledge(read[1])
    return batches


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def only_segment(folder: Path) -> Path:
    (path,) = folder.glob("*.spill")
    return path


async def test_batches_come_out_as_they_went_in_and_leave_no_file(tmp_path: Path) -> None:
    spill = await opened(tmp_path)
    lane = spill.lanes[0]
    for sequence in range(1, 6):
        lane.append(batch(sequence, maybe_sent=sequence == 2))
    assert not lane.is_empty
    out = drain(lane)
    assert [each.sequence for each in out] == [1, 2, 3, 4, 5]
    assert [each.maybe_sent for each in out] == [False, True, False, False, False]
    first = out[0]
    assert (first.key, first.boot_id, first.value, first.records, first.time_ms, first.traceparent) == (
        "default/delays",
        "boot",
        batch(1).value,
        3,
        1234,
        "00-ab-cd-01",
    )
    assert lane.is_empty
    assert files(tmp_path) == []
    assert spill.bytes == 0
    spill.close()


async def test_reading_and_appending_may_alternate(tmp_path: Path) -> None:
    spill = await opened(tmp_path)
    lane = spill.lanes[0]
    out = []
    for sequence in range(1, 50):
        lane.append(batch(sequence))
        if sequence % 3 == 0:
            out += drain(lane)
    out += drain(lane)
    assert [each.sequence for each in out] == list(range(1, 50))
    assert spill.bytes == 0
    spill.close()


async def test_a_segment_goes_after_its_last_acknowledgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_module, "SEGMENT_BYTES", 300)
    spill = await opened(tmp_path)
    lane = spill.lanes[0]
    for sequence in range(1, 10):
        lane.append(batch(sequence))
    assert lane.segments > 2
    before = files(tmp_path)
    reads = [lane.read() for _ in range(9)]
    assert lane.read() is None
    assert files(tmp_path) == before
    for read in reversed(reads):
        assert read is not None
        lane.acknowledge(read[1])
    assert files(tmp_path) == []
    spill.close()


async def test_what_a_new_process_finds_is_marked_and_keeps_its_identity(tmp_path: Path) -> None:
    spill = await opened(tmp_path)
    for sequence in range(1, 4):
        spill.lanes[2].append(batch(sequence))
    spill.close()
    again = await opened(tmp_path)
    assert again.bytes > 0
    out = drain(again.lanes[2])
    assert [(each.boot_id, each.sequence, each.partition, each.maybe_sent) for each in out] == [
        ("boot", 1, 2, True),
        ("boot", 2, 2, True),
        ("boot", 3, 2, True),
    ]
    assert again.bytes == 0
    again.close()


async def test_what_comes_back_is_durable_and_before_the_rest(tmp_path: Path) -> None:
    spill = await opened(tmp_path)
    lane = spill.lanes[0]
    for sequence in range(5, 8):
        lane.append(batch(sequence))
    segment = lane.push_front([batch(sequence, maybe_sent=True) for sequence in (1, 2, 3, 4)])
    read = lane.read()  # the caller has 1 to 4 in its hands
    assert read is not None
    assert read[0].sequence == 5
    assert segment.unacknowledged == 4
    spill.close()
    again = await opened(tmp_path)
    assert [each.sequence for each in drain(again.lanes[0])] == [1, 2, 3, 4, 5, 6, 7]
    again.close()


@pytest.mark.parametrize("missing", [1, 7, 30, 60])
async def test_a_torn_end_is_cut_and_the_rest_is_read(tmp_path: Path, missing: int) -> None:
    spill = await opened(tmp_path)
    for sequence in range(1, 4):
        spill.lanes[0].append(batch(sequence))
    spill.close()
    path = only_segment(tmp_path)
    os.truncate(path, path.stat().st_size - missing)
    again = await opened(tmp_path)
    assert [each.sequence for each in drain(again.lanes[0])] == [1, 2]
    assert files(tmp_path) == []
    again.close()


async def test_a_damaged_batch_is_counted_and_the_next_ones_are_read(tmp_path: Path) -> None:
    spill = await opened(tmp_path)
    for sequence in range(1, 4):
        spill.lanes[0].append(batch(sequence))
    spill.close()
    path = only_segment(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(MAGIC) + len(encode(batch(1))) + 40] ^= 0xFF
    path.write_bytes(data)
    again = await opened(tmp_path)
    assert [each.sequence for each in drain(again.lanes[0])] == [1, 3]
    assert again.damaged == 1
    again.close()


async def test_files_that_are_no_segments_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "000-000000000001.spill").write_bytes(b"something else entirely")
    (tmp_path / "no-name.spill").write_bytes(MAGIC + encode(batch(1)))
    (tmp_path / "017-000000000001.spill").write_bytes(MAGIC + encode(batch(1)))  # no such partition
    (tmp_path / "001-000000000001.spill").write_bytes(b"")
    (tmp_path / "002-000000000001.spill").write_bytes(MAGIC[:3])
    (tmp_path / "003-000000000001.spill").write_bytes(MAGIC + os.urandom(500))
    (tmp_path / "unrelated").write_bytes(b"")
    spill = await opened(tmp_path)
    for lane in spill.lanes:
        assert drain(lane) == []
    assert files(tmp_path) == [
        "000-000000000001.spill.garbage",
        "017-000000000001.spill.garbage",
        "no-name.spill.garbage",
        "unrelated",
    ]
    spill.close()


def test_only_our_names_are_segments() -> None:
    assert parse_name("003-000000000017.spill") == (3, 17)
    for name in ("003-17", "3.spill", "a-1.spill", "-1.spill", "1-.spill", "²-1.spill", "lock"):
        assert parse_name(name) is None


async def test_the_bound_counts_everything_on_disk(tmp_path: Path) -> None:
    spill = await opened(tmp_path, limit=1000)
    lane = spill.lanes[0]
    appended = 0
    while spill.has_room(len(batch(1).value)):
        lane.append(batch(appended))
        appended += 1
    assert 3 < appended < 15
    on_disk = only_segment(tmp_path).stat().st_size
    assert spill.bytes == on_disk
    spill.close()
    again = await opened(tmp_path, limit=1000)
    assert again.bytes == on_disk
    drain(again.lanes[0])
    assert again.has_room(500)
    again.close()


async def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    spill = await opened(tmp_path)
    with pytest.raises(Refused) as refused:
        await opened(tmp_path)
    assert refused.value.code == "spill_folder_taken"
    assert "PHANTOM_GATEWAY_WORKER" in refused.value.message
    spill.close()
    (await opened(tmp_path)).close()


async def test_only_orphaned_folders_are_taken_over(tmp_path: Path) -> None:
    for worker, is_alive in (("gone", False), ("alive", True)):
        other = await opened(tmp_path / worker)
        for sequence in range(1, 4):
            other.lanes[0].append(batch(sequence))
        if not is_alive:
            other.close()
    spill = await opened(tmp_path / "mine")
    spill.lanes[0].append(batch(100))
    assert spill.take_over(tmp_path / "alive") == 0
    assert spill.take_over(tmp_path / "mine") == 0
    assert spill.take_over(tmp_path / "gone") == 1
    spill.lanes[0].append(batch(101))
    assert files(tmp_path / "gone") == []
    out = drain(spill.lanes[0])
    assert [each.sequence for each in out] == [100, 1, 2, 3, 101]
    assert [each.maybe_sent for each in out] == [False, True, True, True, False]
    assert spill.bytes == 0
    spill.close()


async def test_sync_and_close_leave_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_module, "SEGMENT_BYTES", 200)
    before = len(os.listdir("/proc/self/fd"))
    spill = await opened(tmp_path)
    for sequence in range(1, 20):
        spill.lanes[0].append(batch(sequence))
    await spill.sync()
    for _ in range(5):
        spill.lanes[0].read()
    spill.close()
    assert len(os.listdir("/proc/self/fd")) <= before
