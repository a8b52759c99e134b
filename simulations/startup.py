"""How long does a replica take to start: which phases, with which scatter, stragglers and failed attempts?

    schedule   a place is found, the container is made      PENDING
    pull       the image comes, unless the node has it      PENDING
    load       the process starts and reads the weights     LOADING
    warm-up    compile, profile, capture CUDA graphs        LOADING

A model gives the shares of the phases and how starts scatter; how long one takes is the run's lead time. What a start
draws depends on its generator alone, never on what the node has in its caches or on whoever asked for the replica.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

_P90_DEVIATIONS = 1.2815515655446004  # standard normal quantile of 0.9
_SAMPLES = 40_001  # the 90th percentile of a start is then known to about 0.3 %

PLAIN = "plain"
LEAD_TIME_S = 120.0
"""Median lead time where nothing else is said."""


class StartupModel(BaseModel):
    """Shares, scatter and accidents of a start. Shares are of a start that pulls the image and meets no accident."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("own", description="Name on the command line.")
    source: str = Field("", description="Where the figures come from.")
    median_s: float = Field(
        LEAD_TIME_S, gt=0, le=86400, description="Median of a whole start in seconds, as published."
    )
    schedule_ratio: float = Field(0.05, ge=0, le=1, description="Share of the start until the container is made.")
    pull_ratio: float = Field(0.15, ge=0, le=1, description="Share in which the image is pulled.")
    load_ratio: float = Field(0.6, ge=0, le=1, description="Share in which weights are loaded.")
    warm_up_ratio: float = Field(0.2, ge=0, le=1, description="Share in which the engine compiles and warms up.")
    p90_ratio: float = Field(
        1.15,
        ge=1,
        le=10,
        description="90th percentile over the median of a start as a whole, lognormal: what all phases of one start "
        "have in common, such as a busy node. 1 makes starts alike.",
    )
    phase_p90_ratio: float = Field(
        1.0, ge=1, le=10, description="The same of each phase by itself, on top: phases that scatter independently."
    )
    straggler_ratio: float = Field(0.0, ge=0, le=0.5, description="Share of starts that are stragglers.")
    straggler_factor: float = Field(3.0, ge=1, le=100, description="How many times as long those take.")
    failure_ratio: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Share of starts in which the engine exits while it loads or warms up; the platform starts it "
        "again in place after its back-off.",
    )
    keeps_image: bool = Field(
        False,
        description="Whether a node keeps the image: then only the first replica on it pulls, others wait for it.",
    )
    warm_load_ratio: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Loading time where the node has read the weights before, over that where it has not; 1 for no "
        "cache.",
    )

    @model_validator(mode="after")
    def _shares(self) -> StartupModel:
        total = self.schedule_ratio + self.pull_ratio + self.load_ratio + self.warm_up_ratio
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares of the phases add up to {total:g}, they must add up to 1")
        return self


@dataclass(frozen=True, slots=True)
class StartTimes:
    """What one start draws, in seconds, before caches shorten it.

    ``fails_after_ratio`` is the share of loading and warming up after which the engine exits; NaN when it does not.
    """

    schedule_s: float
    pull_s: float
    load_s: float
    warm_up_s: float
    fails_after_ratio: float = math.nan

    @property
    def fails(self) -> bool:
        """Whether the engine exits before it is READY."""
        return not math.isnan(self.fails_after_ratio)


def draw_start(model: StartupModel, lead_time_s: float, rng: np.random.Generator) -> StartTimes:
    """Return one start of a replica whose median lead time, image pulled and stragglers included, is ``lead_time_s``.

    What the model leaves out draws nothing, so that a model without accidents is one normal number per start.

    >>> draw_start(StartupModel(p90_ratio=1.0), 100.0, np.random.default_rng(0))
    StartTimes(schedule_s=5.0, pull_s=15.0, load_s=60.0, warm_up_s=20.0, fails_after_ratio=nan)
    """
    factor = lead_time_s / _quantiles(model)[0] * math.exp(_sigma(model.p90_ratio) * rng.standard_normal())
    phases = np.exp(_sigma(model.phase_p90_ratio) * rng.standard_normal(4)) if model.phase_p90_ratio > 1 else np.ones(4)
    if model.straggler_ratio > 0 and rng.random() < model.straggler_ratio:
        factor *= model.straggler_factor
    fails_after = math.nan
    if model.failure_ratio > 0:
        fate, share = rng.random(), rng.random()
        fails_after = share if fate < model.failure_ratio else math.nan
    schedule, pull, load, warm_up = (factor * phases).tolist()
    return StartTimes(
        schedule * model.schedule_ratio,
        pull * model.pull_ratio,
        load * model.load_ratio,
        warm_up * model.warm_up_ratio,
        fails_after,
    )


