"""The deployer as a process of its own."""

from phantom_deployer.app import build
from phantom_deployer.settings import DeployerSettings
from phantom_platform import lifecycle
from phantom_platform.standalone import standalone

if __name__ == "__main__":
    lifecycle.run(lambda: standalone("deployer", lambda context: build(context, DeployerSettings())))
