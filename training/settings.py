"""How is a net fitted: the settings of training, and the shape of the net that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.features import DAY_S, WEEK_S, NetSpec
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.series import CHANNELS, LoadSeries
from training.dataset import Split

REFERENCE_HIDDEN = (128, 64)


class TrainingSettings(BaseModel):
    """What to fit and how long to try."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["lstm_quantile", "lstm_reference"] = Field(
        "lstm_quantile", description="The quantile net, or the reference stack LSTM(128) -> LSTM(64) -> Dense(1)."
    )
    step_s: float = Field(15.0, gt=0, description="Length of a step in seconds; that of the control loop's tick.")
    lead_time_s: float = Field(120.0, gt=0, description="Time from replica requested to ready, in seconds.")
    horizon_s: float = Field(
        300.0, gt=0, description="How far ahead is forecast, in seconds; lead time plus room for it to grow."
    )
    lead_steps: tuple[int, ...] = Field(
        (), description="Leads that the quantile net answers, in steps; by default a grid that widens by a third."
    )
    context_steps: int = Field(48, ge=8, le=4096, description="Steps of history that the net reads.")
    hidden: tuple[int, ...] = Field((32,), description="LSTM units per layer of the quantile net.")
    head: int = Field(64, ge=1, le=1024, description="Units in the hidden layer of the quantile heads.")
    periods_s: tuple[float, ...] = Field(
        (DAY_S, WEEK_S), description="Seasons in seconds; one that the training part does not hold twice is dropped."
    )
    channels: tuple[str, ...] = Field(CHANNELS, min_length=1, description="Channels that examples are taken from.")
    validation_ratio: float = Field(0.15, gt=0, lt=0.5, description="Share of the history that stops the fit.")
    test_ratio: float = Field(0.15, ge=0, lt=0.8, description="Newest share of the history, only ever judged on.")
    batch: int = Field(128, ge=1, description="Windows per gradient step.")
    max_epochs: int = Field(30, ge=1, le=1000, description="Most passes over the training windows.")
    max_windows: int = Field(60_000, ge=100, description="Most training windows kept; more are thinned evenly.")
    max_windows_per_epoch: int = Field(4_000, ge=100, description="Windows drawn anew for each epoch.")
    min_windows_per_epoch: int = Field(
        2_000, ge=1, description="Windows of an epoch at the least; a short history is passed over several times."
    )
    learning_rate: float = Field(3e-3, gt=0, description="Highest learning rate of the schedule.")
    weight_decay: float = Field(
        2.0,
        ge=0,
        description="AdamW's decay, relative to the learning rate, for up to 1,000 training origins; with more of them "
        "it falls in proportion. Short histories are forgotten well: it is what kept a net ahead of the last value on "
        "a week of 10-minute steps.",
    )
    gradient_norm: float = Field(1.0, gt=0, description="Longest gradient; longer ones are scaled down to it.")
    averaging: float = Field(
        0.98, ge=0, lt=1, description="Weight of the past in the moving average of weights that is kept as the model."
    )
    peak_weight: float = Field(1.0, ge=0, description="What the peak's pinball loss counts against the values'.")
    patience: int = Field(6, ge=1, description="Epochs without a validation loss better by 0.1 % before the fit ends.")
    max_fit_s: float = Field(120.0, gt=0, description="Time budget of a fit, in seconds of the wall clock.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the first weights and of the order of windows.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.horizon_s < self.lead_time_s:
            raise ValueError(f"horizon_s {self.horizon_s:g} is shorter than lead_time_s {self.lead_time_s:g}")
        if self.validation_ratio + self.test_ratio >= 0.9:
            raise ValueError("validation and test leave less than a tenth to train on")
        return self

    @property
    def horizon_steps(self) -> int:
        """Steps that cover the horizon."""
        return steps_covering(self.horizon_s, self.step_s)


def steps_covering(duration_s: float, step_s: float) -> int:
    """Return the fewest whole steps that last ``duration_s``."""
    return max(1, int(np.ceil(duration_s / step_s - 1e-9)))


def lead_grid(horizon_steps: int, must_have: Sequence[int] = ()) -> tuple[int, ...]:
    """Return leads from 1 to ``horizon_steps`` that widen by about a third, with those of ``must_have`` among them.

    >>> lead_grid(20, must_have=(8,))
    (1, 2, 3, 4, 6, 8, 11, 15, 20)
    """
    grid = {1, horizon_steps, *(lead for lead in must_have if lead <= horizon_steps)}
    lead = 1.0
    while lead < horizon_steps:
        grid.add(round(lead))
        lead = max(lead + 1.0, lead * 1.36)
    return tuple(sorted(grid))


def net_spec(settings: TrainingSettings, series: Sequence[LoadSeries], splits: Sequence[Split]) -> NetSpec:
    """Return the net that ``settings`` ask for, without the seasons that the training parts cannot teach."""
    level_steps = max(1, min(round(60.0 / settings.step_s), settings.context_steps))
    lead = steps_covering(settings.lead_time_s, settings.step_s)
    if settings.model == "lstm_reference":
        return NetSpec(
            kind="reference_lstm",
            step_s=settings.step_s,
            context_steps=settings.context_steps,
            lead_steps=(settings.horizon_steps,),
            hidden=REFERENCE_HIDDEN,
            level_steps=1,
            periods_s=(),
            calendar=False,
            channels=settings.channels,
        )
    leads = settings.lead_steps or lead_grid(settings.horizon_steps, (lead,))
    longest_s = max(split.validation_from * one.step_s for one, split in zip(series, splits, strict=True))
    reach_s = (leads[-1] + level_steps) * settings.step_s
    seasons = tuple(p for p in settings.periods_s if reach_s <= p and 2.0 * p <= longest_s)
    return NetSpec(
        kind="quantile_lstm",
        step_s=settings.step_s,
        context_steps=settings.context_steps,
        lead_steps=leads,
        levels=DEFAULT_LEVELS,
        hidden=settings.hidden,
        head=settings.head,
        level_steps=level_steps,
        periods_s=seasons,
        calendar=bool(seasons),
        channels=settings.channels,
    )


def min_history_steps(settings: TrainingSettings) -> int:
    """Return the steps of gap-free history from which every part holds at least 30 windows."""
    needed = 30 + settings.horizon_steps
    train_ratio = 1.0 - settings.validation_ratio - settings.test_ratio
    return max(
        -(-int(needed + settings.context_steps) // 1)
        if train_ratio >= 1
        else int(np.ceil((needed + settings.context_steps) / train_ratio)),
        int(np.ceil(needed / settings.validation_ratio)),
    )
