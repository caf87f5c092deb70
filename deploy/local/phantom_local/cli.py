"""`up`, `down`, `status` and `logs`: added to `phantom-ml-studio` by the entry point `phantom_ml_studio.commands`.

Heavy imports stand inside the commands: every command line of the SDK imports this module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phantom_ml_studio.cli.output import FAILED, USAGE, Format, OutputOption, fail, say, show

if TYPE_CHECKING:
    from phantom_local.layout import Layout

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="where everything is kept [$PHANTOM_DATA_DIR, ~/.phantom-ml-studio]"),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line of the SDK."""
    for command in (up, down, status, logs):
        app.command(command.__name__)(command)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="return when everything is ready")] = False,
    gateways: Annotated[int, typer.Option(min=1, max=16, help="how many inference gateways")] = 1,
    gateway_workers: Annotated[
        int,
        typer.Option(
            min=1, max=64, envvar="PHANTOM_GATEWAY_WORKERS", help="processes of each, which share its ports"
        ),
    ] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="seconds to wait until everything is ready")] = 120,
    data_dir: DataDir = None,
) -> None:
    """Start Kafka, Postgres, the control services and a gateway on this machine, and keep them running.

    In the foreground until Ctrl-C, which stops everything; with --detach until `down`.
    PHANTOM_KAFKA_BOOTSTRAP and PHANTOM_POSTGRES_DSN name servers of your own instead of the embedded ones.
    """
    from phantom_local.detached import run_detached
    from phantom_local.stack import StackSettings
    from phantom_local.supervisor import AlreadyRunning, Progress, Supervisor

    layout = _layout(data_dir)
    try:
        settings = StackSettings.from_environment(gateways, gateway_workers)
    except ValueError as error:
        fail(str(error), USAGE)
    if detach:
        raise typer.Exit(run_detached(layout, (gateways, gateway_workers), timeout))
    progress = Progress()
    supervisor = Supervisor(layout, settings, progress)
    try:
        code = supervisor.run(timeout)
    except (AlreadyRunning, OSError) as error:
        fail(str(error))
    raise typer.Exit(code)


def down(data_dir: DataDir = None) -> None:
    """Stop everything that runs from this data directory, model servers included; nothing is lost."""
    from phantom_local.detached import stop_supervisor
    from phantom_local.shutdown import stop_everything

    layout = _layout(data_dir)
    if not layout.run.is_dir():
        say(f"nothing has been started from {layout.data_dir}")
        return
    stop_supervisor(layout, say)
    if not stop_everything(layout, say):
        fail("something is still running: see `phantom-ml-studio status`")
    say("everything is stopped")


def status(output: OutputOption = Format.TABLE, data_dir: DataDir = None) -> None:
    """What runs where, healthy or not and why. Exit code 1 unless everything is healthy."""
    from phantom_local.status import stack_status

    found = stack_status(_layout(data_dir))
    if output is Format.JSON:
        totals = {"memory_mb": found.memory_mb, "healthy": found.is_healthy, "attention": found.attention}
        show({**_fields(found), **totals}, [], output)
    else:
        columns = ["name", "state", "pid", "ports", "memory_mb", "up_s", "why"]
        show(found.processes, columns, output)
        say(f"{found.data_dir}: {found.state}, {found.memory_mb:g} MB")
        for line in found.attention:
            say(f"attention: {line}")
    if not found.is_healthy:
        raise typer.Exit(FAILED)


def logs(
    name: Annotated[str | None, typer.Argument(help="as `status` names it; all where none is given")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until Ctrl-C")] = False,
    tail: Annotated[int, typer.Option(min=0, help="how many last lines of each")] = 100,
    data_dir: DataDir = None,
) -> None:
    """Show the logs of the processes."""
    from phantom_local.logs import follow_logs, known_logs, last_lines

    layout = _layout(data_dir)
    known = known_logs(layout)
    if name is not None and name.removeprefix("replica ") not in known:
        fail(f"there is no log of {name!r}; there are: {', '.join(known) or 'none yet'}", USAGE)
    chosen = {name: known[name.removeprefix("replica ")]} if name else known
    for one, path in chosen.items():
        for line in last_lines(path, tail):
            sys.stdout.write(line + "\n" if name else f"{one} | {line}\n")
    if follow:
        follow_logs(chosen, sys.stdout)


def _layout(data_dir: Path | None) -> Layout:
    from phantom_local.layout import Layout

    return Layout.of(data_dir)


def _fields(value: object) -> dict[str, object]:
    from dataclasses import asdict, is_dataclass

    assert is_dataclass(value)
    assert not isinstance(value, type)
    return asdict(value)
