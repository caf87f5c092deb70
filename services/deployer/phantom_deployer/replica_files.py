"""Where the deployer keeps the files by which it and its model servers know each other."""

from __future__ import annotations

from pathlib import Path

from phantom_platform.model_servers import ModelServerFiles


class ReplicaFiles(ModelServerFiles):
    """Files of one replica below the data directory."""

    def __init__(self, data_dir: Path, replica_id: str) -> None:
        super().__init__(data_dir / "replicas", replica_id, data_dir / "logs" / f"replica-{replica_id}.log")
        self.data_dir = data_dir
        self.replica_id = replica_id


def known_replicas(data_dir: Path) -> list[str]:
    """Ids of all replicas that left a lock here, or a launch file: a start may fail before there is a lock."""
    folder, traces = data_dir / "replicas", (".lock", ".launch.json", ".launch.new")
    return sorted({path.name.removesuffix(trace) for trace in traces for path in folder.glob(f"*{trace}")})