def p90_over_median(model: StartupModel) -> float:
    """Return the 90th percentile over the median of starts that do not fail and pull the image."""
    median, p90 = _quantiles(model)
    return p90 / median


def startup_named(name: str) -> StartupModel:
    """Return the start-up model of that name.

    Raises:
        ValueError: If there is none; it lists those that there are.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise ValueError(f"no start-up model is called {name!r}; known: {', '.join(CATALOGUE)}") from None


def by_name(value: Any) -> Any:
    """Return the model where its name is given, else what is given: for settings that take either."""
    return startup_named(value) if isinstance(value, str) else value


@lru_cache(maxsize=64)
def _quantiles(model: StartupModel) -> tuple[float, float]:
    """Return median and 90th percentile of a start in shares of its nominal length, from a fixed sample."""
    if model.phase_p90_ratio == 1 and model.straggler_ratio == 0:
        return 1.0, model.p90_ratio
    rng = np.random.default_rng(0)
    shares = np.array([model.schedule_ratio, model.pull_ratio, model.load_ratio, model.warm_up_ratio])
    phases = np.exp(_sigma(model.phase_p90_ratio) * rng.standard_normal((_SAMPLES, 4))) @ shares
    starts = phases * np.exp(_sigma(model.p90_ratio) * rng.standard_normal(_SAMPLES))
    starts *= np.where(rng.random(_SAMPLES) < model.straggler_ratio, model.straggler_factor, 1.0)
    median, p90 = np.quantile(starts, (0.5, 0.9))
    return float(median), float(p90)


def _sigma(p90_ratio: float) -> float:
    return math.log(p90_ratio) / _P90_DEVIATIONS


CATALOGUE: Mapping[str, StartupModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            StartupModel(
                name=PLAIN,
                source="an assumption: one lognormal over the whole start, no accidents",
            ),
            StartupModel(
                name="stragglers",
                source="an assumption to test against: 3 % of starts take three times as long, 1 % fail once, phases "
                "scatter by themselves, nodes keep the image",
                p90_ratio=1.1,
                phase_p90_ratio=1.3,
                straggler_ratio=0.03,
                straggler_factor=3.0,
                failure_ratio=0.01,
                keeps_image=True,
            ),
            StartupModel(
                name="llm-d-32b",
                source="100 to 139 s in llm-d's runs of a 32B model, read as the central 90 %; shares assumed",
                median_s=118.0,
                p90_ratio=1.137,  # ln(139 / 100) is 2 * 1.645 deviations
            ),
            StartupModel(
                name="measured-155s",
                source="one published start of 155 s; spread and shares assumed",
                median_s=155.0,
            ),
            StartupModel(
                name="blis-240s",
                source="the 240 +- 30 s that the BLIS simulator assumes; shares assumed",
                median_s=240.0,
                p90_ratio=1.16,  # 240 + 1.28 * 30
            ),
            StartupModel(
                name="vllm-70b-tp8",
                source="Llama 70B FP8 on TP8, vLLM issue 19824: 60 s peer access check and 10 s of weights from the "
                "page cache, 15 s Dynamo, 70 s compile, 60 s CUDA graphs; 5 s to schedule and a cached image assumed",
                median_s=220.0,
                schedule_ratio=5 / 220,
                pull_ratio=0.0,
                load_ratio=70 / 220,
                warm_up_ratio=145 / 220,
            ),
            StartupModel(
                name="cloud-2-7min",
                source="2 to 7 minutes in the field, read as the central 90 %; shares and a kept image assumed",
                median_s=224.0,
                pull_ratio=0.3,
                load_ratio=0.45,
                warm_up_ratio=0.2,
                p90_ratio=1.629,  # ln(7 / 2) is 2 * 1.645 deviations
                keeps_image=True,
            ),
            StartupModel(
                name="llama-4-scout-tp4",
                source="about 10 minutes for Llama 4 Scout on TP4, llm-d-benchmark issue 83; spread and shares assumed",
                median_s=600.0,
                pull_ratio=0.05,
                load_ratio=0.7,
            ),
        )
    }
)
"""Start-up models by name."""
