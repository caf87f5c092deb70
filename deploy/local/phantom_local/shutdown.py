"""Stop everything that runs from a data directory, by its files alone: works with and without a supervisor."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from phantom_local.children import Record, end, find, holders, is_locked, live_process, wait_unlocked
from phantom_local.keeper import locked_children
from phantom_local.layout import Layout

Say = Callable[[str], None]

# Doors first, so that no call is cut; the control process next, so that it does not restart replicas;
# what everybody depends on last.
_LAST = ("postgres", "kafka")
_STOP_S = {"gateway": 45.0, "control": 60.0, "replica": 45.0, "kafka": 20.0, "postgres": 20.0}
_DESCENDANTS_S = 3.0


def stop_everything(layout: Layout, say: Say) -> bool:
    """Gateways, control process, model servers, Postgres, Kafka. True when nothing is left."""
    names = [name for name in locked_children(layout.run) if name not in _LAST]
    for name in sorted(names, key=lambda name: (not name.startswith("gateway"), name)):
        stop_child(layout, name, say)
    stop_replicas(layout, say)
    stop_scratch(layout, say)
    for name in _LAST:
        stop_child(layout, name, say)
    for record in layout.run.glob("*.json"):  # of what had ended before; stack.json too
        if not is_locked(record.with_suffix(".lock")):
            record.unlink(missing_ok=True)
    return not locked_children(layout.run) and not living_replicas(layout)


def stop_child(layout: Layout, name: str, say: Say) -> None:
    """Stop one of `up`'s own children, if it lives, and forget its record."""
    record_path, lock = layout.run / f"{name}.json", layout.run / f"{name}.lock"
    living = find(record_path, lock)
    if living:
        record = Record.read(record_path)
        patience = _STOP_S.get(name.split("-")[0], 30.0)
        gracefully = end(living, record.stop_signal if record else signal.SIGTERM, patience)
        _end_descendants(lock)
        say(f"{name} stopped" if gracefully else f"{name} killed: it had not stopped within {patience:g} s")
    record_path.unlink(missing_ok=True)


def _end_descendants(lock: Path) -> None:
    """The lock is the last to go: with the last thread, and with processes that the child itself had started."""
    if not wait_unlocked(lock, _DESCENDANTS_S):
        end(holders(lock), signal.SIGTERM, _DESCENDANTS_S)
        wait_unlocked(lock, _DESCENDANTS_S)


def stop_replicas(layout: Layout, say: Say) -> None:
    """Let all model servers drain at once."""
    living = living_replicas(layout)
    if not living:
        return
    gracefully = end(living.values(), signal.SIGTERM, _STOP_S["replica"])
    for name in living:
        wait_unlocked(layout.replicas / f"{name}.lock", _DESCENDANTS_S)
    say(f"{len(living)} model server(s) {'stopped' if gracefully else 'stopped, some of them killed'}")


def stop_scratch(layout: Layout, say: Say) -> None:
    """End what pipelines measured when their process was killed."""
    if not layout.scratch.is_dir():
        return
    # Here: `up` holds this module for as long as it lives, and this would add 20 MB to it.
    from phantom_probing.scratch import end_leftovers

    if ended := end_leftovers(layout.scratch):
        say(f"{ended} model server(s) of pipelines killed")


def living_replicas(layout: Layout) -> dict[str, psutil.Process]:
    """Model servers by replica id: a held lock, and the process that it, or the replica file, names."""
    found: dict[str, psutil.Process] = {}
    for lock in sorted(layout.replicas.glob("*.lock")):
        if is_locked(lock):
            process = _holder(lock)
            if process is not None:
                found[lock.stem] = process
    return found


def _holder(lock: Path) -> psutil.Process | None:
    # Empty between the lock and the writing of the pid, and once the holder has let go of it.
    with suppress(OSError, ValueError, IndexError):
        process = live_process(int(lock.read_text().split()[0]))
        if process is not None:
            return process
    others = find(lock.with_suffix(".none"), lock)
    return others[0] if others else None
