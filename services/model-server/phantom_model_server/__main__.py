"""python -m phantom_model_server --launch <data>/replicas/<id>.launch.json, or --container config/serve.json"""

import argparse
import sys
from pathlib import Path

from phantom_model_server.app import main, main_in_container

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "phantom_model_server", description="Serve one model revision as one replica."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--launch", type=Path, help="the launch file that the deployer wrote")
    what.add_argument("--container", type=Path, help="the file that an image carries: serve it by itself")
    given = parser.parse_args()
    sys.exit(main(given.launch) if given.launch else main_in_container(given.container))
