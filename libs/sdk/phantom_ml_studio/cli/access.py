"""`auth` and `users`: who is at the keyboard, and who else may be."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from phantom_ml_studio.cli.output import USAGE, Format, OutputOption, fail, say, show
from phantom_ml_studio.cli.session import connected, errors_explained

auth = typer.Typer(help="Log in and out.", no_args_is_help=True)
users = typer.Typer(help="People who can log in.", no_args_is_help=True)

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="read the password from standard input")
]


@auth.command()
def login(
    username: Annotated[str, typer.Option(help="who you are")],
    password_stdin: PasswordStdin = False,
    address: Annotated[str | None, typer.Option(help="the control API; the local stack's by default")] = None,
) -> None:
    """Ask for the password and keep a token for an hour, in a file that only you can read."""
    from phantom_ml_studio import credentials
    from phantom_ml_studio.client import obtain_token

    with errors_explained():
        where = address or credentials.control_address()
        token = obtain_token(username, _password("Password: ", password_stdin), where)
        path = credentials.save(credentials.Login(where, username, token.value, token.expires_at.ToSeconds()))
    say(f"logged in as {username} at {where} until {token.expires_at.ToDatetime():%H:%M} UTC ({path})")


@auth.command()
def logout() -> None:
    """Forget the token."""
    from phantom_ml_studio import credentials

    say("logged out" if credentials.forget() else "nobody was logged in")


@auth.command()
def whoami(output: OutputOption = Format.TABLE) -> None:
    """The caller, as the token says."""
    from phantom_ml_studio import Users

    with connected() as client:
        show(Users(client).who_am_i(), ["username", "permissions"], output)


@auth.command("change-password")
def change_password(
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="read the present and the new password, a line each")
    ] = False,
) -> None:
    """Change your own password."""
    from phantom_ml_studio import Users

    current, new = (
        _password("Current password: ", password_stdin),
        _password("New password: ", password_stdin),
    )
    with connected() as client:
        Users(client).change_password(current, new)
    say("the password is changed")


@users.command("create")
def create_user(
    username: Annotated[str, typer.Argument(help="a name, or an e-mail address")],
    permission: Annotated[
        list[str] | None,
        typer.Option(help="resource:action, `*` for any; repeat it. By default an ML engineer's"),
    ] = None,
    password_stdin: PasswordStdin = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Create a user; asks for the password."""
    from phantom_ml_studio import Users

    with connected() as client:
        password = _password(f"Password of {username}: ", password_stdin)
        show(Users(client).create(username, password, permission or []), ["username", "permissions"], output)


@users.command("list")
def list_users(output: OutputOption = Format.TABLE) -> None:
    """Every user."""
    from phantom_ml_studio import Users

    with connected() as client:
        show(Users(client).list(), ["username", "permissions", "created_by"], output)


def _password(prompt: str, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        fail("there is no terminal to ask for the password: pass it with --password-stdin", USAGE)
    return getpass.getpass(prompt)
