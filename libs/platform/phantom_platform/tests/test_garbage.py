import gc
import subprocess
import sys

from phantom_platform import garbage


def test_what_is_there_is_frozen_and_the_young_are_looked_at_less_often():
    code = (
        "import gc; from phantom_platform import garbage; garbage.settle(); "
        "print(gc.get_freeze_count() > 1000, gc.get_threshold()[0], gc.isenabled())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.split() == ["True", str(garbage.YOUNG), "True"]
    assert gc.get_threshold()[0] != garbage.YOUNG  # nothing of it in this process
