"""The real gateway with a prediction log that keeps nothing: what the log costs is the difference.

No setting turns the log off, since no gateway should run without; so this replaces the class before the process is
built.
"""

from __future__ import annotations

from typing import Any

from phantom_inference_gateway import app
from phantom_inference_gateway.prediction_log import PredictionLog


class SilentLog(PredictionLog):
    """Everything but the records."""

    def record(self, entry: Any) -> None:
        """Forget it."""


if __name__ == "__main__":
    from phantom_inference_gateway.__main__ import main

    app.PredictionLog = SilentLog
    main()
