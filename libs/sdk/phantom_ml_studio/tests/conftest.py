"""A fake platform, and a login that nobody else's configuration can reach."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phantom_ml_studio import credentials
from phantom_ml_studio.tests import fake_platform
from phantom_ml_studio.tests.fake_platform import FakePlatform


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login, no local stack, no addresses from the environment."""
    monkeypatch.setenv("PHANTOM_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("PHANTOM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("PHANTOM_ADDRESS", raising=False)
    monkeypatch.delenv("PHANTOM_GATEWAY", raising=False)


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    """Listens on a free port."""
    with fake_platform.running() as made:
        yield made


@pytest.fixture
def logged_in(platform: FakePlatform) -> FakePlatform:
    """The fake platform, and a login at it."""
    credentials.save(credentials.Login(platform.address, "ada", "token-of-ada", time.time() + 3600))
    return platform
