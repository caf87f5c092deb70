"""Try the peers: start each, load it for some seconds, print rate, latency and CPU.

python tests/benchmarks/peers/__main__.py                   # all
python tests/benchmarks/peers/__main__.py mlserver kserve   # these
python tests/benchmarks/peers/__main__.py --seconds 5 --in-flight 128 --rows 32 litserve
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.measure import Shape, measure
from harness.system import CannotMeasure
from peers.systems import all_peers


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--rows", type=int, choices=(1, 32), default=1)
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        known = {each.name: each for each in all_peers(Path(name))}
        unknown = set(options.names) - known.keys()
        if unknown:
            parser.error(f"no peer {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        shape = Shape(in_flight=options.in_flight, rows=options.rows, seconds=options.seconds)
        for system in (known[each] for each in options.names or known):
            try:
                system.start()
                figures = measure(system, shape, Path(name)).flat()
                print(
                    f"{system.name:18}", *(f"{what} {value:.2f}" for what, value in figures.items()), sep="  "
                )
            except CannotMeasure as reason:
                failed += 1
                print(f"{system.name:18}  cannot be measured: {reason}")
            finally:
                system.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
