"""What one scan may use, and how far it follows what is packed into a file."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one scan. Whatever passes a limit of the process ends as `not_assessed`, never as a pass."""

    wall_s: float = 120.0
    cpu_s: int = 90
    memory_bytes: int = 4096 * MIB  # address space of the child
    file_bytes: int = 1024 * MIB  # a larger file is not assessed
    unpacked_bytes: int = 2048 * MIB  # of one file or member, after unpacking
    ratio: int = 300  # unpacked : packed; trained numbers hardly reach 20
    ratio_from_bytes: int = 16 * MIB  # small things may be as repetitive as they like
    members: int = 10_000  # of one archive
    depth: int = 4  # archives in archives, pickles in pickles
    findings: int = 200  # of one report; what comes after is counted only
