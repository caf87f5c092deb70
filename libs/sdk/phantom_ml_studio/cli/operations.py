"""`dlq`: records that a service could not apply."""

from __future__ import annotations

from typing import Annotated

import typer

from phantom_ml_studio.cli.output import Format, OutputOption, show
from phantom_ml_studio.cli.session import connected

dead_letters = typer.Typer(help="Records that a service could not apply.", no_args_is_help=True)

ServiceOption = Annotated[str, typer.Option(help="registry, deployer, monitor, ...")]
_COLUMNS = ["id", "state", "topic", "partition", "offset", "event_type", "reason", "died_at"]


@dead_letters.command("list")
def list_dead_letters(
    service: ServiceOption,
    state: Annotated[str, typer.Option(help="dead or applied; all by default")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Newest first."""
    from phantom_ml_studio import DeadLetters

    with connected() as client:
        show(DeadLetters(client).list(service, state), _COLUMNS, output)


@dead_letters.command("show")
def show_dead_letter(id: str, service: ServiceOption, output: OutputOption = Format.TABLE) -> None:
    """One record, with its bytes and headers."""
    from phantom_ml_studio import DeadLetters

    with connected() as client:
        show(DeadLetters(client).get(service, id), [*_COLUMNS, "key", "headers", "value"], output)


@dead_letters.command("replay")
def replay_dead_letter(id: str, service: ServiceOption, output: OutputOption = Format.TABLE) -> None:
    """Apply it again, once its cause is mended. A second replay is refused."""
    from phantom_ml_studio import DeadLetters

    with connected() as client:
        outcome = DeadLetters(client).replay(service, id)
        show({"id": id, "service": service, "outcome": outcome}, ["id", "service", "outcome"], output)
