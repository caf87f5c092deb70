"""The page on canaries, run as it is written: its snippets after one another, on an endpoint with traffic."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from harness import models, oip
from harness.cli import Ran, Shell
from harness.guide import MODEL, Studio, python_blocks
from harness.people import new_person
from harness.waiting import eventually
from phantom_ml_studio import CanaryDeployment, Rollouts
from phantom_ml_studio.errors import Forbidden, Invalid, Refused
from phantom_ml_studio.rollout_values import Rollout

PAGE = Path(__file__).with_name("canary_deployments.md")
GUIDES, READING, ENDING = python_blocks(PAGE)
ENDPOINT = f"{MODEL}-prod"
CONTROLS = GUIDES[GUIDES.index("# Manual controls") :]


class Traffic:
    """Users who keep calling the endpoint until the block ends."""

    def __init__(self, studio: Studio) -> None:
        self._door, self._over, self._user = oip.Door(studio.stack), Event(), 0
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._door.close()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            self.variants(self._door, 40)

    def variants(self, door: oip.Door, users: int) -> Counter[str]:
        """How many of the next users were answered by which arm."""
        requests = []
        for _ in range(users):
            self._user += 1
            row = {"amount": [0.2], "hour": [0.5]}
            requests.append(oip.request(ENDPOINT, row, user_id=f"user-{self._user % 2000}"))
        return Counter(
            answer.infer_response.parameters["phantom_variant"].string_param
            for answer in door.stream(requests)
        )


@pytest.fixture(scope="module")
def names(studio: Studio) -> dict[str, Any]:
    """What the guide's program leaves behind."""
    found: dict[str, Any] = {"client": studio.engineer.client}
    exec(compile(GUIDES, str(PAGE), "exec"), found)
    return found


def test_the_guides_program_promotes_to_25_percent(names: dict[str, Any], studio: Studio) -> None:
    config, status = names["canary_config"], names["canary_status"]
    assert status.id == config.id
    assert status.current_percentage < 10
    assert math.isnan(status.error_rate)
    now = CanaryDeployment(studio.engineer.client).get_deployment_status(config.id)
    assert (now.current_percentage, now.strategy, now.model_version) == (25, "canary", "2.1.1")
    spec = now.spec
    assert spec["canary"]["interval_s"] == 1800
    assert (spec["criteria"]["error_rate_threshold"], spec["criteria"]["latency_p95_threshold_ms"]) == (
        0.01,
        100,
    )
    assert (int(spec["criteria"]["minimum_requests"]), spec["auto_rollback"]["failure_threshold"]) == (
        1000,
        3,
    )
    eventually(lambda: _is_acknowledged(studio), "the gateways follow")
    with Traffic(studio) as traffic:
        door = oip.Door(studio.stack)
        variants = traffic.variants(door, 2000)
        door.close()
    assert 0.2 < variants["candidate"] / 2000 < 0.3


def _is_acknowledged(studio: Studio) -> bool:
    found = studio.deployments.get(ENDPOINT)
    return found.acknowledged_route_version == found.route_version


