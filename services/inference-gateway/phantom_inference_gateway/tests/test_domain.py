"""Replica choice, ejection, retries, frames: arithmetic."""

import math
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom_inference_gateway.domain.ejection import Ejection, EjectionRule, State
from phantom_inference_gateway.domain.frames import FrameLimits, FrameQueue
from phantom_inference_gateway.domain.replicas import choose
from phantom_inference_gateway.domain.retry import Ending, RetryBudget, Step, Trial, next_step
from phantom_inference_gateway.domain.tables import History, Table


@dataclass(eq=False)
class Replica:
    outstanding: int = 0
    opened: bool = True
    last_resort: bool = True

    def is_open(self, now):
        return self.opened

    def is_last_resort(self, now):
        return self.last_resort


@dataclass(eq=False)
class Queued:
    size: int = 1
    deadline: float = 100.0
    is_alone: bool = False
    is_done: bool = False

    @property
    def body(self):
        return b"x" * self.size


# -- replicas ------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 2**32))
def test_the_busiest_of_two_or_more_is_never_chosen_unless_equal(loads, seed):
    replicas = [Replica(load) for load in loads]
    chosen = choose(replicas, 0.0, random.Random(seed).randrange)
    if len(loads) > 1:
        assert chosen.outstanding <= sorted(loads)[-2]


def test_the_choice_spreads_and_skips_closed_and_excluded():
    below = random.Random(1).randrange
    replicas = [Replica() for _ in range(4)]
    replicas[0].opened = replicas[0].last_resort = False
    seen = {id(choose(replicas, 0.0, below, (replicas[1],))) for _ in range(200)}
    assert seen == {id(replicas[2]), id(replicas[3])}
    pair = replicas[2:]
    assert {id(choose(pair, 0.0, below)) for _ in range(100)} == {id(each) for each in pair}


def test_replicas_ejected_for_their_answers_are_a_last_resort():
    below = random.Random(1).randrange
    ejected, silent = Replica(opened=False), Replica(opened=False, last_resort=False)
    assert choose([ejected, silent], 0.0, below) is ejected
    assert choose([silent], 0.0, below) is None
    assert choose([], 0.0, below) is None


# -- ejection ------------------------------------------------------------------------------------------------


def test_failures_in_a_row_eject_for_longer_each_time_until_a_probe_succeeds():
    ejection = Ejection(EjectionRule(threshold=3, base_s=1, limit_s=3))
    assert [ejection.failed(0), ejection.failed(0)] == [False, False]
    ejection.succeeded()
    assert [ejection.failed(0) for _ in range(3)] == [False, False, True]
    assert not ejection.admits(0.99)
    assert ejection.admits_in_need()
    for until, at in ((3.0, 1.0), (6.0, 3.0), (9.0, 6.0)):
        assert ejection.admits(at)
        ejection.sent(at)
        assert ejection.state is State.PROBING
        assert not ejection.admits(at)  # one probe at a time
        assert ejection.failed(at)
        assert ejection.until == until
    ejection.sent(9.0)
    ejection.succeeded()
    assert ejection.state is State.HEALTHY
    assert not ejection.failed(9.0)


def test_silence_ejects_at_once_and_is_no_last_resort():
    ejection = Ejection(EjectionRule(base_s=1))
    assert ejection.fell_silent(0)
    assert not ejection.admits_in_need()
    assert not ejection.fell_silent(0.5)
    ejection.sent(1.0)
    ejection.abandoned(1.2)
    assert ejection.admits(1.2)
    ejection.sent(1.2)
    ejection.succeeded()
    assert ejection.admits_in_need()


