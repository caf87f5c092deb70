"""What a gate lets in, in virtual time: overload, bursts, slow and stalled replicas, deadlines."""

import math

import pytest

from phantom_inference_gateway.domain.admission import AdmissionRule, Gate
from phantom_inference_gateway.tests.overloaded import Simulation, poisson, simulation

# A frame's fixed cost, a call's, frames at once: what they make together is the capacity.
MODELS = [
    pytest.param(0.0005, 1 / 300, 1, 300, id="300/s one after the other"),
    pytest.param(0.002, 1 / 100, 1, 100, id="100/s"),
    pytest.param(0.0005, 1 / 50, 1, 50, id="50/s"),
    pytest.param(0.001, 1 / 4000, 1, 3936, id="4000/s"),
    pytest.param(0.0005, 1 / 100, 4, 400, id="four at once"),
]


def ran(made: Simulation, until: float) -> Simulation:
    made.run(until)
    return made


@pytest.mark.parametrize(("frame_s", "call_s", "workers", "capacity"), MODELS)
def test_at_three_times_capacity_goodput_holds_and_waits_are_bounded(frame_s, call_s, workers, capacity):
    made = simulation(frame_s, call_s, workers)
    made.arrive(poisson(3 * capacity, 0, 10))
    made.run(12)
    assert made.goodput(2, 10) > 0.9 * capacity
    assert made.p99(1.5, 10) < (1.1 if workers == 1 else 2.2)  # frames of uneven size, side by side
    assert made.p99(0, 1.5) < 3  # until the rate is known
    assert len(made.refused) > 1.5 * capacity * 10


def test_without_a_bound_the_same_load_waits_for_ever():
    made = simulation(max_wait_s=0)
    made.arrive(poisson(900, 0, 10))
    made.run(12)
    assert not made.refused
    assert made.p99(3, 3.5) > 5


@pytest.mark.parametrize(("frame_s", "call_s", "workers", "capacity"), MODELS)
def test_below_capacity_nothing_is_refused(frame_s, call_s, workers, capacity):
    made = simulation(frame_s, call_s, workers)
    made.arrive(poisson(0.8 * capacity, 0, 20))
    made.run(22)
    assert not made.refused
    assert len(made.answered) == len(poisson(0.8 * capacity, 0, 20))


def test_after_an_overload_the_refusals_end_with_it():
    made = simulation()
    made.arrive(poisson(900, 0, 5))
    made.arrive(poisson(240, 5, 20, seed=8))
    made.run(22)
    assert made.refused
    assert max(made.refused) < 6
    assert made.p99(7, 20) < 0.2


def test_a_burst_on_a_fast_model_is_queued_whatever_came_before():
    for before in ([], [n * 0.05 for n in range(100)]):
        made = simulation(0.0002, 1 / 5000)
        made.arrive([*before, *[6.0] * 400])
        made.run(9)
        assert not made.refused
        assert made.p99(6, 9) < 0.1


def test_a_burst_is_queued_though_single_calls_were_slow_where_a_frame_answers_them_together():
    made = simulation(0.02, 0.0001)  # 50/s one by one, some 5,600/s by frames
    made.arrive([*[n * 0.05 for n in range(100)], *[6.0] * 700])
    made.run(9)
    assert not made.refused


def test_what_was_measured_while_little_was_asked_for_refuses_nothing_later():
    made = simulation()
    made.arrive([n * 0.5 for n in range(20)])  # two calls a second
    made.arrive(poisson(250, 10, 20))
    made.run(22)
    assert not made.refused


def test_a_model_of_two_seconds_a_call_is_served_and_never_locked_out():
    made = simulation(0, 2.0)
    made.arrive(poisson(3, 0, 200))
    made.run(240)
    assert made.goodput(60, 200) > 0.9 * 0.5
    assert made.p99(60, 200) < 2.0 * 8 + 0.1  # the floor's calls, one after the other


def test_a_slow_model_that_answers_many_at_once_is_not_overloaded():
    made = simulation(2.0, 0.0, workers=100)
    made.arrive(poisson(50, 0, 60))
    made.run(80)
    assert not [time for time in made.refused if time > 20]
    assert made.goodput(30, 60) > 48


@pytest.mark.parametrize("frame_s", [0.1, 0.25])
def test_a_model_that_is_fast_only_by_full_frames_is_given_them(frame_s):
    """Fewer calls would make its frames smaller, and its rate with them; they would wait no shorter."""
    capacity = 256 / (frame_s + 256 * 0.0005)
    for share, goodput in ((0.8, 0.76), (3, 0.9)):
        made = simulation(frame_s, 0.0005)
        made.arrive(poisson(share * capacity, 0, 40))
        made.run(40)
        assert made.goodput(20, 40) > goodput * capacity
        assert made.p99(20, 37) < 1 + 5 * frame_s + 0.1
        assert share > 1 or not [time for time in made.refused if time > 10]


@pytest.mark.parametrize("patience_s", [1.0, 0.3, 0.1, 0.05])
def test_calls_that_cannot_be_answered_by_their_deadline_are_refused_at_once(patience_s):
    made = simulation()
    made.arrive(poisson(900, 0, 10), patience_s)
    made.run(12)
    assert made.goodput(2, 10) > 0.9 * 300
    late = [time for time in made.late if time > 2]
    assert len(late) < 0.1 * 300 * 8


