"""The login file and the addresses."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from phantom_ml_studio import Client, credentials
from phantom_ml_studio.credentials import Login
from phantom_ml_studio.errors import PhantomError, Unauthenticated


def login(lasts_s: float = 3600) -> Login:
    return Login("127.0.0.1:1", "ada", "a-token", time.time() + lasts_s)


def test_a_login_comes_back_from_a_file_that_only_its_user_can_read() -> None:
    saved = login()
    path = credentials.save(saved)
    assert credentials.load() == saved
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_a_login_replaces_an_older_one_and_its_mode() -> None:
    path = credentials.save(login())
    path.chmod(0o644)
    credentials.save(Login("127.0.0.1:2", "bob", "b", time.time() + 60))
    assert credentials.load().username == "bob"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_login_the_command_that_makes_one_is_named() -> None:
    with pytest.raises(Unauthenticated) as caught:
        Client()
    assert caught.value.code == "not_logged_in"
    assert "auth login" in caught.value.message


def test_an_expired_login_is_named_with_whose_it_was() -> None:
    credentials.save(login(lasts_s=-1))
    with pytest.raises(Unauthenticated) as caught:
        Client()
    assert caught.value.code == "login_expired"
    assert "--username ada" in caught.value.message


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"address": 1}', b"\xff\xfe"])
def test_an_unreadable_login_says_which_file_and_what_to_do(content: str | bytes) -> None:
    path = credentials.save(login())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Unauthenticated) as caught:
        credentials.load()
    assert caught.value.code == "not_logged_in"
    assert str(path) in caught.value.message


def test_a_login_of_a_newer_version_is_read_by_what_is_known() -> None:
    path = credentials.save(login())
    path.write_text(json.dumps({**json.loads(path.read_text()), "workspace": "default"}))
    assert credentials.load().username == "ada"


def test_a_folder_in_the_logins_place_is_named() -> None:
    path = credentials.save(login())
    path.unlink()
    path.mkdir()
    with pytest.raises(Unauthenticated) as caught:
        credentials.load()
    assert str(path) in caught.value.message


def test_logging_out_forgets_and_may_be_repeated() -> None:
    credentials.save(login())
    assert credentials.forget() is True
    assert credentials.forget() is False


def test_an_empty_token_is_refused_at_once() -> None:
    with pytest.raises(Unauthenticated):
        Client("127.0.0.1:1", "")


def stack_file(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "data" / "run" / "stack.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    return path


def test_addresses_come_from_the_environment_then_the_local_stack_then_the_usual_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert credentials.control_address() == "127.0.0.1:50051"
    assert credentials.gateway_address() == "127.0.0.1:8001"
    stack_file(
        tmp_path,
        json.dumps({"control_address": "127.0.0.1:5", "gateways": [{"name": "g", "grpc": "127.0.0.1:6"}]}),
    )
    assert credentials.control_address() == "127.0.0.1:5"
    assert credentials.gateway_address() == "127.0.0.1:6"
    monkeypatch.setenv("PHANTOM_ADDRESS", "elsewhere:1")
    monkeypatch.setenv("PHANTOM_GATEWAY", "elsewhere:2")
    assert credentials.control_address() == "elsewhere:1"
    assert credentials.gateway_address() == "elsewhere:2"


def test_a_stack_that_is_still_starting_has_no_addresses_yet(tmp_path: Path) -> None:
    stack_file(tmp_path, json.dumps({"control_address": None, "gateways": []}))
    assert credentials.control_address() == "127.0.0.1:50051"
    assert credentials.gateway_address() == "127.0.0.1:8001"


def test_a_damaged_stack_file_is_named(tmp_path: Path) -> None:
    path = stack_file(tmp_path, "{")
    with pytest.raises(PhantomError) as caught:
        credentials.control_address()
    assert caught.value.code == "stack_file"
    assert str(path) in caught.value.message
