"""Which part of the workloads does this process have, and which part of what the whole fleet may spend?

A workload is a model with all its pools and its route. Rendezvous hashing gives it to a shard: every shard draws a
number from the model's name, and the largest has it. With one more shard only those models move that draw their largest
there, one in ``of``; nobody has to be told of the others, and one name leads to the same shard everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from policies.disagreement import Disagreement
from policies.fleet import PoolKey

MOST_SHARDS = 32
PLACEHOLDER = "{shard}"
"""What stands for the number of the shard in names of files and databases."""

CENTS = 100
"""In a US dollar: budgets of money are divided in whole ones."""

_SCHEME = "1"
"""Of the hash: another one would be another division."""


def home_of(model: str, of: int) -> int:
    """Return which of so many shards has a model.

    >>> [home_of("llama-3.1-70b", of) for of in (1, 2, 3, 4)]
    [0, 0, 2, 2]
    """
    return max(range(of), key=lambda shard: sha256(f"{shard}\n{model}".encode()).digest())


def lease_name(name: str, index: int, of: int) -> str:
    """Return what the lease of one shard is called, after that of the fleet.

    >>> lease_name("foresail", 1, 3)
    'foresail-1-of-3'
    """
    return f"{name}-{index}-of-{of}"


@dataclass(frozen=True, slots=True)
class Spent:
    """What replicas that were asked for come to."""

    gpus: int = 0
    usd_per_hour: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.gpus + other.gpus, self.usd_per_hour + other.usd_per_hour)


@dataclass(frozen=True, slots=True)
class Rest:
    """What the settings of the whole fleet say beside the part of one shard.

    Attributes:
        pools: Those of other shards.
        gpus, cents: Budgets of the whole fleet; None where there is none. The latter are US cents per hour.
    """

    pools: tuple[PoolKey, ...] = ()
    gpus: int | None = None
    cents: int | None = None


class ShardSettings(BaseModel):
    """One part of several, each with a process, and a standby, of its own. All but ``index`` is the same for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(0, ge=0, lt=MOST_SHARDS, description="Number of this shard, from 0; the one thing that differs.")
    of: int = Field(
        1,
        ge=1,
        le=MOST_SHARDS,
        description="Shards in all; with 1 one process has the whole fleet. More need platform.lease: it is what keeps "
        "a change of this number from giving a workload two writers.",
    )
    pins: Mapping[str, int] = Field(
        default_factory=dict, max_length=1000, description="Shard of single models, where it is not to follow by hash."
    )
    shares: tuple[int, ...] = Field(
        (),
        description="How budgets of the whole fleet (GPUs, money, repairs at a time, canaries) are divided, a whole "
        "number for each shard, such as [2, 1, 1]; evenly if empty.",
    )
    _rest: Rest = PrivateAttr(Rest())

    @model_validator(mode="after")
    def _within(self) -> ShardSettings:
        if self.index >= self.of:
            raise Disagreement(
                ("index",), f"{self.index} is none of {self.of} shards", f"give 0 to {self.of - 1}, or raise of"
            )
        for model, shard in self.pins.items():
            if not 0 <= shard < self.of:
                what = f"{shard} is none of {self.of} shards"
                raise Disagreement(("pins", model), what, f"give 0 to {self.of - 1}, or leave it out")
        if self.shares and (len(self.shares) != self.of or min(self.shares) < 1):
            what = f"{list(self.shares)} is not a number of at least 1 for each of {self.of} shards"
            raise Disagreement(("shares",), what, "give as many as there are shards, or none to divide evenly")
        return self

    @property
    def whole(self) -> bool:
        """Whether there is one shard alone, which has the whole fleet."""
        return self.of == 1

    @property
    def title(self) -> str:
        """How people call it: ``shard 0 of 3``."""
        return f"shard {self.index} of {self.of}"

    @property
    def layout(self) -> str:
        """Names the division: the same for all shards that may act side by side, and another where any part differs."""
        pins = [f"{shard} {model}" for model, shard in sorted(self.pins.items())]
        told = "\n".join([_SCHEME, *pins, f"{self.shares}"])
        return f"{self.of}-shards-{sha256(told.encode()).hexdigest()[:8]}"

    @property
    def rest(self) -> Rest:
        """What the settings of the whole fleet say beside this part."""
        return self._rest

    def home_of(self, model: str) -> int:
        """Return which shard has a model."""
        return 0 if self.whole else self.pins.get(model, home_of(model, self.of))

    def has(self, model: str) -> bool:
        """Return whether this shard has a model."""
        return self.whole or self.home_of(model) == self.index

    def share_of(self, total: int, index: int | None = None) -> int:
        """Return the part of a budget of this shard, or of another one; those of all sum to ``total``.

        >>> [ShardSettings(index=index, of=3).share_of(10) for index in range(3)]
        [3, 3, 4]
        """
        at = self.index if index is None else index
        shares = self.shares or (1,) * self.of
        before, weight = sum(shares[:at]), sum(shares)
        return total * (before + shares[at]) // weight - total * before // weight

    def overdrawn(self, spent: Mapping[int, Spent]) -> Spent:
        """Return what other shards have beyond their parts, and what is counted to this one without being its pools.

        Args:
            spent: What is asked for elsewhere, by shard.
        """
        found = spent.get(self.index, Spent())
        for index, one in spent.items():
            if index != self.index:
                gpus, cents = self._rest.gpus, self._rest.cents
                over_gpus = 0 if gpus is None else max(0, one.gpus - self.share_of(gpus, index))
                over_usd = 0.0 if cents is None else max(0.0, one.usd_per_hour - self.share_of(cents, index) / CENTS)
                found += Spent(over_gpus, over_usd)
        return found

    def beside(self, rest: Rest) -> ShardSettings:
        """Return these settings with what those of the whole fleet say beside this part."""
        known: ShardSettings = self.model_copy()
        known._rest = rest
        return known

    def named(self, text: str) -> str:
        """Return a name of a file or database with the number of this shard in place of ``{shard}``."""
        return text.replace(PLACEHOLDER, str(self.index))

    def told(self) -> dict[str, Any]:
        """Return which part it is, as JSON."""
        return {"index": self.index, "of": self.of, "layout": self.layout}


WHOLE = ShardSettings()
"""The one shard that has the whole fleet."""
