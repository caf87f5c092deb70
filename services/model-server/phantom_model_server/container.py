"""A container's own file (`phantom_contracts.container`) as the launch file of one life."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import ValidationError

from phantom_contracts.container import ContainerFile
from phantom_contracts.launch import LaunchFile
from phantom_platform.errors import Invalid


def read(path: Path) -> ContainerFile:
    """The file. Invalid `container_file_invalid` that says which field is wrong."""
    try:
        return ContainerFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Invalid(
            f"the file {path} cannot be read: {error.strerror}; an image carries it under config/",
            code="container_file_invalid",
        ) from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:5])
        raise Invalid(f"the file {path} is not valid: {wrong}", code="container_file_invalid") from error


def order(file: ContainerFile, scratch: Path) -> LaunchFile:
    """What to launch; `scratch` is a folder of this process, which gets links and what a deployer would keep."""
    artifact = file.artifact_path.resolve()
    if not artifact.is_file():
        raise Invalid(f"the artifact {file.artifact_path} is not in the image", code="container_file_invalid")
    sha256 = file.artifact.digest.removeprefix("sha256:")
    place = scratch / "artifacts" / "sha256" / sha256[:2] / sha256
    place.parent.mkdir(parents=True)
    place.symlink_to(artifact)
    return LaunchFile(
        replica_id="container",
        launch_id=secrets.token_hex(8),
        deployment_id=file.model_id,
        revision=f"{file.model_id}.1",
        model_id=file.model_id,
        model_version=file.model_version,
        artifact=file.artifact,
        model_schema=file.model_schema,
        artifacts_dir=scratch / "artifacts",
        download_dir=scratch / "downloads",
        host=file.host,
        port=file.grpc_port,
        http_port=file.http_port,
        rest=True,
        lock_path=scratch / "container.lock",
        replica_path=scratch / "container.json",
        drain_key=secrets.token_hex(16),  # nobody has it: the container is stopped by a signal
        drain_timeout_s=file.drain_timeout_s,
        runtime=file.runtime,
        allow_pickle=file.allow_pickle,
        threads=file.threads,
    )
