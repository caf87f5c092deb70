"""A build context: the same bytes for the same version, base image and code, wherever and whenever it is written."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from phantom_contracts.container import ContainerFile
from phantom_contracts.launch import Artifact
from phantom_contracts.schema import ModelSchema
from phantom_pipelines.containers import sources
from phantom_pipelines.containers.dockerfile import Wanted, dockerfile
from phantom_pipelines.containers.requirements import requirements
from phantom_pipelines.domain.values import ModelVersion
from phantom_platform.errors import Refused
from phantom_runtimes.errors import Invalid as InvalidArtifact
from phantom_runtimes.formats import check_framework, sniff

HASH_LENGTH = 12
_ENDINGS = {"xgboost-json": "json", "xgboost-ubj": "ubj", "onnx": "onnx", "skops": "skops"}
_WHEELS_NOTE = """\
The packages of requirements.txt, where they were fetched before the build: then it needs no index (PIP_NO_INDEX=1).
They are no part of the context's digest, since requirements.txt names the hash of each.
"""


@dataclass(frozen=True)
class Context:
    """A written context. `digest` is `sha256:<64 hex>` of the tar file at `path`."""

    digest: str
    path: Path
    size_bytes: int

    def requirements(self) -> str:
        """The context's requirements.txt."""
        with tarfile.open(self.path) as archive:
            content = archive.extractfile("requirements.txt")
            assert content is not None  # we wrote it
            return content.read().decode()

    @property
    def short_hash(self) -> str:
        return self.digest.removeprefix("sha256:")[:HASH_LENGTH]


def write(model: ModelVersion, artifact: Path, base_image: str, lock: Path, folder: Path) -> Context:
    """The context of a version as a tar file in `folder`, named by its digest.

    Refused `no_schema`, `pickle_in_image`, or the code that the artifact's own format is refused with.
    """
    needed = requirements(lock, model.framework)
    file_name = _file_name(model, artifact)
    files = {
        "Dockerfile": dockerfile(Wanted(base_image, model.model_id, model.version)).encode(),
        "requirements.txt": needed.encode(),
        "wheels/README": _WHEELS_NOTE.encode(),
        "config/serve.json": _serve_file(model, file_name).model_dump_json(indent=2).encode() + b"\n",
        **{f"src/{path}": content for path, content in sources.files()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".context-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as target:
            _write_tar(target, files, f"models/{file_name}", artifact)
        digest, size = _digest(Path(name))
        path = folder / f"{digest}.tar"
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Context(f"sha256:{digest}", path, size)


def tag(strategy: str, version: str, short_hash: str) -> str:
    """`2.1.1-<12 hex of the context's digest>`, or one half of it. `+` may be in a version, but not in a tag."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", version)
    tags = {"version+hash": f"{plain}-{short_hash}", "version": plain, "hash": short_hash}
    if strategy not in tags:
        raise ValueError(f"there is no tag strategy {strategy!r}; there are {', '.join(tags)}")
    return tags[strategy]


def _file_name(model: ModelVersion, artifact: Path) -> str:
    try:
        found = sniff(artifact)
        check_framework(found, model.framework)
    except InvalidArtifact as error:
        raise Refused(error.message, code=error.code) from error
    if found == "pickle":
        raise Refused(
            "the artifact is a pickle, which executes code as it loads; an image carries none: save the model with "
            "skops or convert it to ONNX",
            code="pickle_in_image",
        )
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{model.model_id}-{model.version}")
    return f"{plain}.{_ENDINGS[found]}"


def _serve_file(model: ModelVersion, file_name: str) -> ContainerFile:
    if not model.schema_json:
        raise Refused(
            f"{model.model_id} {model.version} has no schema, and a server needs one; register the version with it",
            code="no_schema",
        )
    return ContainerFile(
        model_id=model.model_id,
        model_version=model.version,
        artifact=Artifact(
            digest=model.digest, file_name=file_name, framework=model.framework, size_bytes=model.size_bytes
        ),
        artifact_path=Path("models") / file_name,
        model_schema=ModelSchema.model_validate_json(model.schema_json),
    )


def _write_tar(
    target: io.BufferedWriter, files: dict[str, bytes], artifact_name: str, artifact: Path
) -> None:
    """Sorted names, no owner, no time, one mode: nothing of the machine that writes it."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted([*files, artifact_name]):
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            if name == artifact_name:
                info.size = artifact.stat().st_size
                with artifact.open("rb") as content:
                    archive.addfile(info, content)
            else:
                info.size = len(files[name])
                archive.addfile(info, io.BytesIO(files[name]))


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
