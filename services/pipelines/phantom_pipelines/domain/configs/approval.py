"""`approval`: somebody has to agree. Its approvers and its time-out are keys that every type has."""

from __future__ import annotations

from dataclasses import dataclass

from phantom_pipelines.domain.reading import Reader


@dataclass(frozen=True)
class ApprovalConfig:
    """`message` tells the approvers what they decide about."""

    message: str = ""

    @classmethod
    def read(cls, reader: Reader) -> ApprovalConfig:
        return cls(reader.text("message", longest=1000))