# -- retries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "code", "attempts", "lost", "step"),
    [
        (Ending.UNSENT, 14, 0, 0, Step.SAME_REVISION),
        (Ending.REFUSED, 14, 2, 0, Step.SAME_REVISION),
        (Ending.REFUSED, 14, 1, 1, Step.ALONE),
        (Ending.ANSWERED, 14, 0, 0, Step.SAME_REVISION),
        (Ending.ANSWERED, 13, 1, 0, Step.SAME_REVISION),
        (Ending.ANSWERED, 13, 2, 0, Step.DONE),  # the third was the last
        (Ending.ANSWERED, 3, 0, 0, Step.DONE),  # the client's mistake
        (Ending.ANSWERED, 13, 1, 1, Step.DONE),  # lost before: retried once only
        (Ending.LOST, 14, 0, 0, Step.ALONE),
        (Ending.LOST, 14, 1, 0, Step.ALONE),
        (Ending.LOST, 14, 1, 1, Step.DONE),
        (Ending.EXPIRED, 4, 0, 0, Step.DONE),
    ],
)
def test_what_follows_an_attempt(ending, code, attempts, lost, step):
    budget = RetryBudget(burst=10)
    assert next_step(ending, code, Trial(attempts, lost), budget, 0.0) is step
    free = ending in (Ending.UNSENT, Ending.REFUSED)
    assert budget.taken == (0 if free or step is Step.DONE else 1)


def test_free_work_is_retried_with_an_empty_budget_and_other_work_is_not():
    budget = RetryBudget(burst=0)
    assert next_step(Ending.REFUSED, 14, Trial(), budget, 0.0) is Step.SAME_REVISION
    assert next_step(Ending.ANSWERED, 14, Trial(), budget, 0.0) is Step.DONE
    assert budget.refused == 1


def test_the_budget_is_a_fifth_of_the_last_ten_seconds_and_a_burst():
    budget = RetryBudget(burst=3)
    for _ in range(100):
        budget.count(5.0)
    assert sum(budget.take(5.5) for _ in range(50)) == 23
    assert not budget.take(14.9)
    assert sum(budget.take(15.1) for _ in range(50)) == 3  # all of it has aged, requests and retries


# -- frames --------------------------------------------------------------------------------------------------


def test_a_frame_leaves_at_once_when_nothing_is_in_flight_and_then_gathers():
    queue = FrameQueue(FrameLimits(calls=3, wait_s=0.001))
    queue.add(Queued(), 0.0)
    assert queue.due(0.0) == 0.0
    first = queue.cut(0.0)
    assert len(first.calls) == 1
    queue.add(Queued(), 0.0)
    assert queue.due(0.0) == 0.001
    assert queue.due(0.0015) == 0.0  # the oldest has waited
    assert queue.answered(first.sequence) is first
    assert queue.due(0.0) == 0.0  # or the answer came
    assert queue.answered(first.sequence) is None


def test_a_full_frame_leaves_early_and_no_more_than_four_are_in_flight():
    queue = FrameQueue(FrameLimits(calls=2, size=1000))
    for _ in range(11):
        queue.add(Queued(), 0.0)
    frames = [queue.cut(0.0) for _ in range(4) if queue.due(0.0) == 0.0]
    assert [len(frame.calls) for frame in frames] == [2, 2, 2, 2]
    assert queue.due(10.0) is None
    queue.answered(frames[2].sequence)
    assert queue.due(10.0) == 0.0


def paced(clients, answer_s, think_s, calls=400):
    """Clients that each send their next call `think_s` on average after an answer, which takes `answer_s`.

    Calls a frame, and how long each call waited for its frame.
    """
    queue, seeded = FrameQueue(FrameLimits(wait_s=0.001)), random.Random(7)
    sends = [(seeded.random() * think_s, client) for client in range(clients)]
    answers, sizes, waits, came = [], [], [], {}
    now = 0.0
    while len(waits) < calls:
        due = queue.due(now)
        steps = [min(sends, default=(math.inf, 0))[0], min(answers, default=(math.inf, 0))[0]]
        if due is not None and now + due <= min(steps):
            now += due
            frame = queue.cut(now)
            sizes.append(len(frame.calls))
            waits += [now - came[call] for call in frame.calls]
            answers.append((now + answer_s, frame.sequence))
        elif steps[1] <= steps[0]:
            now, sequence = min(answers)
            answers.remove((now, sequence))
            frame = queue.answered(sequence)
            sends += [(now + think_s * (0.5 + seeded.random()), n) for n, _ in enumerate(frame.calls)]
        else:
            now, client = min(sends)
            sends.remove((now, client))
            call = Queued()
            came[call] = now
            queue.add(call, now)
    return sizes, waits


