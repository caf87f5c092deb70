"""Files that only this user may read, written once and whole: passwords, service keys, the signing key."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from phantom_platform.errors import Refused
from phantom_platform.identity.keys import encode_public_key
from phantom_platform.identity.tokens import SigningKey


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The file's text; where there is no file, what `make` gives, written with mode 0600.

    Of two processes that create it at once one wins, and both get the winner's text. A file that others may
    read is refused.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        _create(path, make())
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise Refused(
            f"{path} may be read by others (mode {mode:o}); run: chmod 600 {path}",
            code="secret_file_exposed",
            path=str(path),
        )
    return path.read_text("utf-8").strip()


def _create(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)  # unlike a rename, refuses to replace
        except FileExistsError:
            return
    finally:
        os.unlink(name)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Keyring:
    """The private key that signs tokens: made at first use, then always the one in the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: SigningKey | None = None

    @property
    def key(self) -> SigningKey:
        if self._key is None:
            self._key = self._load()
        return self._key

    def _load(self) -> SigningKey:
        text = read_or_create(self._path, _new_private_key)
        try:
            private = load_pem_private_key(text.encode(), password=None)
        except ValueError as error:
            raise _unusable(self._path, str(error)) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise _unusable(self._path, "it is not an Ed25519 key")
        public = encode_public_key(private.public_key())
        return SigningKey(hashlib.sha256(public.encode()).hexdigest()[:16], private)


def _new_private_key() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode().strip()


def _unusable(path: Path, why: str) -> Refused:
    return Refused(
        f"the signing key {path} cannot be used: {why}; restore it, or remove it to get a new one (everybody then "
        "has to log in again)",
        code="signing_key_unusable",
        path=str(path),
    )
