"""The pipelines service as a process of its own."""

from phantom_pipelines.app import build
from phantom_pipelines.settings import PipelinesSettings
from phantom_platform import lifecycle
from phantom_platform.standalone import standalone

if __name__ == "__main__":
    lifecycle.run(lambda: standalone("pipelines", lambda context: build(context, PipelinesSettings())))