def test_the_page_reads_and_ends_it(
    names: dict[str, Any], studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(READING, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert " at 25 %: " in said
    assert re.search(r"\d\d:\d\d:\d\d pending -> progressing: ", said)
    exec(compile(ENDING, str(PAGE), "exec"), names)
    assert names["ended"].phase == "rolled_back"
    assert "seen enough" in capsys.readouterr().out
    with Traffic(studio) as traffic:
        door = oip.Door(studio.stack)
        assert traffic.variants(door, 200)["candidate"] == 0
        door.close()
    with pytest.raises(Refused) as over:
        CanaryDeployment(studio.engineer.client).promote(names["canary_config"].id, 50)
    assert over.value.code == "rollout_ended"


class _Recorded:
    """What the guide's manual controls call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def promote(self, id: str, target_percentage: float) -> None:
        self.calls.append(f"promote {target_percentage}")

    def rollback(self, id: str) -> None:
        self.calls.append("rollback")


@pytest.mark.parametrize(
    ("percentage", "error_rate", "calls"),
    [(1, math.nan, ["promote 25"]), (25, math.nan, []), (25, 0.01, []), (25, 0.03, ["rollback"])],
)
def test_the_guides_controls_act_on_figures_only(
    percentage: float, error_rate: float, calls: list[str], names: dict[str, Any]
) -> None:
    status: Rollout = replace(names["canary_status"], current_percentage=percentage, error_rate=error_rate)
    canary = _Recorded()
    exec(CONTROLS, {"canary": canary, "canary_status": status, "canary_config": status})
    assert canary.calls == calls


def test_mistakes_in_the_guides_dictionaries_are_named(studio: Studio) -> None:
    wrong = GUIDES.replace('"minimum_requests"', '"min_requests"').replace(
        '"failure_threshold": 3', '"failure_threshold": 0'
    )
    with pytest.raises(Invalid) as caught:
        exec(wrong, {"client": studio.engineer.client})
    assert [name for name, _ in caught.value.violations] == [
        "success_criteria.min_requests",
        "auto_rollback.failure_threshold",
    ]


# -- from a shell --------------------------------------------------------------------


def lines() -> list[str]:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return block.splitlines()


@pytest.fixture(scope="module")
def shell(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The engineer's."""
    return Shell(studio.stack, tmp_path_factory.mktemp("shell")).log_in(studio.engineer)


@pytest.fixture(scope="module")
def rolled_out(studio: Studio, shell: Shell, names: dict[str, Any]) -> Iterator[tuple[Ran, Ran]]:
    """The page's two commands, with traffic, and the reviewer's approval in between."""
    path = models.xgboost_file(studio.folder / "fraud_detector_v2_2.json", 3)
    image = re.search(r"--image (\S+)", lines()[0])
    assert image is not None
    made = shell.run("models", "register", MODEL, "--version", "2.2.0", "--path", path, "--image", image[1])
    assert made.code == 0, made.err
    with Traffic(studio):
        deployed = shell.bash(lines()[0] + " || exit $?")
        rollouts = Rollouts(studio.engineer.client)
        eventually(
            lambda: rollouts.get(ENDPOINT).state == "waiting_for_approval", "the approval is asked for"
        )
        with pytest.raises(Forbidden) as own:
            rollouts.approve(ENDPOINT)
        assert own.value.code == "requester_cannot_approve"
        Rollouts(studio.reviewer.client).approve(rollouts.get(ENDPOINT).id, "go")
        yield deployed, shell.bash(lines()[1])


def test_a_deployment_that_needs_an_approval_exits_with_3(rolled_out: tuple[Ran, Ran]) -> None:
    deployed, _ = rolled_out
    assert deployed.code == 3, deployed.err
    assert "fraud-detection:4f1c2d is version 2.2.0" in deployed.err
    assert "rollouts approve" in deployed.err


def test_a_good_version_comes_in_by_itself_and_the_watch_exits_with_0(
    rolled_out: tuple[Ran, Ran], studio: Studio
) -> None:
    _, watched = rolled_out
    assert watched.code == 0, watched.out + watched.err
    assert "-> succeeded" in watched.out
    served = studio.deployments.get(ENDPOINT)
    assert served.stable is not None
    assert served.stable.model_version == "2.2.0"


def test_an_image_of_no_version_is_refused(shell: Shell, rolled_out: tuple[Ran, Ran]) -> None:
    line = lines()[0].replace("4f1c2d", "unknown")
    done = shell.bash(line + " || exit $?")
    assert done.code == 5
    assert "[unknown_image]" in done.err


def test_somebody_without_permission_cannot_begin_one(studio: Studio) -> None:
    reader = new_person(studio.stack, studio.admin, "guide-reader", ("deployments:read",))
    with pytest.raises(Forbidden):
        exec(GUIDES, {"client": reader.client})
    reader.client.close()
