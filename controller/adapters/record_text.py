"""How does a record look in its row: as JSON that SQL can ask about, or packed when it would fill the disk.

A tick of a few hundred replicas is some hundred kilobytes; one of ten thousand is twenty megabytes, nine tenths of
which are repetition. What is packed is still text, so that a row is hashed, archived and copied as any other.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Any

import zstandard

PACKED_FROM_CHARS = 512 * 1024
MOST_CHARS = 256 * 1024 * 1024
_MARK = "zstd:"
_LEVEL = 3


def packed(text: str) -> str:
    """Return canonical JSON as it is stored."""
    if len(text) < PACKED_FROM_CHARS:
        return text
    return _MARK + b64encode(zstandard.ZstdCompressor(level=_LEVEL).compress(text.encode("ascii"))).decode("ascii")


def record_in(stored: str) -> dict[str, Any]:
    """Return the record in a row's text.

    Raises:
        ValueError: If there is none, or one larger than any that is written.
    """
    record = json.loads(text_in(stored))
    if not isinstance(record, dict):
        raise ValueError("no record")  # noqa: TRY004 - as for every other text that holds none
    return record


def text_in(stored: str) -> str:
    """Return the canonical JSON in a row's text, unread.

    Raises:
        ValueError: If it is packed and cannot be unpacked.
    """
    return _unpacked(stored).decode("ascii") if stored.startswith(_MARK) else stored


def _unpacked(stored: str) -> bytes:
    try:
        content = b64decode(stored[len(_MARK) :], validate=True)
        if not 0 < zstandard.frame_content_size(content) <= MOST_CHARS:
            raise ValueError("a record of impossible size")
        return zstandard.ZstdDecompressor().decompress(content)
    except (Base64Error, zstandard.ZstdError) as error:
        raise ValueError(f"no packed record: {error}") from None
