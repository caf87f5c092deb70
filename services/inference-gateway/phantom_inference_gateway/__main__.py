"""`python -m phantom_inference_gateway`: one gateway, or with PHANTOM_GATEWAY_WORKERS a group of several."""

from __future__ import annotations

import argparse
from functools import partial

from phantom_inference_gateway.settings import GatewaySettings
from phantom_platform.lifecycle import Application, run
from phantom_platform.settings import TelemetrySettings
from phantom_platform.telemetry import logs

NAME = "inference-gateway"


def main() -> None:
    """What the environment describes; a group starts its workers with arguments, and nobody else uses those."""
    parser = argparse.ArgumentParser(NAME, description="Settings are the variables PHANTOM_GATEWAY_*.")
    parser.add_argument("--worker", help="this process is one of a group: its name")
    parser.add_argument(
        "--channel", type=int, help="this process is one of a group: the descriptor to talk over"
    )
    told = parser.parse_args()
    if (told.worker is None) != (told.channel is None):
        parser.error("--worker and --channel go together; a group sets both")
    if told.worker is not None:
        logs.bind(worker=told.worker)
    run(partial(build, told.worker, told.channel))


def build(worker: str | None, channel: int | None) -> Application:
    """One of a group, one alone, or a group, whose own process stays small: it imports nothing that serves."""
    logs.configure(NAME, TelemetrySettings().log_level)
    settings = GatewaySettings() if worker is None else GatewaySettings(worker=worker)
    if settings.workers > 1 and channel is None:
        from phantom_inference_gateway import group

        return group.build(settings)
    from phantom_inference_gateway import app

    return app.main(settings, channel)


if __name__ == "__main__":
    main()
