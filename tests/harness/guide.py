"""What the pages of the guide share: their model, who works with it, and their programs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.people import Person
from harness.stack import Stack
from phantom_ml_studio import Deployments, ModelRegistry

MODEL = "fraud-detection-v2"


@dataclass(frozen=True)
class Studio:
    """Where the guide's model is, and who works with it."""

    stack: Stack
    admin: Person
    engineer: Person
    reviewer: Person
    folder: Path

    @property
    def registry(self) -> ModelRegistry:
        """The engineer's."""
        return ModelRegistry(self.engineer.client)

    @property
    def deployments(self) -> Deployments:
        """The engineer's."""
        return Deployments(self.engineer.client)


def python_blocks(page: Path) -> list[str]:
    """The programs of a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
