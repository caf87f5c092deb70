"""`pipelines`: stages that a version goes through by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phantom_ml_studio.cli.files import dictionary
from phantom_ml_studio.cli.output import (
    OK,
    PENDING,
    REFUSED,
    USAGE,
    Format,
    OutputOption,
    fail,
    say,
    show,
    show_line,
)
from phantom_ml_studio.cli.session import connected

if TYPE_CHECKING:
    from phantom_ml_studio.pipeline_values import Execution, Pipeline
    from phantom_ml_studio.pipelines import DeploymentPipeline

pipelines = typer.Typer(help="Stages that a version goes through by itself.", no_args_is_help=True)

PipelineArgument = Annotated[str, typer.Argument(help="a pipeline's name or id")]
ExecutionArgument = Annotated[str, typer.Argument(help="an execution's id")]
FileOption = Annotated[Path, typer.Option("--file", "-f", help="YAML or JSON; - for standard input")]
StageOption = Annotated[str | None, typer.Option(help="by default the one that waits")]
TimeoutOption = Annotated[float | None, typer.Option(help="s; without it, until it has ended")]

_PIPELINE: dict[str, Callable[[Any], Any]] = {
    "pipeline": lambda p: p.pipeline_id,
    "name": lambda p: p.name,
    "stages": lambda p: [f"{s.name} ({s.type})" for s in p.stages],
    "version": lambda p: p.version,
    "created by": lambda p: p.created_by,
}
_EXECUTION: dict[str, Callable[[Any], Any]] = {
    "execution": lambda e: e.execution_id,
    "pipeline": lambda e: e.pipeline_name,
    "model": lambda e: f"{e.model_id} {e.model_version}",
    "phase": lambda e: e.phase,
    "stage": lambda e: e.current_stage,
    "progress": lambda e: f"{e.progress:g} %",
    "trigger": lambda e: e.trigger,
    "created by": lambda e: e.created_by,
}
_DETAILS = {**_EXECUTION, "reason": lambda e: e.reason, "ended at": lambda e: e.ended_at}
_STAGE: dict[str, Callable[[Any], Any]] = {
    "stage": lambda s: s.name,
    "type": lambda s: s.type,
    "phase": lambda s: s.phase,
    "duration": lambda s: f"{s.duration_s:.1f} s" if s.started_at else None,
    "attempts": lambda s: s.attempts,
    "approval": lambda s: _approval(s),
    "reason": lambda s: s.reason,
}


@pipelines.command()
def create(
    name: Annotated[str, typer.Argument(help="letters, digits, `.`, `_` and `-`")],
    description: str = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """An empty pipeline."""
    with _service() as service:
        show(service.create(name, description), _PIPELINE, output)


@pipelines.command("add-stage")
def add_stage(pipeline: PipelineArgument, file: FileOption, output: OutputOption = Format.TABLE) -> None:
    """Append a stage: name, type and config (docs/pipelines.md)."""
    stage = dictionary(file)
    with _service() as service:
        show(service.add_stage(pipeline, stage), _PIPELINE, output)


@pipelines.command()
def apply(file: FileOption, output: OutputOption = Format.TABLE) -> None:
    """Make the pipeline of a file (name, description, stages), or add the stages that it does not have yet.

    Stages that are there stay as they are: where the file says otherwise, exits with 5 and changes nothing.
    """
    wanted = _pipeline_of(file)
    from phantom_ml_studio.errors import NotFound

    with _service() as service:
        try:
            found = service.get(wanted["name"])
        except NotFound:
            found = service.create(wanted["name"], wanted.get("description", ""))
            say(f"{found.name} is created")
        _check_same(found, wanted)
        for stage in wanted["stages"][len(found.stages) :]:
            found = service.add_stage(found.id, stage)
            say(f"{found.stages[-1].name} is added")
        show(found, _PIPELINE, output)


@pipelines.command("list")
def list_pipelines(output: OutputOption = Format.TABLE) -> None:
    """Every pipeline."""
    with _service() as service:
        show(service.list(), _PIPELINE, output)


@pipelines.command("show")
def show_pipeline(pipeline: PipelineArgument, output: OutputOption = Format.TABLE) -> None:
    """A pipeline, and the config of its stages."""
    with _service() as service:
        found = service.get(pipeline)
        show(found, {**_PIPELINE, "description": lambda p: p.description}, output)
        if output is Format.TABLE:
            say("")
            show(list(found.stages), ["name", "type", "config"], output)


@pipelines.command()
def execute(
    pipeline: PipelineArgument,
    model_id: Annotated[str, typer.Option(help="a registered model")],
    version: Annotated[str, typer.Option(help="by default the newest")] = "",
    trigger: Annotated[str, typer.Option(help="what made it begin, in a word")] = "manual",
    wait: Annotated[
        bool, typer.Option("--wait", help="until it has ended, or waits for an approval")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="of --wait, s")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Send a version through the pipeline.

    With --wait, exits with 0 where it succeeded, with 3 where it waits for an approval, else with 5.
    """
    if timeout is not None and not wait:
        fail("--timeout goes with --wait", USAGE)
    with _service() as service:
        made = service.execute(pipeline, model_id, version, trigger)
        if wait:
            say(f"execution {made.id}")
            for before, now in _pairs(service.watch(made.id, timeout)):
                for line in changes_of(before, now):
                    say(line)
                made = now
                if now.phase == "waiting_for_approval":
                    break
        show(made, _DETAILS, output)
    if wait:
        raise typer.Exit(_code(made))


