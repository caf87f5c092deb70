"""The registry as a process of its own."""

from phantom_platform import lifecycle
from phantom_platform.standalone import standalone
from phantom_registry.app import build
from phantom_registry.settings import RegistrySettings

if __name__ == "__main__":
    lifecycle.run(lambda: standalone("registry", lambda context: build(context, RegistrySettings())))
