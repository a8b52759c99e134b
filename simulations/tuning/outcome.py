"""What did settings cost and attain, over traces and seeds, and is that more than noise apart from something else?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from simulations.execution import RunFigures

Cost: TypeAlias = Literal["gpu_hours", "cost_usd"]
"""What is to be saved: the field of the scorecard that counts it."""

CONFIDENCE = 0.95
"""Of the interval that a difference must leave 0 outside of to be called one."""


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """All traces under one seed, with equal arrivals for all settings.

    Attributes:
        attainment_ratio: That of the trace that fared worst: an objective is kept on all of them or not at all.
        gpu_hours, cost_usd: Of all traces together.
        violations: Invariants broken.
    """

    seed: int
    attainment_ratio: float
    gpu_hours: float
    cost_usd: float
    violations: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What settings did, seed by seed."""

    seeds: tuple[SeedOutcome, ...]

    @property
    def attainment_ratio(self) -> float:
        """Mean over the seeds."""
        return _mean([seed.attainment_ratio for seed in self.seeds])

    @property
    def violations(self) -> int:
        """Of all seeds together."""
        return sum(seed.violations for seed in self.seeds)

    def cost(self, cost: Cost) -> float:
        """Return the mean over the seeds."""
        return _mean([getattr(seed, cost) for seed in self.seeds])

    def as_json(self) -> dict[str, Any]:
        """Return means and what each seed gave, ready for ``json.dumps``."""
        return {
            "attainment_ratio": self.attainment_ratio,
            "gpu_hours": self.cost("gpu_hours"),
            "cost_usd": self.cost("cost_usd"),
            "violations": self.violations,
            "seeds": [{name: getattr(seed, name) for name in SeedOutcome.__slots__} for seed in self.seeds],
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference and half the width of its confidence interval: infinite with a single seed."""

    mean: float
    half_width: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves 0 outside."""
        return abs(self.mean) > self.half_width

    def as_json(self) -> dict[str, Any]:
        """Return the interval, ready for ``json.dumps``."""
        width = self.half_width if math.isfinite(self.half_width) else None
        return {"mean": self.mean, "half_width": width, "confidence": CONFIDENCE, "certain": self.certain}


def outcome_of(runs: Sequence[RunFigures]) -> Outcome:
    """Return the outcome of runs on all traces with all seeds. A run in which nothing arrived attains nothing."""
    by_seed: dict[int, list[RunFigures]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    return Outcome(
        tuple(
            SeedOutcome(
                seed=seed,
                attainment_ratio=min(_known(run.scorecard.slo_attainment_ratio) for run in mine),
                gpu_hours=math.fsum(run.scorecard.gpu_hours for run in mine),
                cost_usd=math.fsum(run.scorecard.cost_usd for run in mine),
                violations=sum(len(run.scorecard.violations) for run in mine),
            )
            for seed, mine in sorted(by_seed.items())
        )
    )


def difference(one: Outcome, other: Outcome, figure: Callable[[SeedOutcome], float]) -> Difference:
    """Return ``one`` minus ``other``, seed by seed, with Student's interval: what both share cancels out.

    >>> of = lambda *hours: Outcome(tuple(SeedOutcome(n, 0.99, h, 0.0, 0) for n, h in enumerate(hours)))
    >>> found = difference(of(8.0, 9.0, 10.0), of(10.0, 10.5, 12.5), lambda seed: seed.gpu_hours)
    >>> round(found.mean, 3), round(found.half_width, 3), found.certain
    (-2.0, 1.242, True)
    """
    others: Mapping[int, SeedOutcome] = {seed.seed: seed for seed in other.seeds}
    apart = [figure(seed) - figure(others[seed.seed]) for seed in one.seeds]
    mean = _mean(apart)
    if len(apart) < 2:
        return Difference(mean, math.inf)
    from scipy.stats import t

    variance = math.fsum((each - mean) ** 2 for each in apart) / (len(apart) - 1)
    width = float(t.ppf((1.0 + CONFIDENCE) / 2.0, len(apart) - 1)) * math.sqrt(variance / len(apart))
    return Difference(mean, width)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _known(share: float) -> float:
    return 0.0 if math.isnan(share) else share
