"""A scan in a child process: little memory, little time, nothing of the caller's environment.

The file is hostile until shown otherwise, and so are the foreign parsers that read it (protobuf, zlib, lzma). When the
child crashes, runs out or answers nonsense, the report says `not_assessed`, which blocks like a fail.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from phantom_contracts.schema import ModelSchema
from phantom_runtimes.formats import FRAMEWORKS
from phantom_scanner.children import end, read
from phantom_scanner.limits import Limits
from phantom_scanner.report import Report, unassessed

_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from phantom_scanner.sandbox import child; child()"
_MAX_REPORT = 16 * 1024 * 1024


def scan(
    path: Path,
    *,
    framework: str = "",
    schema: ModelSchema | None = None,
    limits: Limits | None = None,
    is_stopped: Callable[[], bool] = bool,
) -> Report:
    """The report of the file, whatever it does to its reader. FileNotFoundError where there is no file.

    `framework` ("" for any) narrows what a pickle may name; ValueError for one that has no runtime. `schema` lets the
    structure be held against the model's declared features. Once `is_stopped` says so, from any thread, the scan ends
    within half a second, and nothing is assessed.
    """
    limits = limits or Limits()
    if framework and framework not in FRAMEWORKS:
        raise ValueError(f"there is no framework {framework!r:.60}; there are {', '.join(FRAMEWORKS)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    order = {
        "path": str(path.resolve()),
        "framework": framework,
        "schema": schema.model_dump_json() if schema else None,
        "limits": asdict(limits),
    }
    with tempfile.TemporaryDirectory(prefix="phantom-scan-") as folder:
        return _run(path.name, json.dumps(order), limits, folder, is_stopped)


def _run(name: str, order: str, limits: Limits, folder: str, is_stopped: Callable[[], bool]) -> Report:
    search = json.dumps([entry for entry in sys.path if entry and Path(entry).is_absolute()])
    with tempfile.TemporaryFile() as question:
        question.write(order.encode())
        question.seek(0)
        process = subprocess.Popen(  # noqa: S603  # this interpreter and our own module
            [sys.executable, "-I", "-c", _CHILD, search],
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": folder},
            cwd=folder,
            start_new_session=True,
        )
    try:
        out, err, why = read(process, limits.wall_s, _MAX_REPORT, is_stopped)
    finally:
        end(process)
    if why:
        return unassessed(name, why)
    if process.returncode != 0:
        return unassessed(name, f"the scan {_ended(process.returncode)}: {_last_line(err)}")
    try:
        return Report.from_dict(json.loads(out))
    except (ValueError, TypeError, KeyError) as error:
        return unassessed(name, f"the scan answered no report ({type(error).__name__})")


def _ended(code: int) -> str:
    if code == -signal.SIGXCPU or code == -signal.SIGKILL:
        return "was stopped for using too much time or memory"
    return f"crashed with signal {-code}" if code < 0 else f"ended with {code}"


def _last_line(err: bytes) -> str:
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def child() -> None:
    """What runs in the child process: an order on stdin, a report on stdout."""
    order = json.loads(sys.stdin.buffer.read())
    limits = Limits(**order["limits"])
    _restrict(limits)
    from phantom_scanner.inspection import inspect

    schema = ModelSchema.model_validate_json(order["schema"]) if order["schema"] else None
    report = inspect(Path(order["path"]), order["framework"], schema, limits)
    sys.stdout.write(json.dumps(report.to_dict()))


def _restrict(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.unpacked_bytes, limits.unpacked_bytes))
