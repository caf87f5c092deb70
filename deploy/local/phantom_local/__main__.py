"""The local stack's commands without the SDK's: `python -m phantom_local up`."""

import typer

from phantom_local.cli import add_to

app = typer.Typer(
    help="Phantom ML Studio on this machine.", no_args_is_help=True, pretty_exceptions_enable=False
)
add_to(app)

if __name__ == "__main__":
    app()
