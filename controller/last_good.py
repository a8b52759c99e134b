"""Which champion forecast last, and which were rolled back here? Kept beside the copies of models, on disk.

For when the registry is away at the start, or may not be written: what is known here holds until it knows as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from controller.small_notes import read_note, write_note

MOST_BANNED = 64


@dataclass(frozen=True, slots=True)
class LastGood:
    """The model that was loaded last.

    Attributes:
        version: Its version.
        promotion: ``controller.crown.promotion_of`` it.
        folder: Name of the folder of the local copy.
        digest: Of its manifest.
    """

    version: str
    promotion: str
    folder: str
    digest: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What is written down: ``last`` is None without a champion, ``banned`` holds versions and their promotions."""

    last: LastGood | None
    banned: Mapping[str, str]


def remember(cache: Path, name: str, kept: Kept) -> None:
    """Write ``kept`` down, whole or not at all; of what was banned the newest.

    Raises:
        OSError: If it cannot be written.
    """
    banned = dict([*kept.banned.items()][-MOST_BANNED:])
    write_note(_place(cache, name), {"last": None if kept.last is None else asdict(kept.last), "banned": banned})


def recall(cache: Path, name: str) -> Kept:
    """Return what was written down; nothing where that is nothing, or nothing that can be read.

    The folder is one of ``cache``, whatever the file says.
    """
    found = read_note(_place(cache, name))
    try:
        banned = {str(version): str(promotion) for version, promotion in found["banned"].items()}
        said = found["last"]
        last = None if said is None else LastGood(**{key: str(said[key]) for key in LastGood.__slots__})
    except (TypeError, KeyError, AttributeError):
        return Kept(None, {})
    return Kept(last if last is not None and Path(last.folder).name == last.folder else None, banned)


def _place(cache: Path, name: str) -> Path:
    return cache / f"{name}.last-good.json"
