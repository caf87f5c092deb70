"""Reading the processes' log files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

from phantom_local.layout import Layout

_LOOK_EVERY_S = 0.2
_LINE_GUESS = 400  # bytes; more are read where lines are longer


def known_logs(layout: Layout) -> dict[str, Path]:
    """Log files by the name of their process; model servers by replica id."""
    files = sorted((layout.data_dir / "logs").glob("*.log")) + sorted(layout.replicas.glob("*.log"))
    return {file.stem: file for file in files}


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, without reading all of it."""
    if count == 0:
        return []
    size, wanted = path.stat().st_size, _LINE_GUESS * count
    with path.open("rb") as file:
        while True:
            start = max(0, size - wanted)
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
            if start == 0:
                return lines[-count:]
            if len(lines) > count:
                return lines[-count:]
            wanted *= 4


def follow_logs(logs: dict[str, Path], out: TextIO) -> None:
    """Write what is added, for ever; lines carry their process's name where there are several logs."""
    positions = {path: path.stat().st_size for path in logs.values()}
    while True:
        for name, path in logs.items():
            positions[path] = _write_added(path, positions[path], f"{name} | " if len(logs) > 1 else "", out)
        out.flush()
        time.sleep(_LOOK_EVERY_S)


def _write_added(path: Path, position: int, prefix: str, out: TextIO) -> int:
    """Whole lines only; returns where to go on."""
    with path.open("rb") as file:
        file.seek(position)
        added = file.read()
    whole = added.rfind(b"\n") + 1
    for line in added[:whole].decode(errors="replace").splitlines():
        out.write(f"{prefix}{line}\n")
    return position + whole
