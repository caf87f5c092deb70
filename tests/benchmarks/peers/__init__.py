"""Serving systems of others, each in an environment of its own, on the benchmark's model.

Here belongs what is needed to install them (`environments.py`), to run them (`processes.py`, `peer.py`) and how each
is configured and why (`systems.py` and a folder a system). Nothing here measures: that is the harness.
"""
