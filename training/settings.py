"""How is a net fitted: the settings of training, and the shape of the net that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from forecasting.forecast import DEFAULT_LEVELS
from forecasting.net_spec import (
    DAY_S,
    HOUR_S,
    MAX_LEAD_STEPS,
    MAX_LEADS,
    MAX_LEVEL_STEPS,
    MAX_SEASON_S,
    MAX_SEASONS,
    MIN_HISTORY_STEPS,
    WEEK_S,
    NetSpec,
)
from forecasting.series import CHANNELS, LoadSeries
from training.dataset import Split

REFERENCE_HIDDEN = (128, 64)
REFERENCE_CONTEXT_STEPS = 48
MIN_STEP_S, MAX_STEP_S = 1.0, WEEK_S
_MOST = 1_000_000_000  # of windows and epochs: more than any history holds, and still a number that torch takes

Season = Annotated[float, Field(gt=0, le=MAX_SEASON_S)]
Units = Annotated[int, Field(ge=1, le=1024)]


class TrainingSettings(BaseModel):
    """What to fit and how long to try."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: Literal["lstm_quantile", "lstm_reference"] = Field(
        "lstm_quantile", description="The quantile net, or the reference stack LSTM(128) -> LSTM(64) -> Dense(1)."
    )
    step_s: float = Field(
        15.0,
        ge=MIN_STEP_S,
        le=MAX_STEP_S,
        description="Length of a step in seconds, from a second to a week; the controller's is forecast.step_s.",
    )
    lead_time_s: float = Field(
        120.0,
        gt=0,
        description=f"Time from replica requested to ready, in seconds; at most {MAX_LEAD_STEPS:,} steps.",
    )
    horizon_s: float = Field(
        300.0,
        gt=0,
        description="How far ahead is forecast, in seconds; lead time plus room for it to grow, at most "
        f"{MAX_LEAD_STEPS:,} steps.",
    )
    lead_steps: tuple[int, ...] = Field(
        (),
        max_length=MAX_LEADS,
        description="Leads that the quantile net answers, in steps, ascending from 1; by default a grid that widens by "
        "a third.",
    )
    context_steps: int = Field(
        120,
        ge=8,
        le=4096,
        description="Steps of history that the net reads, rounded down to whole blocks; the reference stack reads "
        "at most 48.",
    )
    fine_steps: int = Field(
        24, ge=1, le=4096, description="Newest of context_steps that the quantile net reads one by one."
    )
    block_steps: int = Field(
        8,
        ge=1,
        le=512,
        description="Older steps averaged to one input of the quantile net: five hours of minutes in 60 inputs.",
    )
    hidden: tuple[Units, ...] = Field(
        (32,), min_length=1, max_length=4, description="LSTM units per layer of the quantile net."
    )
    head: int = Field(64, ge=1, le=1024, description="Units in the hidden layer of the quantile heads.")
    periods_s: tuple[Season, ...] = Field(
        (HOUR_S, DAY_S, WEEK_S),
        max_length=MAX_SEASONS,
        description=f"Up to {MAX_SEASONS} different seasons in seconds, each at most 60 weeks; one that the training "
        "part does not hold twice, or that is no longer than the horizon, is dropped.",
    )
    channels: tuple[str, ...] = Field(CHANNELS, min_length=1, description="Channels that examples are taken from.")
    validation_ratio: float = Field(0.15, gt=0, lt=0.5, description="Share of the history that stops the fit.")
    test_ratio: float = Field(0.15, ge=0, lt=0.8, description="Newest share of the history, only ever judged on.")
    batch: int = Field(128, ge=1, le=65_536, description="Windows per gradient step.")
    max_epochs: int = Field(60, ge=1, le=1000, description="Most passes over the training windows.")
    max_windows: int = Field(
        60_000, ge=100, le=_MOST, description="Most training windows kept; more are thinned evenly."
    )
    max_windows_per_epoch: int = Field(12_000, ge=100, le=_MOST, description="Windows drawn anew for each epoch.")
    min_windows_per_epoch: int = Field(
        2_000,
        ge=1,
        le=1_000_000,
        description="Windows of an epoch at the least; a short history is passed over several times.",
    )
    learning_rate: float = Field(3e-3, gt=0, description="Highest learning rate of the schedule.")
    weight_decay: float = Field(
        2.0,
        ge=0,
        description="AdamW's decay, relative to the learning rate, for up to 1,000 training origins; with more of them "
        "it falls, eight times with sixteen times as many. Short histories are forgotten well: it is what kept a net "
        "ahead of the last value on a week of 10-minute steps.",
    )
    gradient_norm: float = Field(1.0, gt=0, description="Longest gradient; longer ones are scaled down to it.")
    averaging: float = Field(
        0.98, ge=0, lt=1, description="Weight of the past in the moving average of weights that is kept as the model."
    )
    short_lead_weight: float = Field(
        0.5,
        ge=0,
        description="What leads shorter than the lead time count against the others: no replica is there by then.",
    )
    short_history_ratio: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of the training windows that are shown as if the record had begun lately, so that new "
        "workloads are answered for too; those with a history are then forecast no worse, on two weeks even better.",
    )
    peak_weight: float = Field(1.0, ge=0, description="What the peak's pinball loss counts against the values'.")
    patience: int = Field(
        10, ge=1, le=1000, description="Epochs without a validation loss better by 0.1 % before the fit ends."
    )
    closing: bool = Field(
        True,
        description="Whether the fit is done again on training and validation part together, for as many epochs as "
        "were best: the newest history teaches most.",
    )
    max_fit_s: float = Field(300.0, gt=0, description="Time budget of a fit, in seconds of the wall clock.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the first weights and of the order of windows.")

    @field_validator("lead_time_s", "horizon_s")
    @classmethod
    def _within_reach(cls, value: float, info: ValidationInfo) -> float:
        step_s = info.data.get("step_s")
        if step_s is not None and value / step_s > MAX_LEAD_STEPS + 1e-9:
            raise ValueError(
                f"{info.field_name} {value:g} is more than {MAX_LEAD_STEPS:,} steps of {step_s:g} s: give at most "
                f"{MAX_LEAD_STEPS * step_s:g}, or a longer step_s"
            )
        return value

    @field_validator("horizon_s")
    @classmethod
    def _covers_the_lead_time(cls, value: float, info: ValidationInfo) -> float:
        lead_time_s = info.data.get("lead_time_s")
        if lead_time_s is not None and value < lead_time_s:
            raise ValueError(f"horizon_s {value:g} is shorter than lead_time_s {lead_time_s:g}")
        return value

    @field_validator("lead_steps")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if value and (value[0] != 1 or value[-1] > MAX_LEAD_STEPS or any(b <= a for a, b in pairwise(value))):
            raise ValueError(f"lead_steps must ascend from 1 to {MAX_LEAD_STEPS:,} or less")
        return value

    @field_validator("periods_s", "channels")
    @classmethod
    def _each_once(cls, value: tuple[object, ...], info: ValidationInfo) -> tuple[object, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"one of {info.field_name} is given twice")
        return value

    @field_validator("channels")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in CHANNELS]
        if unknown:
            raise ValueError(f"there is no channel {unknown[0]!r}, only {', '.join(CHANNELS)}")
        return value

    @field_validator("test_ratio")
    @classmethod
    def _leaves_some_to_learn_from(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("validation_ratio", 0.0) + value >= 0.9:
            raise ValueError("validation_ratio and test_ratio leave less than a tenth to train on")
        return value

    def for_fine_tuning(self) -> Self:
        """Return settings that refine a fitted net: fewer epochs, smaller steps, no pull towards zero weights."""
        changed = {
            "max_epochs": -(-self.max_epochs // 3),
            "learning_rate": 0.3 * self.learning_rate,
            "weight_decay": 0.0,
        }
        return self.model_copy(update=changed)

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
    level_steps = max(1, min(round(60.0 / settings.step_s), settings.context_steps, MAX_LEVEL_STEPS))
    lead = steps_covering(settings.lead_time_s, settings.step_s)
    if settings.model == "lstm_reference":
        return NetSpec(
            kind="reference_lstm",
            step_s=settings.step_s,
            context_steps=min(settings.context_steps, REFERENCE_CONTEXT_STEPS),
            lead_steps=(settings.horizon_steps,),
            hidden=REFERENCE_HIDDEN,
            level_steps=1,
            periods_s=(),
            calendar=False,
            channels=settings.channels,
        )
    leads = settings.lead_steps or lead_grid(settings.horizon_steps, (lead,))
    fine = min(settings.fine_steps, settings.context_steps)
    blocks = (settings.context_steps - fine) // settings.block_steps
    longest_s = max(split.validation_from * one.step_s for one, split in zip(series, splits, strict=True))
    reach_s = (leads[-1] + level_steps) * settings.step_s
    seasons = tuple(p for p in settings.periods_s if reach_s <= p and 2.0 * p <= longest_s)
    return NetSpec(
        kind="quantile_lstm",
        step_s=settings.step_s,
        context_steps=fine + blocks * settings.block_steps,
        fine_steps=fine,
        block_steps=settings.block_steps,
        lead_steps=leads,
        levels=DEFAULT_LEVELS,
        hidden=settings.hidden,
        head=settings.head,
        level_steps=level_steps,
        periods_s=seasons,
        calendar=bool(seasons),
        channels=settings.channels,
    )


def shape_settings(spec: NetSpec) -> dict[str, object]:
    """Return the settings that ask for a net of the shape of ``spec``."""
    return {
        "model": "lstm_reference" if spec.kind == "reference_lstm" else "lstm_quantile",
        "step_s": spec.step_s,
        "horizon_s": spec.lead_steps[-1] * spec.step_s,
        "lead_steps": () if spec.kind == "reference_lstm" else spec.lead_steps,
        "context_steps": spec.context_steps,
        "fine_steps": max(1, spec.fine_steps),
        "block_steps": spec.block_steps,
        "hidden": spec.hidden,
        "head": spec.head,
    }


def min_history_steps(settings: TrainingSettings) -> int:
    """Return the steps of gap-free history from which every part holds at least 30 windows."""
    needed = 30 + settings.horizon_steps
    read = (
        min(settings.context_steps, REFERENCE_CONTEXT_STEPS)
        if settings.model == "lstm_reference"
        else MIN_HISTORY_STEPS
    )
    train_ratio = 1.0 - settings.validation_ratio - settings.test_ratio
    return max(
        -(-int(needed + read) // 1) if train_ratio >= 1 else int(np.ceil((needed + read) / train_ratio)),
        int(np.ceil(needed / settings.validation_ratio)),
    )
