"""Write buf/validate/validate.proto's descriptors, out of the protovalidate wheel, where Maven cannot bring the file.

    python tools/validate_descriptors.py FILE    # a FileDescriptorSet, for protoc --descriptor_set_in

The wheel carries no .proto, but the descriptors it validates with. Used only on machines without Maven, with Kafka and
Postgres servers of one's own; `buf lint` needs the file itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from protovalidate._gen.buf.validate import validate_pb


def descriptors() -> FileDescriptorSet:
    """validate.proto after everything that it imports."""
    found: dict[str, Any] = {}

    def add(file: Any) -> None:
        for dependency in file.dependencies:
            add(dependency)
        found.setdefault(file.name, file)

    add(validate_pb._DESC)
    whole = FileDescriptorSet()
    for file in found.values():
        whole.file.add().MergeFromString(file.proto.to_binary())
    return whole


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(descriptors().SerializeToString())
