"""What every check of a stage finds: its verdict, its figures as plain values, and its lines in the log."""

from __future__ import annotations

import math
from typing import Any

from phantom_pipelines.domain.values import Json
from phantom_pipelines.runners.runner import StageContext

PASS, FAIL, NOT_ASSESSED = "pass", "fail", "not_assessed"


def finite(value: Any) -> Any:
    """JSON has no infinity: None instead."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def tell(stage: StageContext, name: str, found: Json) -> None:
    """One line for the verdict and one for each warning, however often the stage is begun."""
    level = {FAIL: "error", NOT_ASSESSED: "warning"}.get(found["verdict"], "info")
    await stage.log(f"{name}: {found['verdict']}: {found['reason']}", level, once=name)
    for words in found.get("warnings", ()):
        await stage.log(f"{name}: {words}", "warning", once=f"{name} {words}"[:200])
