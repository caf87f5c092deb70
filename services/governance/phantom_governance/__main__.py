"""The governance service as a process of its own."""

from phantom_governance.app import build
from phantom_governance.settings import GovernanceSettings
from phantom_platform import lifecycle
from phantom_platform.standalone import standalone

if __name__ == "__main__":
    lifecycle.run(lambda: standalone("governance", lambda context: build(context, GovernanceSettings())))
