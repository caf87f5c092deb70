"""The use cases, over the ports in `ports.py`."""

from phantom_pipelines.service.executions import Executions
from phantom_pipelines.service.pipelines import Pipelines, Suites
from phantom_pipelines.service.progression import Progression
from phantom_pipelines.service.testing import Testing

__all__ = ["Executions", "Pipelines", "Progression", "Suites", "Testing"]
