"""Which prompts begin alike: the hashes of each prompt's KV blocks, in one pair of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

BLOCK_TOKENS = 512
"""Prompt tokens behind one hash, as in Mooncake's traces; the last block of a prompt may hold fewer."""

Offsets: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]

_MOST = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class BlockHashes:
    """Block hashes of N requests, M in all. Request i has ``hashes[offsets[i]:offsets[i + 1]]``, maybe none.

    A hash stands for its block and all before it: prompts share as many leading blocks as they share leading hashes.

    Attributes:
        offsets: ``int64[N + 1]``, from 0 to M, ascending. Read-only.
        hashes: ``uint64[M]``. Read-only.

    Raises:
        ValueError: If the offsets do not run from 0 to M, or descend.
    """

    offsets: Offsets
    hashes: Hashes

    def __post_init__(self) -> None:
        offsets, hashes = np.asarray(self.offsets, np.int64).view(), np.asarray(self.hashes, np.uint64).view()
        if not (offsets.ndim == hashes.ndim == 1 and len(offsets)):
            raise ValueError("offsets and hashes have one dimension, and there is one offset more than requests")
        if offsets[0] != 0 or offsets[-1] != len(hashes) or (offsets[1:] < offsets[:-1]).any():
            raise ValueError("offsets must ascend from 0 to the number of hashes")
        for name, array in (("offsets", offsets), ("hashes", hashes)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def of(cls, entries: Iterable[Sequence[int]]) -> BlockHashes:
        """Return the hashes given request by request.

        >>> BlockHashes.of([(7, 8), (), (7,)]).offsets.tolist()
        [0, 2, 2, 3]
        """
        rows = [np.array([number & _MOST for number in entry], dtype=np.uint64) for entry in entries]
        ends = np.cumsum([0, *(len(row) for row in rows)])
        return cls(ends, np.concatenate(rows) if rows else np.zeros(0, np.uint64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Yield each request's hashes."""
        hashes, ends = self.hashes.tolist(), self.offsets.tolist()
        return (tuple(hashes[first:last]) for first, last in pairwise(ends))

    def between(self, first: int, last: int) -> BlockHashes:
        """Return those of requests ``first`` (inclusive) to ``last`` (exclusive)."""
        ends = self.offsets[first : max(last, first) + 1]
        return BlockHashes(ends - ends[0], self.hashes[ends[0] : ends[-1]])

    def taken(self, positions: npt.NDArray[np.integer]) -> BlockHashes:
        """Return those of the requests at ``positions``."""
        lengths = np.diff(self.offsets)[positions]
        ends = np.concatenate(([0], np.cumsum(lengths)))
        return BlockHashes(
            ends, self.hashes[np.repeat(self.offsets[positions] - ends[:-1], lengths) + np.arange(ends[-1])]
        )

    def salted(self, salt: int) -> BlockHashes:
        """Return the hashes of prompts as alike among themselves as these, and like none with another salt."""
        return BlockHashes(self.offsets, self.hashes ^ np.uint64(salt & _MOST))


def joined_hashes(parts: Sequence[BlockHashes]) -> BlockHashes:
    """Return the hashes of all ``parts``, one after the other."""
    starts = np.cumsum([0, *(len(part.hashes) for part in parts)])
    ends = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
    return BlockHashes(np.concatenate(([0], *ends)), np.concatenate([part.hashes for part in parts]))


def salt_of(number: int, use: int) -> int:
    """Return 63 random-looking bits for copy ``number``, the same ones every time; 0 for copy 0 (splitmix64)."""
    if not number:
        return 0
    bits = (number * 0x9E3779B97F4A7C15 + use * 0xD1B54A32D192ED03) & _MOST
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = ((bits ^ (bits >> shift)) * factor) & _MOST
    return (bits ^ (bits >> 31)) >> 1
