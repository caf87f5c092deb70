"""`deploy`: a first version takes all traffic; a further one becomes a candidate, or is rolled out by itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phantom_ml_studio.cli.deployments import DETAILS as DEPLOYMENT
from phantom_ml_studio.cli.files import dictionary
from phantom_ml_studio.cli.output import (
    FAILED,
    PENDING,
    REFUSED,
    USAGE,
    Format,
    OutputOption,
    fail,
    say,
    show,
)
from phantom_ml_studio.cli.rollouts import DETAILS as ROLLOUT
from phantom_ml_studio.cli.session import connected

if TYPE_CHECKING:
    from phantom_ml_studio.client import Client
    from phantom_ml_studio.rollout_values import Rollout
    from phantom_ml_studio.values import Deployment

# Of a canary whose steps nobody described: as a pipeline's stage.
CANARY_PERCENT, CANARY_DURATION_S = 5.0, 3600.0
_NO_TRAFFIC = ("pending", "waiting_for_approval")
# Of a version that is to have all traffic without anybody's doing.
_NOT_ALL_TRAFFIC = (*_NO_TRAFFIC, "progressing", "analysing", "paused", "rolling_back")


class Strategy(enum.StrEnum):
    """How a further version comes in."""

    ROLLING = "rolling"
    BLUE_GREEN = "blue-green"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, apart from the strategy."""

    model_id: str
    version: str
    environment: str
    deployment_id: str
    replicas: int
    hash_field: str
    requires_new_features: bool
    wait_s: float | None


