"""What the pages of the guide share: their model, who works with it, and their programs."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from harness import models
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


def cases_file(path: Path, seed: int) -> Path:
    """Rows with what became of them, in CSV; none so near the border that a small model may take it for either."""
    features, labels = models.data(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*models.FEATURES, "was_high"])
        for row, label in zip(features.tolist(), labels.tolist(), strict=True):
            if abs(row[0] - 0.5) > 0.05:
                writer.writerow([*row, "true" if label else "false"])
    return path


def python_blocks(page: Path) -> list[str]:
    """The programs of a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
