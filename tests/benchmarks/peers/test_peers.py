"""The locks of the peers are complete and hashed, and bring nothing that was ruled out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PEERS = sorted(path.parent for path in HERE.glob("*/requirements.in"))


def test_there_are_the_peers_that_are_compared() -> None:
    assert [peer.name for peer in PEERS] == [
        "bentoml",
        "envoy",
        "kserve",
        "litserve",
        "mlserver",
        "ray_serve",
    ]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_package_of_a_lock_is_pinned_with_hashes_and_no_host(peer: Path) -> None:
    lock = (peer / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    assert all(re.match(r"[a-z0-9._-]+==\S+ ", entry) for entry in entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in lock
    assert "index" not in lock


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_no_lock_brings_torch_or_the_xgboost_with_gpu_libraries(peer: Path) -> None:
    names = re.findall(r"^([a-z0-9._-]+)==", (peer / "requirements.lock").read_text(), re.MULTILINE)
    assert not {"torch", "xgboost", "nvidia-nccl-cu12"} & set(names)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_what_is_asked_for_is_locked(peer: Path) -> None:
    lock = (peer / "requirements.lock").read_text()
    for line in (peer / "requirements.in").read_text().splitlines():
        if line and not line.startswith("#"):
            asked = re.sub(r"\[.*?\]", "", line)
            assert re.search(rf"^{re.escape(asked)}(==| )", lock, re.MULTILINE), asked