def deploy(
    model_id: Annotated[str, typer.Option(help="a registered model")],
    environment: Annotated[str, typer.Option(help="where")] = "production",
    version: Annotated[str, typer.Option(help="by default the newest in production, else the newest")] = "",
    image: Annotated[
        str,
        typer.Option(help="name:tag that a version was registered with, or a pipeline built: that version"),
    ] = "",
    deployment_id: Annotated[str, typer.Option(help="by default <model>-<environment>")] = "",
    replicas: Annotated[int, typer.Option(help="model servers of each revision; for a new deployment")] = 0,
    hash_field: Annotated[str, typer.Option(help="what stays on one revision; for a new deployment")] = "",
    strategy: Annotated[
        Strategy | None, typer.Option(help="of a rollout that judges itself; without it, a candidate by hand")
    ] = None,
    strategy_file: Annotated[
        Path | None,
        typer.Option(
            "--strategy-file", "-f", help="YAML or JSON: the strategy's keys (see the SDK's README)"
        ),
    ] = None,
    canary_percentage: Annotated[
        float | None,
        typer.Option(help="share of a further version once it is ready; 5 for --strategy canary"),
    ] = None,
    canary_duration: Annotated[
        float | None, typer.Option(help="s at that share before all traffic, for --strategy canary [3600]")
    ] = None,
    approval_required: Annotated[
        bool, typer.Option("--approval-required", help="no traffic before somebody else approved the rollout")
    ] = False,
    approver: Annotated[
        list[str] | None,
        typer.Option(help="who may approve; repeat it. By default anybody with the permission"),
    ] = None,
    requires_new_features: Annotated[
        bool, typer.Option("--requires-new-features", help="clients send the columns that this version adds")
    ] = False,
    wait_for_ready: Annotated[
        bool,
        typer.Option("--wait-for-ready", help="until it takes traffic; rolling and blue-green: all traffic"),
    ] = False,
    timeout: Annotated[float, typer.Option(help="of --wait-for-ready, s")] = 120.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Deploy a version: the first takes all traffic, a further one becomes the candidate of a canary.

    With --strategy, the further one is rolled out by itself (`rollouts watch`). Exits with 3 where it waits for an
    approval and --wait-for-ready was not given.
    """
    config = _config(
        strategy, strategy_file, canary_percentage, canary_duration, approval_required, approver or []
    )
    with connected() as client:
        version = _version_of_image(client, model_id, image, version) if image else version
        wanted = _Wanted(
            model_id,
            version,
            environment,
            deployment_id,
            replicas,
            hash_field,
            requires_new_features,
            timeout if wait_for_ready else None,
        )
        served = _served(client, wanted) if strategy is not None else None
        if strategy is None:
            show(_plainly(client, wanted, canary_percentage or 0.0), DEPLOYMENT, output)
        elif served is None:
            _check_first(wanted, strategy, config)
            show(_plainly(client, wanted, 0.0), DEPLOYMENT, output)
        else:
            _check_further(wanted, served)
            _roll_out(client, wanted, strategy, config, output)


def _config(
    strategy: Strategy | None,
    file: Path | None,
    percentage: float | None,
    duration: float | None,
    approval_required: bool,
    approvers: list[str],
) -> dict[str, Any]:
    """The strategy's keys from the options; exit code 2 where they do not go together."""
    if approvers and not approval_required:
        fail("--approver goes with --approval-required", USAGE)
    if strategy is None:
        given = {"--strategy-file": file, "--canary-duration": duration}
        for name, value in {**given, "--approval-required": approval_required or None}.items():
            if value is not None:
                fail(f"{name} is of a rollout: add --strategy", USAGE)
        return {}
    config = dictionary(file) if file is not None else {}
    shares = {"--canary-percentage": percentage, "--canary-duration": duration}
    for name, value in shares.items():
        if value is not None and (strategy is not Strategy.CANARY or file is not None):
            other = "the strategy's file says it" if strategy is Strategy.CANARY else "it is for canary"
            fail(f"{name} does not go with --strategy {strategy.value}: {other}", USAGE)
    if strategy is Strategy.CANARY and file is None:
        share = CANARY_PERCENT if percentage is None else percentage
        minutes = (CANARY_DURATION_S if duration is None else duration) / 60
        rest = {"increment_percentage": 100 - share} if share < 100 else {}
        config = {"initial_percentage": share, "increment_interval_minutes": minutes, **rest}
    if strategy is Strategy.SHADOW and file is None:
        fail("--strategy shadow needs --strategy-file: percentage, duration_minutes", USAGE)
    if approval_required:
        config |= {"approval_required": True}
    if approvers:
        config |= {"approvers": approvers}
    return config


def _served(client: Client, wanted: _Wanted) -> Deployment | None:
    """The deployment that the version would go to; None: it is the first one."""
    from phantom_ml_studio import Deployments
    from phantom_ml_studio.errors import NotFound

    suffix = "prod" if wanted.environment == "production" else wanted.environment
    try:
        return Deployments(client).get(wanted.deployment_id or f"{wanted.model_id}-{suffix}")
    except NotFound:
        return None


def _check_first(wanted: _Wanted, strategy: Strategy, config: dict[str, Any]) -> None:
    """A first version has nothing to be compared with; an approval that would not be asked for is refused."""
    from phantom_ml_studio.rollout_spec import to_spec

    to_spec(strategy.value, config)  # what is wrong in it is wrong the next time, too
    if config.get("approval_required"):
        fail(
            f"{wanted.environment} serves no version of {wanted.model_id} yet, so there is no rollout that an approval "
            "could hold: deploy the first version without --strategy and --approval-required, or by a pipeline with "
            "an approval [approval_needs_rollout]",
            REFUSED,
        )
    say(
        f"{wanted.environment} serves no version of {wanted.model_id} yet: the first takes all traffic, "
        f"--strategy {strategy.value} is for the next one"
    )


def _check_further(wanted: _Wanted, served: Deployment) -> None:
    for option, given, now in (
        ("--replicas", wanted.replicas, served.replicas),
        ("--hash-field", wanted.hash_field, served.hash_field),
    ):
        if given and given != now:
            fail(f"{option} is for a new deployment: {served.id} has {now}", REFUSED)


def _plainly(client: Client, wanted: _Wanted, canary_percent: float) -> Deployment:
    from phantom_ml_studio import Deployments

    service = Deployments(client)
    deployment = service.deploy(
        wanted.model_id,
        wanted.version,
        wanted.environment,
        deployment_id=wanted.deployment_id,
        replicas=wanted.replicas,
        hash_field=wanted.hash_field,
        canary_percent=canary_percent,
        requires_new_features=wanted.requires_new_features,
    )
    if wanted.wait_s is None:
        return deployment
    return service.wait_ready(deployment.deployment_id, wanted.wait_s, say)


def _roll_out(
    client: Client, wanted: _Wanted, strategy: Strategy, config: dict[str, Any], output: Format
) -> None:
    from phantom_ml_studio import Rollouts

    service = Rollouts(client)
    rollout = service.create(
        wanted.model_id,
        wanted.version,
        wanted.environment,
        strategy.value,
        config,
        deployment_id=wanted.deployment_id,
        requires_new_features=wanted.requires_new_features,
    )
    for warning in rollout.warnings:
        say(f"warning: {warning}")
    if wanted.wait_s is not None:
        takes_all = strategy in (Strategy.ROLLING, Strategy.BLUE_GREEN)
        rollout = _with_traffic(
            client, rollout, _NOT_ALL_TRAFFIC if takes_all else _NO_TRAFFIC, wanted.wait_s
        )
    show(rollout, ROLLOUT, output)
    if rollout.state in ("rolled_back", "superseded"):
        fail(f"the rollout is {rollout.state}: {rollout.reason}", REFUSED)
    if rollout.state == "failed":
        fail(rollout.reason, FAILED)
    if rollout.state in _NO_TRAFFIC and config.get("approval_required"):
        who = " or ".join(config.get("approvers") or ["anybody with rollouts:approve"])
        say(f"waits for {who}: phantom-ml-studio rollouts approve {rollout.id}")
        raise typer.Exit(PENDING)


def _with_traffic(client: Client, rollout: Rollout, before: tuple[str, ...], timeout_s: float) -> Rollout:
    """Once it is none of the states before; says each new reason."""
    from phantom_ml_studio import Rollouts
    from phantom_ml_studio.errors import TimedOut

    told = ""
    try:
        for now in Rollouts(client).watch(rollout.id, timeout_s):
            rollout = now
            if now.state not in before:
                break
            if now.reason != told:
                say(now.reason)
            told = now.reason
    except TimedOut as error:
        what = "waits for an approval" if rollout.state == "waiting_for_approval" else f"is {rollout.state}"
        raise TimedOut(
            f"rollout {rollout.id} {what} after {timeout_s:g} s and goes on: {rollout.reason}",
            code=error.code,
        ) from None
    return rollout


def _version_of_image(client: Client, model_id: str, image: str, version: str) -> str:
    """The version that was registered with this image, or that a pipeline built it from.

    What is served is the registered artifact of that version: an image that nobody can be traced to one is refused.
    """
    from phantom_ml_studio.images import version_of_image

    found = version_of_image(client, model_id, image)
    if version and version != found:
        fail(f"{image} is version {found} of {model_id}, not {version} [image_differs]", REFUSED)
    say(f"{image} is version {found} of {model_id}; served is the artifact registered for it")
    return found