def test_calls_that_all_come_too_late_do_not_fill_the_model_for_ever():
    made = simulation(0.001, 1 / 4000)  # its frames are full at once, and take as long as the calls may
    made.arrive(poisson(12_000, 0, 6), 0.1)
    made.run(8)
    assert made.goodput(2, 6) > 0.9 * 3936


def test_a_stalled_replica_is_given_no_more_than_it_could_have_done_and_recovers():
    made = simulation()
    made.arrive(poisson(250, 0, 20))
    made.at(5, lambda: setattr(made, "is_stopped", True))
    made.at(10, made.resume)
    made.run(22)
    assert made.most < 1.1 * 300
    assert sum(6 < time < 10 for time in made.refused) > 0.95 * 4 * 250
    assert max(made.refused) < 11.5
    assert made.goodput(13, 20) > 0.95 * 250


def test_a_replica_that_became_slower_is_given_less_within_seconds():
    made = simulation()
    made.arrive(poisson(280, 0, 20))
    made.at(5, lambda: setattr(made, "call_s", 1 / 60))
    made.run(22)
    assert made.p99(8, 20) < 1.3
    assert made.goodput(8, 20) > 0.9 * 60


def test_a_replica_that_became_faster_is_given_more():
    made = simulation(call_s=1 / 60)
    made.arrive(poisson(280, 0, 20))
    made.at(5, lambda: setattr(made, "call_s", 1 / 300))
    made.run(22)
    assert made.goodput(8, 20) > 0.9 * 280


@pytest.mark.parametrize("pause_s", [0.1, 0.3, 0.8])
def test_a_pause_of_the_machine_refuses_nothing(pause_s):
    """Some hundred calls in flight at a replica that answers 6,000 a second, but for a pause now and then."""
    gate, now, pauses = Gate(AdmissionRule()), 0.0, range(75, 6_000, 151)  # where slots begin
    sent = [now] * 100
    for turn in range(6_000):
        now += pause_s if turn in pauses else 8 / 6000
        answered, sent = sent[:8], sent[8:]
        for since in answered:
            gate.answered(now - since, now)
        for _ in answered:
            assert gate.admit(len(sent), now, now + 30), gate.overload(len(sent), now, now + 30)
            sent.append(now)


def test_an_idle_replica_takes_a_call_whatever_is_known():
    gate = Gate(AdmissionRule(max_wait_s=0.001))
    for second in range(10):
        assert gate.admit(0, float(second), second + 0.01)
        gate.late(second + 0.5)


def test_before_the_first_answer_as_much_is_let_in_as_a_stream_takes():
    gate = Gate(AdmissionRule(unknown=100))
    assert all(gate.admit(n, 1.0, 31.0) for n in range(100))
    assert not gate.admit(100, 1.0, 31.0)
    overload = gate.overload(100, 1.0, 31.0)
    assert (overload.outstanding, overload.rate, overload.wait_s) == (100, 0.0, math.inf)


def test_a_refusal_has_the_figures_that_led_to_it():
    made = simulation()
    made.arrive(poisson(900, 0, 5))
    made.run(5)
    overload = made.gate.overload(300, made.now, made.now + 30)
    assert not overload.is_deadline
    assert overload.bound_s == pytest.approx(1.0, abs=0.03)  # and the model's own time
    assert overload.rate == pytest.approx(300, rel=0.1)
    assert overload.wait_s == pytest.approx(1.25 * 301 / overload.rate, rel=0.05)
    hurried = made.gate.overload(100, made.now, made.now + 0.2)
    assert hurried.is_deadline
    assert hurried.bound_s == pytest.approx(0.2)


def test_failed_answers_count_but_are_not_the_models_own_time():
    gate = Gate(AdmissionRule())
    for n in range(100):
        gate.admit(1, n * 0.01, 100.0)
        gate.answered(0.0001 if n % 2 else 0.5, (n + 1) * 0.01, is_ok=n % 2 == 0)
    assert gate.wait_s(2, 1.0) >= 0.5


def test_a_proven_rate_does_not_creep_up_while_little_is_asked_for():
    """Or a second overload would begin with a longer queue than the first had left."""
    made = simulation(call_s=1 / 200)
    made.arrive(poisson(600, 0, 5))
    made.arrive(poisson(160, 5, 60))
    made.arrive(poisson(600, 60, 64))
    made.run(60)
    assert made.gate.rate == pytest.approx(200, rel=0.1)
    made.run(65)
    assert made.p99(60, 61) < 1.1


def test_a_rate_is_found_again_after_calls_that_all_came_too_late():
    gate = Gate(AdmissionRule())
    gate.admit(0, 0.0, 0.1)
    gate.answered(0.001, 0.001)
    for n in range(20):
        gate.late(1.0 + n)
    for n in range(200):
        gate.admit(0, 30 + n * 0.02, 60.0)
        gate.answered(0.01, 30.01 + n * 0.02)
    assert gate.rate == pytest.approx(100, rel=0.2)
    assert gate.admit(50, 34.0, 64.0)
