"""May a forecast move replicas? How much it is trusted, from how it did lately, with the reason in words.

A forecast earns trust by losing less than the last value would have, and by bounds that hold as often as they say. What
it does with the fleet is not decided here: ``Trust`` only says how much of it may be used. One that has had no time to
show anything is a floor: what it adds is bounded by the guardrails, and nobody is worse off for it than without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.accuracy import pinball_losses
from forecasting.forecast import Trust
from forecasting.series import FloatArray


class TrustSettings(BaseModel):
    """What a forecast has to show."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    least_forecasts: int = Field(
        12,
        ge=5,
        le=48,
        description="Past forecasts that must have come true before a forecast is judged; until then it is a floor.",
    )
    full_skill: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="Loss saved against the last value, as a share of its loss, for full trust. Below it beyond doubt, "
        "a forecast is a floor.",
    )
    least_skill: float = Field(
        -0.15, ge=-1, le=1, description="Below this skill, beyond doubt, a forecast is worse than none."
    )
    level: float = Field(0.95, gt=0.5, lt=1, description="Level of the bound on the peak that sizes the fleet.")
    most_misses_ratio: float = Field(
        2.0,
        gt=1,
        le=10,
        description="Peaks over the bound, as a multiple of what the level allows, from which it is no more than a "
        "floor; at twice that, it is nothing. Doubt of a small sample is allowed for.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least_skill > self.full_skill:
            raise ValueError(f"least_skill {self.least_skill} must not exceed full_skill {self.full_skill}")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class TrackRecord:
    """What was forecast for one channel and lead, what the last value would have said, and what came; oldest first.

    Attributes:
        peaks: ``float64[K, Q]``: quantiles of the largest rate up to the lead.
        last_value: ``float64[K, Q]``: the same of the last value with quantiles of its errors.
        actual: ``float64[K]``: the largest rate that came; NaN where it is not known (yet).
        levels: ``float64[Q]``.
        overlap: How many of them share what followed, the lead in units of their distance: so many fewer they are for
            doubt.
    """

    peaks: FloatArray
    last_value: FloatArray
    actual: FloatArray
    levels: FloatArray
    overlap: float = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a forecast is trusted and why.

    Attributes:
        skill: Share of the last value's loss that it saved; NaN while unknown.
        miss_ratio: Share of peaks over the bound that sizes the fleet; NaN while unknown.
        forecasts: Past forecasts that this rests on.
    """

    trust: Trust
    reason: str
    skill: float
    miss_ratio: float
    forecasts: int


def trust_in(record: TrackRecord, settings: TrustSettings) -> Verdict:
    """Return how far a forecaster with this record is trusted.

    Raises:
        ValueError: If the shapes do not fit.
    """
    at = int(np.abs(record.levels - settings.level).argmin())
    known = np.isfinite(record.actual)
    for said in (record.peaks, record.last_value):
        if said.shape != (len(record.actual), len(record.levels)):
            raise ValueError(f"forecasts must have shape {(len(record.actual), len(record.levels))}, got {said.shape}")
        known &= np.isfinite(said).all(axis=1)
    count = int(known.sum())
    if count < settings.least_forecasts:
        why = f"{count} of the {settings.least_forecasts} past forecasts needed to judge it have come true"
        return Verdict(Trust.FLOOR, why, float("nan"), float("nan"), count)
    losses, naive = (
        pinball_losses(record.actual[known], said[known], record.levels).mean(axis=1)
        for said in (record.peaks, record.last_value)
    )
    level, independent = float(record.levels[at]), count / max(1.0, record.overlap)
    misses = float((record.actual[known] > record.peaks[known, at]).mean())
    # A load that stands still is forecast without loss by both: nothing is saved, and nothing is wrong.
    own, last = float(losses.mean()), float(naive.mean())
    skill = 1.0 - own / last if last > 0 else 0.0 if own == 0 else -np.inf
    skill_doubt = 2.0 * float((losses - naive).std()) / (last * np.sqrt(independent)) if last > 0 else 0.0
    allowed = 1.0 - level
    many = settings.most_misses_ratio * allowed + 2.0 * float(np.sqrt(allowed * level / independent))
    verdict = _judged(skill + skill_doubt, misses, many, settings)
    share = f"{misses:.0%} of {count} peaks were over their {level:g} bound"
    gain = f"{abs(skill):.0%} {'less' if skill >= 0 else 'more'} loss than the last value"
    if not np.isfinite(skill):
        gain = "loss where the last value has none"
    return Verdict(verdict, f"{gain}, {share}", skill, misses, count)


def _judged(best_skill: float, misses: float, many: float, settings: TrustSettings) -> Trust:
    """Return the verdict, with the skill that it may have at best."""
    if best_skill < settings.least_skill or misses > settings.most_misses_ratio * many:
        return Trust.NONE
    if misses > many or best_skill < settings.full_skill:
        return Trust.FLOOR
    return Trust.FULL
