"""`models` and `approvals`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from phantom_ml_studio.cli.output import (
    PENDING,
    USAGE,
    Format,
    OutputOption,
    fail,
    say,
    show,
)
from phantom_ml_studio.cli.session import connected

models = typer.Typer(help="The model registry.", no_args_is_help=True)
approvals = typer.Typer(help="Promotions that wait for somebody.", no_args_is_help=True)

_MODEL = ["model_id", "latest_version", "stage_versions", "tags", "created_by"]
_VERSION = ["model_id", "version", "stage", "framework", "size_bytes", "digest", "created_by"]
_PROMOTION = [
    "promotion_id",
    "model_id",
    "version",
    "from_stage",
    "to_stage",
    "state",
    "reviewer",
    "requested_by",
]


@models.command("list")
def list_models(
    text: Annotated[str, typer.Option(help="in id or description")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="with this tag; repeat for several")] = None,
    stage: Annotated[str | None, typer.Option(help="with a version in this stage")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Models, newest first."""
    from phantom_ml_studio import ModelRegistry

    with connected() as client:
        show(ModelRegistry(client).list_models(text, tag or [], stage), _MODEL, output)


@models.command("show")
def show_model(
    model_id: str,
    version: Annotated[str | None, typer.Option(help="one version, whole")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """A model and its versions, or one version."""
    from phantom_ml_studio import ModelRegistry

    with connected() as client:
        registry = ModelRegistry(client)
        if version is not None:
            columns = [*_VERSION, "claimed_metrics", "changes", "created_at"]
            show(registry.get_version(model_id, version), columns, output)
            return
        model, versions = registry.get_model(model_id), registry.list_versions(model_id)
        if output is Format.JSON:
            show({"model": model, "versions": versions}, [], output)
            return
        show(model, [*_MODEL, "description", "created_at"], output)
        say("")
        show(versions, _VERSION, output)


@models.command()
def register(
    model_id: str,
    model_path: Annotated[Path, typer.Option("--path", help="the artifact: .json/.ubj, .onnx, .skops, .pkl")],
    version: Annotated[str, typer.Option(help="of this artifact")] = "1.0.0",
    schema: Annotated[Path | None, typer.Option(help="JSON file: features, class labels, outcome")] = None,
    metadata: Annotated[Path | None, typer.Option(help="JSON file")] = None,
    image: Annotated[
        str, typer.Option(help="name:tag of a container image that holds it, for `deploy --image`")
    ] = "",
    description: str = "",
    tag: Annotated[list[str] | None, typer.Option(help="repeat for several")] = None,
    stage: Annotated[
        str | None, typer.Option(help="by default development for a new model, staging for a further version")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Register a model, or a further version of one."""
    from phantom_ml_studio import ModelRegistry
    from phantom_ml_studio.errors import NotFound

    facts, known_schema = {**_json(metadata), "version": version}, _json(schema) or None
    if image:
        facts["image"] = image
    with connected() as client:
        registry = ModelRegistry(client)
        try:
            registry.get_model(model_id)
            is_new = False
        except NotFound:
            is_new = True
        kwargs: dict[str, Any] = {"metadata": facts, "schema": known_schema}
        if stage is not None:
            kwargs["stage"] = stage
        if is_new:
            made = registry.register_model(
                model_id, model_path, description=description, tags=tag or [], **kwargs
            ).version
        elif description or tag:
            fail(f"{model_id} is registered: a further version takes no --description and no --tag", USAGE)
        else:
            made = registry.create_version(model_id, version, model_path, **kwargs)
        show(made, _VERSION, output)


@models.command()
def promote(
    model_id: str,
    version: str,
    to_stage: Annotated[str, typer.Option("--to", help="development, staging, production or archived")],
    from_stage: Annotated[str | None, typer.Option("--from", help="refuse unless it is here")] = None,
    approval_required: Annotated[bool, typer.Option("--approval-required")] = False,
    reviewer: Annotated[str, typer.Option(help="who is to approve it")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Move a version to a stage. Exits with 3 where an approval is awaited."""
    from phantom_ml_studio import ModelRegistry

    with connected() as client:
        promotion = ModelRegistry(client).promote_model(
            model_id, version, to_stage, from_stage, approval_required, reviewer
        )
    show(promotion, _PROMOTION, output)
    if promotion.state == "pending":
        say(f"waiting for {reviewer}: phantom-ml-studio approvals grant {promotion.promotion_id}")
        raise typer.Exit(PENDING)


@approvals.command("list")
def list_approvals(
    state: Annotated[str, typer.Option(help="pending, executed, rejected, expired or all")] = "pending",
    model_id: str = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Promotions that wait, or what became of them."""
    from phantom_ml_studio import ModelRegistry

    with connected() as client:
        show(ModelRegistry(client).list_approvals(state, model_id), _PROMOTION, output)


@approvals.command()
def grant(promotion_id: str, comment: str = "", output: OutputOption = Format.TABLE) -> None:
    """Let it happen. Nobody grants their own request."""
    from phantom_ml_studio import ModelRegistry

    with connected() as client:
        show(ModelRegistry(client).grant_approval(promotion_id, comment), _PROMOTION, output)


@approvals.command()
def reject(promotion_id: str, comment: str = "", output: OutputOption = Format.TABLE) -> None:
    """Refuse it."""
    from phantom_ml_studio import ModelRegistry

    with connected() as client:
        show(ModelRegistry(client).reject_approval(promotion_id, comment), _PROMOTION, output)


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        fail(f"{path}: {error}", USAGE)
    if not isinstance(content, dict):
        fail(f"{path} does not hold a JSON object", USAGE)
    return content
