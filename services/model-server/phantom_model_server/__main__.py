"""python -m phantom_model_server --launch <data>/replicas/<id>.launch.json"""

import argparse
import sys
from pathlib import Path

from phantom_model_server.app import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "phantom_model_server", description="Serve one model revision as one replica."
    )
    parser.add_argument("--launch", type=Path, required=True, help="the launch file that the deployer wrote")
    sys.exit(main(parser.parse_args().launch))
