"""What the generator and the accounting rest on: parsing, percentiles, processes."""

import os
import subprocess
import sys

import pytest
from benchmarks.harness import processes
from benchmarks.harness.events import Events
from benchmarks.harness.http import parse_answer
from benchmarks.harness.load import Ledger, percentile_ms

from phantom.predictions.v1.prediction_batch_pb2 import PredictionBatch


@pytest.mark.parametrize(
    ("data", "parsed"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHT", (200, b"ok", b"HT")),
        (b"HTTP/1.1 503 Busy\r\nX: y\r\ncontent-length: 0\r\n\r\n", (503, b"", b"")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n",
            (200, b"ok!", b""),
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", None),
        (b"HTTP/1.1 200 OK\r\nConte", None),
    ],
)
def test_an_http_answer_is_cut_where_it_ends(data, parsed):
    assert parse_answer(data) == parsed


def test_percentiles_are_of_what_was_answered():
    assert percentile_ms([], 0.99) == 0.0
    assert percentile_ms([0.001, 0.002, 0.003, 0.004], 0.5) == 3.0
    assert percentile_ms([0.001, 0.002], 1.0) == 2.0


def test_an_open_load_tells_its_p99_window_by_window():
    ledger = Ledger()
    for due, took in ((0.0, 0.001), (9.9, 0.002), (10.1, 0.005)):
        ledger.due.append(due)
        ledger.took.append(took)
    ledger.fail("UNAVAILABLE", 0.04)
    found = ledger.found(10.0, 0.1)
    assert found.windows_p99_ms == [2.0, 5.0]
    assert found.failures == {"UNAVAILABLE": 1}
    assert found.failed_max_ms == 40.0


def test_cpu_is_read_behind_a_name_with_spaces_and_parentheses():
    line = "7 (odd ) name) S 3 7 7 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 1 0 1 1 1"
    assert processes.stat_of(line) == (3, 200 / processes.TICKS)


def test_a_tree_holds_children_and_their_memory():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), child.pid} <= set(processes.tree([os.getpid()]))
        assert processes.memory_bytes([child.pid]) > 0
    finally:
        child.communicate(b"\n")
    assert processes.tree([child.pid]) == []


def test_a_batch_that_came_twice_counts_once_only_where_it_bears_the_mark():
    batch = PredictionBatch(boot_id="b", sequence=1, prediction_ids=bytes(16) + bytes([1]) * 16)
    batch.statuses.extend([0, 13])
    batch.row_offsets.extend([0, 0])
    value, events = batch.SerializeToString(), Events()
    events.add(0, value, False)
    events.add(0, value, True)
    assert (len(events.seen), events.doubled) == (1, 0)
    events.add(0, value, False)
    assert events.doubled == 1