@pipelines.command()
def status(
    execution: ExecutionArgument,
    logs: Annotated[bool, typer.Option("--logs", help="what each stage said, too")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """How far an execution is, stage by stage. JSON carries logs and results."""
    with _service() as service:
        found = service.get_execution_status(execution)
    show(found, _DETAILS, output)
    if output is Format.JSON:
        return
    say("")
    show(list(found.stages), _STAGE, output)
    if logs:
        lines = [{"stage": s.name, **vars(line)} for s in found.stages for line in s.logs]
        say("")
        show(lines, ["stage", "at", "level", "text"], output)


@pipelines.command()
def watch(
    execution: ExecutionArgument, timeout: TimeoutOption = None, output: OutputOption = Format.TABLE
) -> None:
    """Follow an execution until it has ended: its stages and what they say (json: an object a line).

    Exits with 0 where it succeeded, else with 5.
    """
    now = None
    with _service() as service:
        for before, now in _pairs(service.watch(execution, timeout)):
            if output is Format.JSON:
                show_line(now)
                continue
            for line in changes_of(before, now):
                print(line, flush=True)  # noqa: T201
    raise typer.Exit(_code(now) if now else REFUSED)


@pipelines.command("executions")
def list_executions(
    pipeline: Annotated[str, typer.Option(help="only of this one, by id")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Newest first."""
    with _service() as service:
        show(service.list_executions(service.get(pipeline).id if pipeline else ""), _EXECUTION, output)


@pipelines.command()
def approve(
    execution: ExecutionArgument,
    stage: StageOption = None,
    comment: str = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Let the stage begin that waits. Nobody approves what they asked for."""
    with _service() as service:
        show(service.approve(execution, stage, comment), _DETAILS, output)


@pipelines.command()
def reject(
    execution: ExecutionArgument,
    stage: StageOption = None,
    comment: str = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Refuse the stage that waits: the execution fails."""
    with _service() as service:
        show(service.reject(execution, stage, comment), _DETAILS, output)


@pipelines.command()
def cancel(execution: ExecutionArgument, reason: str = "", output: OutputOption = Format.TABLE) -> None:
    """End what runs; a deployment in progress is rolled back."""
    with _service() as service:
        show(service.cancel(execution, reason), _DETAILS, output)


def changes_of(before: Execution | None, now: Execution) -> Iterator[str]:
    """What is new, a line each: phases of stages, and what they said."""
    known = {s.name: s for s in before.stages} if before else {}
    for stage in now.stages:
        old = known.get(stage.name)
        for line in stage.logs[len(old.logs) if old else 0 :]:
            yield f"{f'{line.at:%H:%M:%S}' if line.at else '--:--:--'}  {stage.name}: {line.level} {line.text}"
        if stage.phase != (old.phase if old else "pending"):
            took = f" after {stage.duration_s:.1f} s" if stage.ended_at and stage.duration_s else ""
            yield f"{stage.name}: {stage.phase}{took}" + (f", {stage.reason}" if stage.reason else "")
    if before is None or before.phase != now.phase:
        yield f"{now.id}: {now.phase}, {now.progress:g} %" + (f", {now.reason}" if now.reason else "")


def _code(execution: Execution) -> int:
    return {"succeeded": OK, "waiting_for_approval": PENDING}.get(execution.phase, REFUSED)


def _approval(stage: Any) -> str | None:
    if stage.approval is None:
        return None
    who = stage.approval.decided_by or ", ".join(stage.approval.approvers) or "anybody"
    return f"{stage.approval.state}: {who}"


def _pipeline_of(file: Path) -> dict[str, Any]:
    """Name, description and stages, in their shape; what a stage may hold is the server's to say."""
    wanted = dictionary(file)
    if unknown := sorted(set(wanted) - {"name", "description", "stages"}):
        fail(f"{file}: there is no {', '.join(unknown)}; it takes name, description, stages", USAGE)
    stages = wanted.get("stages")
    if not isinstance(wanted.get("name"), str) or not isinstance(stages, list) or not stages:
        fail(f"{file}: a name and a list of stages are needed", USAGE)
    if not all(isinstance(stage, dict) for stage in stages):
        fail(f"{file}: each stage is a dictionary of name, type and config", USAGE)
    return wanted


def _check_same(found: Pipeline, wanted: dict[str, Any]) -> None:
    for i, stage in enumerate(found.stages):
        asked = wanted["stages"][i] if i < len(wanted["stages"]) else {}
        here = {"name": stage.name, "type": stage.type, "config": stage.config}
        if {"config": {}, **asked} != here:
            fail(
                f"{found.name} has a stage {stage.name} that the file does not say so in place {i + 1}; stages are "
                "never changed: give the pipeline of the file another name [stage_differs]",
                REFUSED,
            )


@contextmanager
def _service() -> Iterator[DeploymentPipeline]:
    from phantom_ml_studio import DeploymentPipeline

    with connected() as client:
        yield DeploymentPipeline(client)


def _pairs(found: Iterator[Execution]) -> Iterator[tuple[Execution | None, Execution]]:
    """Each one with the one before."""
    before = None
    for now in found:
        yield before, now
        before = now
