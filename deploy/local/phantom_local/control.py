"""The control process: governance, registry, deployer, monitor and pipelines on one gRPC server.

Each of them is the same application that can also run alone: see `phantom_platform.standalone`.
"""

from __future__ import annotations

import phantom_deployer.app
import phantom_deployer.settings
import phantom_governance.app
import phantom_governance.settings
import phantom_monitor.app
import phantom_monitor.settings
import phantom_pipelines.app
import phantom_pipelines.settings
import phantom_registry.app
import phantom_registry.settings
from phantom_local.bootstrap import ProductionEnvironment
from phantom_platform import lifecycle
from phantom_platform.clock import SystemClock
from phantom_platform.lifecycle import Application
from phantom_platform.rpc.client import TokenSource
from phantom_platform.settings import DataSettings, GrpcSettings
from phantom_platform.standalone import standalone


def build() -> Application:
    """Governance first: the others' own tokens come from it."""
    app = standalone(
        "control",
        lambda context: phantom_governance.app.build(
            context, phantom_governance.settings.GovernanceSettings()
        ),
        lambda context: phantom_registry.app.build(context, phantom_registry.settings.RegistrySettings()),
        lambda context: phantom_deployer.app.build(context, phantom_deployer.settings.DeployerSettings()),
        lambda context: phantom_monitor.app.build(context, phantom_monitor.settings.MonitorSettings()),
        lambda context: phantom_pipelines.app.build(context, phantom_pipelines.settings.PipelinesSettings()),
    )
    address, secrets = GrpcSettings().address, DataSettings().data_dir / "secrets"
    tokens = TokenSource(address, "local", secrets / "local.key", SystemClock())
    app.add(ProductionEnvironment(address, tokens))
    return app


if __name__ == "__main__":
    lifecycle.run(build)
