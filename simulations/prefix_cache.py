"""Which prefixes of prompts does an engine still have in its KV cache, and which does it give up first?

A prompt comes with the hashes of its leading units: equal leading hashes mean an equal prefix. A unit is as long as
the hashes of the trace say (512 tokens in Mooncake's, one KV block where an engine wrote them). As in vLLM V1
(``vllm/v1/core/kv_cache_manager.py``, ``block_pool.py``, release 0.19) a unit can be found from the step on that
schedules its last token; requests that run share it; when the last of them is gone it stays, idle, until its blocks
are wanted for something else. A request gives its units back from the last to the first, so that the tail of a prefix,
which fewer prompts share, goes before its head; of those that leave with the same step, who was admitted first gives
back first.

Only prompts have hashes. What a request generated is not found again, although engines keep that too.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Literal, TypeAlias

Eviction: TypeAlias = Literal["lru", "lfu"]


class _Unit:
    __slots__ = ("idle_since", "takes", "users")

    def __init__(self) -> None:
        self.users = 1
        self.takes = 1
        self.idle_since = 0


class PrefixCache:
    """The units that one engine has, by hash.

    Args:
        unit_blocks: KV blocks of a unit.
        eviction: Which idle unit goes first: ``lru`` the one idle for longest, ``lfu`` the one taken least often, the
            one idle for longest among those.

    Attributes:
        idle: Units that nobody uses. Their blocks count as free, since they go when blocks are wanted.
    """

    __slots__ = ("_by_takes", "_idle_order", "_turns", "_units", "idle", "unit_blocks")

    def __init__(self, unit_blocks: int, eviction: Eviction) -> None:
        self.unit_blocks = unit_blocks
        self.idle = 0
        self._by_takes = eviction == "lfu"
        self._units: dict[int, _Unit] = {}
        self._idle_order: list[tuple[int, int, int]] = []  # takes (lfu), turn, hash; entries of units in use are stale
        self._turns = 0

    def __len__(self) -> int:
        return len(self._units)

    @property
    def idle_blocks(self) -> int:
        """KV blocks of idle units."""
        return self.idle * self.unit_blocks

    def found(self, hashes: Sequence[int]) -> tuple[int, int]:
        """Return how many leading units are there, and how many of these are idle."""
        there = idle = 0
        for unit_hash in hashes:
            unit = self._units.get(unit_hash)
            if unit is None:
                break
            there += 1
            idle += unit.users == 0
        return there, idle

    def take(self, hashes: Sequence[int]) -> int:
        """Use these units, all of which are there; return how many were idle."""
        before = self.idle
        for unit_hash in hashes:
            unit = self._units[unit_hash]
            self.idle -= unit.users == 0
            unit.users += 1
            unit.takes += 1
        return before - self.idle

    def add(self, unit_hash: int) -> bool:
        """Keep a unit that has just been computed, used by who computed it; False when there is one like it already."""
        if unit_hash in self._units:
            return False
        self._units[unit_hash] = _Unit()
        return True

    def give_back(self, hashes: Sequence[int]) -> int:
        """Use these units no more; return how many are idle now that were not."""
        before = self.idle
        for unit_hash in reversed(hashes):
            unit = self._units[unit_hash]
            unit.users -= 1
            if unit.users == 0:
                self.idle += 1
                self._turns = unit.idle_since = self._turns + 1
                heappush(self._idle_order, (unit.takes if self._by_takes else 0, unit.idle_since, unit_hash))
        if len(self._idle_order) > 64 + 4 * len(self._units):
            self._idle_order = [entry for entry in self._idle_order if self._stands(entry)]
            heapify(self._idle_order)
        return self.idle - before

    def shrink_to(self, blocks: int) -> None:
        """Give up idle units until those that are left fit ``blocks``."""
        while self.idle_blocks > blocks:
            entry = heappop(self._idle_order)
            if self._stands(entry):
                del self._units[entry[2]]
                self.idle -= 1

    def _stands(self, entry: tuple[int, int, int]) -> bool:
        """Return whether the unit is idle and has been since the entry was made."""
        unit = self._units.get(entry[2])
        return unit is not None and unit.users == 0 and unit.idle_since == entry[1]
