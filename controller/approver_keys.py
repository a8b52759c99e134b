"""Whose signature is it: Ed25519 keys of approvers as text and as files.

The daemon knows public keys alone, so that nobody who takes it over can approve anything.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from controller.errors import BadInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_PREFIX = "ed25519:"
KEY_BYTES = 32
SIGNATURE_BYTES = 64
MOST_KEY_FILE_BYTES = 4096
_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def public_key_in(text: str) -> bytes:
    """Return the 32 bytes of a public key written as ``ed25519:`` and base64.

    Raises:
        ValueError: If that is not what the text is, or if signatures for it could be made up.
    """
    encoded = text.strip()
    try:
        key = base64.b64decode(encoded.removeprefix(KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not encoded.startswith(KEY_PREFIX) or len(key) != KEY_BYTES:
        raise ValueError(f"not a public key: {KEY_PREFIX} and 44 characters of base64 are expected")
    if _of_small_order(key):
        raise ValueError("not a public key that anybody made: with this one everybody could sign")
    return key


def public_key_text(key: bytes) -> str:
    """Return a public key as it stands in settings."""
    return KEY_PREFIX + base64.b64encode(key).decode("ascii")


def approver_keys(approvers: Mapping[str, str]) -> Mapping[str, bytes]:
    """Return the public key of each approver, from the settings or from the file that they name.

    Raises:
        BadInput: If a file cannot be read, holds no public key or may be written by others.
    """
    keys = {
        name: public_key_in(said) if said.startswith(KEY_PREFIX) else _public_key_file(name, Path(said))
        for name, said in approvers.items()
    }
    twice = [name for name, key in keys.items() if list(keys.values()).count(key) > 1]
    if twice:
        remedy = "give each approver a key of their own: the record names who approved"
        raise BadInput(f"{' and '.join(twice)} have the same public key", "approvals.approvers", remedy)
    return keys


def signed_by(key: bytes, payload: bytes, signature: bytes) -> bool:
    """Whether ``signature`` of ``payload`` was made with the private half of ``key``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, payload)
    except InvalidSignature:
        return False
    return True


class PrivateKey:
    """The private half of an approver's key; it stays in a file of theirs alone.

    Attributes:
        public: The public half, 32 bytes.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def sign(self, payload: bytes) -> bytes:
        """Return the signature of ``payload``, 64 bytes."""
        return self._key.sign(payload)


def make_key_file(file: Path) -> PrivateKey:
    """Write a new private key to ``file``, for its owner's eyes alone, and return it.

    Raises:
        BadInput: If something is there already, or it cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(text)
    except FileExistsError:
        raise BadInput("there is a file already", str(file), "name another one: a key is never overwritten") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"the key cannot be written: {reason}", str(file), "name a file in a folder of yours") from None
    return PrivateKey(key)


def read_key_file(file: Path) -> PrivateKey:
    """Return the private key in ``file``.

    Raises:
        BadInput: If it cannot be read, is no Ed25519 key, or others than its owner may read it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text, mode = _read(file, "the private key")
    if mode & _OTHERS:
        raise BadInput("others than its owner may read this private key", str(file), f"chmod 600 {file}")
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(
            "not a private key of ours", str(file), "make one with `foresail approvals keygen NAME --out FILE`"
        )
    return PrivateKey(key)


def _of_small_order(key: bytes) -> bool:
    """Whether a point is one of the eight whose multiples are the eight: RFC 8032 lets signatures for those pass.

    Those of order 1, 2 and 4 have y = 1, -1 and 0. One of order 8 doubles to y = 0, so that y^2 = -x^2, which makes
    the curve -x^2 + y^2 = 1 + d x^2 y^2 into d y^4 + 2 y^2 = 1.
    """
    y = int.from_bytes(key, "little") % 2**255 % _PRIME
    return y in (0, 1, _PRIME - 1) or (_D * y**4 + 2 * y**2 - 1) % _PRIME == 0


def _public_key_file(name: str, file: Path) -> bytes:
    text, mode = _read(file, f"the public key of {name}")
    if mode & _OTHERS_WRITE:
        raise BadInput(f"others may write the public key of {name}", str(file), f"chmod go-w {file}")
    try:
        return public_key_in(text.decode("ascii"))
    except ValueError:
        remedy = f"put the line into it that `foresail approvals keygen {name}` printed"
        raise BadInput(f"the file holds no public key of {name}", str(file), remedy) from None


def _read(file: Path, what: str) -> tuple[bytes, int]:
    """Return a key file's content, bounded, and its permissions."""
    try:
        # Without waiting: a named pipe would keep whoever opens it.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BadInput(f"{what} is no file", str(file), "name the file that holds it")
            return opened.read(MOST_KEY_FILE_BYTES), found.st_mode
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"{what} cannot be read: {reason}", str(file), "check the path and who may read it") from None
