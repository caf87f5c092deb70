"""Pure statistics: who is routed where, and how it is counted.

What lives here imports numpy, scipy and xxhash only; it does no I/O and reads no clock.
"""
