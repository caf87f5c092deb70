"""The use cases. Each reads: open a transaction, load, ask the domain, save and announce."""

from phantom_deployer.service.convergence import Advance, Convergence, Task
from phantom_deployer.service.deployments import Deployments
from phantom_deployer.service.queries import Queries

__all__ = ["Advance", "Convergence", "Deployments", "Queries", "Task"]
