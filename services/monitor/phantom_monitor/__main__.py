"""The monitor as a process of its own."""

from phantom_monitor.app import build
from phantom_monitor.settings import MonitorSettings
from phantom_platform import lifecycle
from phantom_platform.standalone import standalone

if __name__ == "__main__":
    lifecycle.run(lambda: standalone("monitor", lambda context: build(context, MonitorSettings())))