@pytest.mark.parametrize("answer_s", [0.00005, 0.0003, 0.0009])
def test_calls_that_come_fast_share_frames_even_where_answers_come_faster(answer_s):
    sizes, waits = paced(clients=16, answer_s=answer_s, think_s=0.003)
    assert sum(sizes[-20:]) / 20 >= 3
    assert max(waits) <= 0.001 + 1e-9


@pytest.mark.parametrize("round_trip_s", [0.0001, 0.0005, 0.0009, 0.0015, 0.1])
def test_a_client_that_waits_for_each_answer_is_never_held_back(round_trip_s):
    sizes, waits = paced(clients=1, answer_s=round_trip_s * 0.6, think_s=round_trip_s * 0.4)
    assert (set(sizes), max(waits)) == ({1}, 0.0)


def test_it_is_not_held_back_for_long_by_the_memory_of_others():
    queue = FrameQueue(FrameLimits(wait_s=0.001))
    for number in range(100):
        queue.add(Queued(), number * 0.0001)
    while len(queue):
        queue.answered(queue.cut(0.01).sequence)
    held, now = 0, 0.02
    for _ in range(100):
        now += 0.0005
        queue.add(Queued(), now)
        held += queue.due(now) != 0.0
        queue.answered(queue.cut(now).sequence)
    assert held < 50
    assert queue.due(now) is None


def test_few_calls_leave_at_once_or_when_the_answer_comes():
    sizes, waits = paced(clients=3, answer_s=0.0005, think_s=0.05)
    assert sum(wait == 0.0 for wait in waits) / len(waits) > 0.95
    assert max(sizes) <= 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.booleans(), st.booleans()), max_size=60))
def test_frames_keep_order_and_limits_and_lose_nobody(calls):
    limits = FrameLimits(calls=8, size=1000, in_flight=10**6)
    queue = FrameQueue(limits)
    queued = [Queued(size, is_alone=alone, is_done=done) for size, alone, done in calls]
    for call in queued:
        queue.add(call, 0.0)
    sent = []
    while len(queue):
        frame = queue.cut(0.0)
        if frame is None:
            continue
        assert len(frame.calls) <= limits.calls
        assert len(frame.calls) == 1 or sum(call.size for call in frame.calls) <= limits.size
        assert len(frame.calls) == 1 or not any(call.is_alone for call in frame.calls)
        sent += frame.calls
    assert sent == [call for call in queued if not call.is_done]


def test_deadlines_and_silence_are_seen():
    queue = FrameQueue(FrameLimits())
    early, late, waiting = Queued(deadline=1.0), Queued(deadline=3.0), Queued(deadline=1.5)
    queue.add(early, 0.0)
    queue.add(late, 0.0)
    queue.cut(0.0)
    queue.add(waiting, 0.0)
    assert queue.expired(0.5) == []
    assert queue.expired(2.0) == [waiting, early]
    assert not queue.overdue(2.9)
    assert queue.overdue(3.1)
    early.is_done = True
    assert queue.clear() == ([waiting], [late])
    assert not len(queue)


# -- accounting ----------------------------------------------------------------------------------------------


def test_drained_is_the_oldest_version_with_attempts_under_way():
    history = History()
    tables = {version: Table("w", "e", "w/e", version, 0, None, {}) for version in (3, 5, 6)}
    history.replace(tables[3], 3, 0)
    assert (history.applied, history.drained()) == (3, 3)
    tables[3].attempts += 2
    history.replace(tables[5], 5, 0)
    tables[5].attempts += 1
    history.replace(tables[6], 6, 0)
    assert (history.applied, history.drained()) == (6, 3)
    tables[3].attempts -= 2
    assert history.drained() == 5
    tables[5].attempts -= 1
    assert history.drained() == 6
    history.replace(None, 9, 0)
    assert (history.applied, history.drained()) == (9, 9)
