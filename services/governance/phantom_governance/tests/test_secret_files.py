"""Secrets are written once, whole, and for one reader."""

import pytest

from phantom_governance.secret_files import Keyring, read_or_create
from phantom_platform.errors import Refused


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path):
    path = tmp_path / "secrets" / "registry.key"
    assert read_or_create(path, lambda: "first") == "first"
    assert read_or_create(path, lambda: "second") == "first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["registry.key"]


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "registry.key"
    path.write_text("exposed")
    path.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600") as refused:
        read_or_create(path, lambda: "new")
    assert refused.value.code == "secret_file_exposed"


def test_the_signing_key_stays_the_same(tmp_path):
    first, second = Keyring(tmp_path / "key.pem").key, Keyring(tmp_path / "key.pem").key
    assert first.kid == second.kid
    assert len(first.kid) == 16
    other = Keyring(tmp_path / "other.pem").key
    assert other.kid != first.kid


@pytest.mark.parametrize(
    "text", ["garbage", "", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"]
)
def test_a_damaged_signing_key_is_refused_saying_what_to_do(tmp_path, text):
    path = tmp_path / "key.pem"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Refused, match="restore it") as refused:
        _ = Keyring(path).key
    assert refused.value.code == "signing_key_unusable"
