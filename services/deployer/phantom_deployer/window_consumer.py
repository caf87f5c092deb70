"""Events in: windows that rollouts are judged by."""

from __future__ import annotations

from phantom_contracts import topics
from phantom_contracts.events.monitor import WindowPublished, WindowsClosed
from phantom_deployer.domain.evidence import Closed, Window
from phantom_deployer.store import Writes
from phantom_platform.errors import Invalid
from phantom_platform.kafka.router import Received, Router
from phantom_platform.postgres import Transaction
from phantom_statistics.rollouts import Sums
from phantom_statistics.rollouts.evidence import FAILURES

# Traffic that a rollout decides on, and copies for a shadow revision.
DECISIONS = ("rollout", "shadow")


def router() -> Router:
    """Windows into tables. Whoever judges by them looks once a second."""
    made = Router("deployer")
    made.on(topics.WINDOWS, WindowPublished, on_window_published)
    made.on(topics.WINDOWS, WindowsClosed, on_windows_closed)
    return made


async def on_window_published(tx: Transaction, received: Received[WindowPublished]) -> None:
    event = received.event
    if event.decision not in DECISIONS:
        return
    sums = _sums(event)
    window = Window(
        sums=sums.to_bytes(),
        decision=event.decision,
        agreement_json=event.agreement.model_dump_json() if event.agreement else None,
        is_complete=event.state == "complete",
        requests=sums.requests,
        failures=int(sums.groups[:, FAILURES].sum()),
    )
    place = (
        event.workspace,
        event.endpoint,
        event.start,
        event.route_version,
        event.revision,
        event.arm,
        event.decision,
        event.segment,
    )
    await Writes(tx).put_window(window, place, event.revision_no)


async def on_windows_closed(tx: Transaction, received: Received[WindowsClosed]) -> None:
    event = received.event
    closed = Closed(event.until, tx.now, event.gateways)
    await Writes(tx).put_closed(event.workspace, event.endpoint, closed)


def _sums(event: WindowPublished) -> Sums:
    try:
        return Sums.of_window(event)
    except ValueError as error:
        raise Invalid(f"a window of {event.endpoint}: {error}", code="undecodable") from error
