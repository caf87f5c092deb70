"""`up` with stand-ins for our own processes, as a script.

python run_up.py <data dir> [--gateways N] [--timeout S] [--unready REASON]
"""

import argparse
import os
import sys
from pathlib import Path

from phantom_local.embedded.process import Launch
from phantom_local.keeper import Child
from phantom_local.layout import Layout
from phantom_local.stack import StackSettings, readiness
from phantom_local.supervisor import AlreadyRunning, Progress, Services, Supervisor

FAKE = Path(__file__).with_name("fake_service.py")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--unready")
    args = parser.parse_args()

    def fake(layout: Layout, name: str, reasons: list[str]) -> Child:
        def launch(ports: dict[str, int]) -> Launch:
            argv = [sys.executable, str(FAKE), str(ports["metrics"]), *reasons]
            return Launch(argv, layout.log(name), dict(os.environ))

        # port 0: any free one, so that tests never meet
        usual = {"grpc": 0, "http": 0, "metrics": 0}
        return Child(name, launch, lambda _, ports: readiness(ports["metrics"]), usual)

    services = Services(
        control=lambda layout, settings, kafka, dsn: fake(
            layout, "control", [args.unready] if args.unready else []
        ),
        gateway=lambda layout, settings, number, kafka: fake(layout, f"gateway-{number}", []),
    )
    settings = StackSettings(gateways=args.gateways)
    try:
        return Supervisor(Layout(args.data_dir), settings, Progress(), services).run(args.timeout)
    except AlreadyRunning as refused:
        sys.stderr.write(f"{refused}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
