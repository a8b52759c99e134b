"""May a forecast move replicas? How much it is trusted, from how it did lately, with the reason in words.

A forecast earns trust by losing less than the last value would have, and by bounds that hold as often as they say. What
it does with the fleet is not decided here: ``Trust`` only says how much of it may be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.accuracy import pinball_losses
from forecasting.series import FloatArray


class Trust(StrEnum):
    """How much of a forecast may be used."""

    NONE = "none"
    """Scale on what is seen only."""
    FLOOR = "floor"
    """It may keep or add replicas, never give any up."""
    FULL = "full"
    """It may add and give up replicas."""


class TrustSettings(BaseModel):
    """What a forecast has to show."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    least_forecasts: int = Field(
        36, ge=5, le=10_000, description="Past forecasts that must have come true before any trust; six hours of them."
    )
    full_skill: float = Field(
        0.02, ge=-1, le=1, description="Loss saved against the last value, as a share of its loss, for full trust."
    )
    least_skill: float = Field(
        -0.1, ge=-1, le=1, description="Below this skill a forecast is worse than none; between, it may be a floor."
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
    """

    peaks: FloatArray
    last_value: FloatArray
    actual: FloatArray
    levels: FloatArray


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
        why = f"{count} of the {settings.least_forecasts} past forecasts needed have come true"
        return Verdict(Trust.NONE, why, float("nan"), float("nan"), count)
    own, last = (
        float(pinball_losses(record.actual[known], said[known], record.levels).mean())
        for said in (record.peaks, record.last_value)
    )
    level = float(record.levels[at])
    misses = float((record.actual[known] > record.peaks[known, at]).mean())
    # A load that stands still is forecast without loss by both: nothing is saved, and nothing is wrong.
    skill = 1.0 - own / last if last > 0 else 0.0 if own == 0 else -np.inf
    allowed = 1.0 - level
    doubt = 2.0 * float(np.sqrt(allowed * level / count))
    verdict = _judged(skill, misses, allowed, doubt, settings, still=own == last == 0)
    share = f"{misses:.0%} of {count} peaks were over their {level:g} bound"
    gain = f"{abs(skill):.0%} {'less' if skill >= 0 else 'more'} loss than the last value"
    return Verdict(verdict, f"{gain}, {share}", skill, misses, count)


def _judged(
    skill: float, misses: float, allowed: float, doubt: float, settings: TrustSettings, *, still: bool
) -> Trust:
    many = settings.most_misses_ratio * allowed + doubt
    if skill < settings.least_skill or misses > settings.most_misses_ratio * many:
        return Trust.NONE
    if misses > many or (skill < settings.full_skill and not still):
        return Trust.FLOOR
    return Trust.FULL
