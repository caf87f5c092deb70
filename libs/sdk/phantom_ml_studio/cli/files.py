"""Dictionaries from files that people write: YAML, or JSON, which is YAML, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phantom_ml_studio.cli.output import USAGE, fail
from phantom_ml_studio.cli.rows import read_text


def dictionary(path: Path) -> dict[str, Any]:
    """The one in a file, or on standard input where it is `-`; exit code 2 where there is none."""
    import yaml

    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        fail(f"{path} is neither YAML nor JSON: {error}", USAGE)
    if not isinstance(content, dict):
        fail(f"{path} does not hold a dictionary", USAGE)
    return content
