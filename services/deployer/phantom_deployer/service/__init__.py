"""The use cases. Each reads: open a transaction, load, ask the domain, save and announce."""

from phantom_deployer.service.convergence import Advance, Convergence, Task
from phantom_deployer.service.deployments import Deployments
from phantom_deployer.service.evidence import Evidences
from phantom_deployer.service.piloting import Piloting
from phantom_deployer.service.queries import Queries
from phantom_deployer.service.replaying import Replaying
from phantom_deployer.service.rollouts import Rollouts

__all__ = [
    "Advance",
    "Convergence",
    "Deployments",
    "Evidences",
    "Piloting",
    "Queries",
    "Replaying",
    "Rollouts",
    "Task",
]
