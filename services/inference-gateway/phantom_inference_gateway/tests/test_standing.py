"""How a group stands, from how its workers do."""

import socket

import pytest
from pydantic import ValidationError

from phantom_inference_gateway.channel import Channel
from phantom_inference_gateway.domain.standing import Standing, attention, unready
from phantom_inference_gateway.settings import GatewaySettings
from phantom_inference_gateway.worker import Worker

WELL = Standing("0-0", True, {})
STARTING = Standing("0-1", False, {"lifecycle": "starting", "routes": "joining"})
TROUBLED = Standing("0-2", True, {"routes": "no snapshot"}, ["spill is full"])


def test_a_group_that_starts_waits_for_every_worker():
    assert unready([WELL, STARTING], has_started=False) == {
        "worker 0-1": "lifecycle: starting; routes: joining"
    }
    assert unready([WELL], has_started=False) == {}


def test_a_worker_that_is_started_again_does_not_withdraw_the_group_but_is_named():
    assert unready([WELL, STARTING], has_started=True) == {}
    assert attention([WELL, STARTING], has_started=True) == [
        "worker 0-1: lifecycle: starting; routes: joining"
    ]


def test_a_worker_that_takes_connections_and_cannot_serve_withdraws_the_group():
    assert unready([WELL, TROUBLED], has_started=True) == {"worker 0-2": "routes: no snapshot"}


def test_a_group_without_a_running_worker_is_not_ready():
    assert unready([STARTING], has_started=True)


def test_sentences_name_their_worker():
    assert attention([WELL, TROUBLED], has_started=True) == ["worker 0-2: spill is full"]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"workers": 0}, "greater than or equal to 1"),
        ({"workers": 2, "worker": "n" * 30}, "each adds its number"),
    ],
)
def test_settings_that_make_no_group_are_refused(told, why):
    with pytest.raises(ValidationError, match=why):
        GatewaySettings(**told)


async def test_a_worker_whose_process_has_just_gone_is_reached_by_nobody():
    """Its end is read before its exit is seen: work that is sent to the group in between goes to the others."""
    worker = Worker("0-0", dict, lambda name, families: None)
    ours, theirs = socket.socketpair()
    worker.ending, worker._is_running = "", True
    worker._channel = await Channel.over(ours)
    theirs.close()
    standing = await worker.standing()
    assert not standing.is_running
    assert "just ended" in standing.reasons["process"]
    worker._channel.close()
