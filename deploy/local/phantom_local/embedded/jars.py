"""The jars named by deploy/local/pom.xml, fetched once by Maven into a cache that all checkouts may share.

`python -m phantom_local.embedded.jars` fetches them; it needs the standard library only. The cache is
`$PHANTOM_CACHE_DIR`, else `.cache` of the checkout. In it: `kafka/<digest of the pom>/libs/*.jar`, complete as
soon as the directory exists, and `proto/buf/validate/validate.proto`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phantom_local.embedded.java import find_java

_PROJECT = Path(__file__).resolve().parents[2]
POM = _PROJECT / "pom.xml"
VALIDATE_PROTO = "buf/validate/validate.proto"
FETCH_TIMEOUT_S = 600


class JarsMissingError(RuntimeError):
    """The Kafka jars are not there and could not be fetched."""


def cache_dir() -> Path:
    """Root of the cache: $PHANTOM_CACHE_DIR, else `.cache` of the checkout."""
    configured = os.environ.get("PHANTOM_CACHE_DIR")
    return Path(configured).absolute() if configured else _PROJECT.parents[1] / ".cache"


def ensure_jars(cache: Path | None = None) -> Path:
    """Directory of Kafka's jars, fetched when it is not there yet. Any number of processes may call it at once."""
    cache = cache or cache_dir()
    home = cache / "kafka" / hashlib.sha256(POM.read_bytes()).hexdigest()[:16]
    proto = cache / "proto" / VALIDATE_PROTO
    if (home / "libs").is_dir() and proto.is_file():
        return home / "libs"
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.parent / ".lock"):
        if not ((home / "libs").is_dir() and proto.is_file()):
            _fetch(home, proto)
    return home / "libs"


def _fetch(home: Path, proto: Path) -> None:
    """Fetch beside the target, then rename, so that nobody ever sees half of it."""
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetch-") as stage:
        libs = Path(stage) / "libs"
        _run_maven(libs)
        [validate_jar] = libs.glob("protovalidate-*.jar")
        _extract(validate_jar, VALIDATE_PROTO, proto)
        validate_jar.unlink()  # wanted for the file in it only; Kafka's class path stays Kafka's
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        libs.rename(home / "libs")


def _run_maven(target: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise JarsMissingError(
            "Maven (mvn) is needed once, to fetch Apache Kafka's published jars, and was not found. Install it "
            "(Debian: apt-get install maven; macOS: brew install maven) and run tools/setup.sh again, or point "
            "PHANTOM_KAFKA_BOOTSTRAP and PHANTOM_POSTGRES_DSN at servers of your own."
        )
    argv = [maven, "-q", "-B", "-C", "-f", str(POM), "dependency:copy-dependencies"]
    argv += ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    env = {"JAVA_HOME": str(find_java().resolve().parents[1]), **os.environ}
    run = subprocess.run(  # noqa: S603 - maven on our own pom
        argv, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False, env=env
    )
    if run.returncode != 0 or not target.is_dir():
        tail = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
        raise JarsMissingError(
            f"Maven could not fetch the jars of {POM} (exit code {run.returncode}):\n{tail}"
        )


def _extract(jar: Path, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(jar) as archive:
        content = archive.read(member)
    written = target.with_name(f".{target.name}.{os.getpid()}")
    written.write_bytes(content)
    written.replace(target)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Fetch what is missing and print where it lies."""
    try:
        sys.stdout.write(f"{ensure_jars()}\n")
    except RuntimeError as failed:
        sys.stderr.write(f"{failed}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
