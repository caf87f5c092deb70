"""The platform on one machine: embedded servers, our processes, and the commands that keep them.

Admitted here: what starts, watches, finds and stops processes. What a process does is its service's business; only
`control.py` and `bootstrap.py` import services or talk to them.
"""
