"""What does a net look at, and what does it answer? Its shape, from which everything but its weights follows."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.forecast import DEFAULT_LEVELS
from forecasting.series import CHANNELS

HOUR_S = 3600.0
DAY_S = 86_400.0
WEEK_S = 7 * DAY_S

MAX_LEADS, MAX_LEAD_STEPS = 64, 4096
MAX_LEVEL_STEPS = 64
MAX_SEASONS, MAX_SEASON_S = 4, 60 * WEEK_S
MAX_TURNS = 4
HARMONICS = (1, 2)
# Fewer steps of history show neither a level nor how much it scatters.
MIN_HISTORY_STEPS = 10


class NetSpec(BaseModel):
    """What a net looks at and answers: everything needed to rebuild it, besides its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["reference_lstm", "quantile_lstm"] = Field(description="Which architecture of quantile_net.")
    step_s: float = Field(gt=0, le=WEEK_S, description="Length of a step in seconds, of the history and of the leads.")
    context_steps: int = Field(64, ge=8, le=4096, description="Steps of history that the encoder reads.")
    fine_steps: int = Field(
        0, ge=0, le=4096, description="Newest of context_steps that are read one by one; the older ones in blocks."
    )
    block_steps: int = Field(
        1, ge=1, le=512, description="Steps averaged to one input where the context is read in blocks."
    )
    lead_steps: tuple[int, ...] = Field(
        min_length=1,
        max_length=MAX_LEADS,
        description="Leads that are answered, in steps, ascending; between them answers are interpolated. "
        "A reference_lstm has exactly one, the lead time.",
    )
    levels: tuple[float, ...] = Field(
        DEFAULT_LEVELS, min_length=1, max_length=32, description="Quantile levels, ascending inside (0, 1)."
    )
    hidden: tuple[int, ...] = Field(
        (64,), min_length=1, max_length=4, description="LSTM units per layer; (128, 64) is the reference stack."
    )
    head: int = Field(64, ge=1, le=1024, description="Units of the hidden layer of a quantile head.")
    level_steps: int = Field(
        1,
        ge=1,
        le=MAX_LEVEL_STEPS,
        description="Steps averaged to the last level, from which changes are measured; noise of "
        "short steps asks for about a minute of them.",
    )
    periods_s: tuple[float, ...] = Field(
        (HOUR_S, DAY_S, WEEK_S),
        max_length=MAX_SEASONS,
        description="Seasons in seconds whose previous turn is shown when recorded.",
    )
    calendar: bool = Field(True, description="Whether the phase within each of periods_s (UTC) is shown.")
    channels: tuple[str, ...] = Field(
        CHANNELS, min_length=1, description="Channels that training examples come from; a net answers for all."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        leads, levels = self.lead_steps, self.levels
        if leads[0] < 1 or any(b <= a for a, b in pairwise(leads)) or leads[-1] > MAX_LEAD_STEPS:
            raise ValueError(f"lead_steps must ascend from 1 or more to {MAX_LEAD_STEPS} or less, got {leads}")
        if not (levels[0] > 0 and levels[-1] < 1) or any(b <= a for a, b in pairwise(levels)):
            raise ValueError(f"levels must ascend inside (0, 1), got {levels}")
        if self.kind == "reference_lstm" and (len(leads) != 1 or len(self.hidden) != 2):
            raise ValueError("a reference_lstm has one lead and two layers")
        if self.kind == "quantile_lstm" and leads[0] != 1:
            raise ValueError(f"the lead grid of a quantile_lstm starts at 1, got {leads}")
        if any(not 1 <= units <= 1024 for units in self.hidden):
            raise ValueError(f"hidden layers have 1 to 1024 units, got {self.hidden}")
        if self.level_steps > self.context_steps:
            raise ValueError(f"level_steps {self.level_steps} exceed context_steps {self.context_steps}")
        if any(not MAX_SEASON_S >= period >= self.step_s * (leads[-1] + self.level_steps) for period in self.periods_s):
            raise ValueError(f"periods_s must exceed the longest lead and stay under 60 weeks, got {self.periods_s}")
        unknown = set(self.channels) - set(CHANNELS)
        if unknown or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channels must be distinct ones of {CHANNELS}, got {self.channels}")
        return self

    @model_validator(mode="after")
    def _readable(self) -> Self:
        coarse = self.context_steps - self.fine_steps
        if coarse < 0 or coarse % self.block_steps:
            raise ValueError(
                f"context_steps {self.context_steps} must be fine_steps {self.fine_steps} and whole blocks of "
                f"{self.block_steps}"
            )
        if self.kind == "reference_lstm" and self.block_steps != 1:
            raise ValueError("a reference_lstm reads every step of its context")
        return self

    @property
    def tokens(self) -> int:
        """Inputs in a row that the encoder reads: blocks, then single steps."""
        return self.fine_steps + (self.context_steps - self.fine_steps) // self.block_steps

    @property
    def least_steps(self) -> int:
        """Fewest steps of history that a window may have; what is missing of the context is masked."""
        return self.context_steps if self.kind == "reference_lstm" else min(MIN_HISTORY_STEPS, self.context_steps)

    @property
    def most_steps(self) -> int:
        """Newest steps of a history that enter the inputs; more of them change nothing."""
        seasons = [
            turns_of(period) * round(period / self.step_s) + self.then_steps(period) for period in self.periods_s
        ]
        return max([self.context_steps, *seasons])

    @property
    def context_features(self) -> int:
        """Inputs per token: the scaled rate and whether it was observed; the largest rate of a block between them."""
        return 2 if self.kind == "reference_lstm" else 3

    @property
    def static_features(self) -> int:
        """Inputs per window besides the context; 0 for the reference stack."""
        if self.kind == "reference_lstm":
            return 0
        rolling = len(rolling_steps(self)) + len(rolling_peak_steps(self)) + 2
        seasonal = len(self.periods_s) * (2 * len(self.lead_steps) + 2)
        return rolling + seasonal + (2 * len(HARMONICS) * len(self.periods_s) if self.calendar else 0)

    def then_steps(self, period_s: float) -> int:
        """Return the steps averaged to the level one season ago.

        Of a day ago a few are, since one noisy step of yesterday predicts nothing; what recurs every hour recurs to
        the minute.
        """
        return max(self.level_steps, self.lead_steps[-1] // 4 if period_s >= DAY_S else 1)

    def around_steps(self, period_s: float, lead: int) -> int:
        """Return the steps to either side of ``lead`` that are averaged one season ago, as ``then_steps`` are."""
        return max(self.level_steps - 1, lead // 4 if period_s >= DAY_S else 0)


def rolling_steps(spec: NetSpec) -> list[int]:
    """Return 2, 4, 8, ... up to the context."""
    return [2**power for power in range(1, spec.context_steps.bit_length()) if 2**power <= spec.context_steps]


def rolling_peak_steps(spec: NetSpec) -> list[int]:
    """Return 4, 16, 64, ... up to the context."""
    return rolling_steps(spec)[1::2]


def roughness_column(spec: NetSpec) -> int:
    """Return which of the static features is the usual change from step to step in the context."""
    return len(rolling_steps(spec)) + len(rolling_peak_steps(spec)) + 1


def turns_of(period_s: float) -> int:
    """Return how many previous turns of a season are averaged: those of two days, at most four.

    >>> turns_of(3600.0), turns_of(86_400.0), turns_of(7 * 86_400.0)
    (4, 2, 1)
    """
    return max(1, min(MAX_TURNS, round(2 * DAY_S / period_s)))
