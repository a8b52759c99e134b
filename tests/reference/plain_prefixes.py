"""Which units of prompts does one engine have, and who uses them: a dict, looked through from end to end each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(eq=False)
class Unit:
    """One unit: how many use it, how often it was taken, and the how manieth to become idle it was."""

    users: int = 1
    takes: int = 1
    idle_turn: int = 0


class PlainPrefixes:
    """The rules of ``simulations.prefix_cache`` without any order kept: the next to go is looked for when one goes."""

    def __init__(self, eviction: Literal["lru", "lfu"]) -> None:
        self.eviction = eviction
        self.units: dict[int, Unit] = {}
        self._turns = 0

    @property
    def used(self) -> list[int]:
        """The hashes of units in use."""
        return [unit_hash for unit_hash, unit in self.units.items() if unit.users]

    @property
    def idle(self) -> list[int]:
        """The hashes of units that nobody uses."""
        return [unit_hash for unit_hash, unit in self.units.items() if not unit.users]

    def leading(self, hashes: Sequence[int]) -> list[int]:
        """Return the leading hashes of which the units are there."""
        found = []
        for unit_hash in hashes:
            if unit_hash not in self.units:
                break
            found.append(unit_hash)
        return found

    def take(self, hashes: Sequence[int]) -> None:
        for unit_hash in hashes:
            self.units[unit_hash].users += 1
            self.units[unit_hash].takes += 1

    def add(self, unit_hash: int) -> None:
        """Have one more unit, used by who computed it."""
        self.units[unit_hash] = Unit()

    def give_back(self, hashes: Sequence[int]) -> None:
        """Use these no more, from the last to the first."""
        for unit_hash in reversed(hashes):
            unit = self.units[unit_hash]
            unit.users -= 1
            if not unit.users:
                self._turns += 1
                unit.idle_turn = self._turns

    def shrink_to(self, units: int) -> None:
        """Give up idle units until ``units`` are left, those taken least often (lfu) or longest idle first."""
        while len(self.idle) > units:
            del self.units[min(self.idle, key=self._goes_at)]

    def _goes_at(self, unit_hash: int) -> tuple[int, int]:
        unit = self.units[unit_hash]
        return (unit.takes if self.eviction == "lfu" else 0, unit.idle_turn)
