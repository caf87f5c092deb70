"""How a group of workers stands, from how each does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """One worker."""

    worker: str
    # Whether it has started, so that connections may reach it.
    is_running: bool
    # Against sending work to it; empty when ready.
    reasons: Mapping[str, str]
    attention: Sequence[str] = ()


def unready(standings: Sequence[Standing], *, has_started: bool) -> dict[str, str]:
    """Why no work should be sent to the group, by worker; empty when it is ready.

    Until all have started everybody counts. From then on those count that connections reach: one that is being
    started again gets none, and the others serve.
    """
    running = [each for each in standings if each.is_running]
    counted = running if has_started and running else standings
    return {f"worker {each.worker}": _words(each.reasons) for each in counted if each.reasons}


def attention(standings: Sequence[Standing], *, has_started: bool) -> list[str]:
    """What an operator should look at, each sentence with its worker."""
    sentences = []
    for each in standings:
        if has_started and not each.is_running:
            sentences.append(f"worker {each.worker}: {_words(each.reasons)}")
        sentences += [f"worker {each.worker}: {sentence}" for sentence in each.attention]
    return sentences


def _words(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{what}: {said}" for what, said in reasons.items())
