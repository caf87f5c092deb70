"""`python -m phantom_inference_gateway`."""

from phantom_inference_gateway.app import main
from phantom_platform.lifecycle import run

run(main)
