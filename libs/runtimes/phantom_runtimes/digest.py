"""The check that an artifact's bytes are those that were registered."""

import hashlib
import hmac
import re
from pathlib import Path

from phantom_runtimes.errors import Invalid


def sha256_of(path: Path) -> str:
    """The file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_digest(path: Path, sha256: str) -> None:
    """Raise Invalid `digest_mismatch` unless the file's sha256 is the one given (hex, any case)."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise Invalid("digest_mismatch", f"{sha256!r:.80} is not a sha256 in hex")
    found = sha256_of(path)
    if not hmac.compare_digest(found, sha256.lower()):
        raise Invalid(
            "digest_mismatch",
            f"the artifact's sha256 is {found}, but {sha256.lower()} was registered; it is not loaded",
            expected=sha256.lower(),
            found=found,
        )
