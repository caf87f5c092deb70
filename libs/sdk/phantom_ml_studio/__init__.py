"""Phantom ML Studio: register, deploy, roll out and watch models from Python.

>>> from phantom_ml_studio import Client, ModelRegistry, Deployments
>>> client = Client()            # after `phantom-ml-studio auth login --username you`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phantom_ml_studio.admin import DeadLetters, Users
    from phantom_ml_studio.canary import CanaryDeployment
    from phantom_ml_studio.client import Client
    from phantom_ml_studio.deployments import Deployments, Environments
    from phantom_ml_studio.errors import PhantomError
    from phantom_ml_studio.inference import InferenceClient, Prediction
    from phantom_ml_studio.monitoring import Monitoring
    from phantom_ml_studio.pipelines import DeploymentPipeline, TestSuites
    from phantom_ml_studio.registry import ModelRegistry
    from phantom_ml_studio.rollouts import Rollouts
    from phantom_ml_studio.routes import Route

# Loaded when first asked for: the command line answers `--help` without gRPC and numpy.
_WHERE = {
    "CanaryDeployment": "canary",
    "Client": "client",
    "DeadLetters": "admin",
    "DeploymentPipeline": "pipelines",
    "Deployments": "deployments",
    "Environments": "deployments",
    "InferenceClient": "inference",
    "ModelRegistry": "registry",
    "Monitoring": "monitoring",
    "PhantomError": "errors",
    "Prediction": "inference",
    "Rollouts": "rollouts",
    "Route": "routes",
    "TestSuites": "pipelines",
    "Users": "admin",
}
__all__ = [
    "CanaryDeployment",
    "Client",
    "DeadLetters",
    "DeploymentPipeline",
    "Deployments",
    "Environments",
    "InferenceClient",
    "ModelRegistry",
    "Monitoring",
    "PhantomError",
    "Prediction",
    "Rollouts",
    "Route",
    "TestSuites",
    "Users",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'phantom_ml_studio' has no attribute {name!r}")
    return getattr(importlib.import_module(f"phantom_ml_studio.{_WHERE[name]}"), name)
