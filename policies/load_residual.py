"""Is the offered load what was forecast for now, some minutes ago?

What a forecast said is kept until its time has come. While load strays, it is held against what was forecast before
that began: what forecasters make of it meanwhile is no measure of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from forecasting.forecast import LoadForecast, Trust
from forecasting.series import REQUESTS
from policies.residual_memory import LoadMemory
from policies.residuals import ResidualSettings, Stray, clock, look

LOAD = "load forecast"
"""The family of evidence."""

CALIBRATED = 0.62
"""Mean deviation of normal errors in half widths of their own 80 % band (0.8 / 1.28): no forecast is held to less."""

_AT_ONCE = 5.0
"""So many forecasts are held at a time, each for a part of the lead."""


class LoadResidualSettings(ResidualSettings):
    """When load is not what was forecast."""

    lead_s: float = Field(
        300.0,
        gt=0,
        description="How long before, in seconds, a forecast must have been made; its last step where it does not "
        "reach as far. A forecast of the next minute has seen what it is held against.",
    )
    margin_ratio: float = Field(
        0.4, gt=0, description="Load less than this share above what was forecast, or as many times below, is no sign."
    )
    margin_per_s: float = Field(0.1, ge=0, description="A difference of fewer requests/s than this is no sign.")


@dataclass(frozen=True, slots=True)
class LoadLook:
    """Load that is outside of what was forecast for now.

    Attributes:
        offered_per_s, forecast_per_s: Requests/s, and the median that was forecast.
        stray: How far and since when.
        age_s: How old the forecast is that it is held against: since the end of the step it was made for.
    """

    offered_per_s: float
    forecast_per_s: float
    stray: Stray
    age_s: float = 0.0

    @property
    def times(self) -> float:
        """Load as a multiple of what was forecast; infinity where next to none was."""
        return self.offered_per_s / self.forecast_per_s if self.forecast_per_s > 0 else math.inf

    def __str__(self) -> str:
        times = f"{self.times:.2g} times what was forecast" if math.isfinite(self.times) else "none was forecast"
        per_minute = f"{60.0 * self.offered_per_s:,.0f} requests/min offered"
        return f"{per_minute}, {times}, outside since {clock(self.stray.since_at)}"


def look_at_load(
    known: LoadMemory,
    at: float,
    offered_per_s: float,
    forecast: LoadForecast | None,
    settings: LoadResidualSettings,
    *,
    learning: bool = True,
) -> tuple[LoadMemory, LoadLook | None]:
    """Return what to remember of a model's load, and what is odd about it; None where nothing is, or can be told.

    Args:
        known: Of earlier looks.
        at: Instant of the look.
        offered_per_s: Requests/s as of now; NaN where they were not observed.
        forecast: Made now; None where there is none.
        settings: When it counts.
        learning: Whether load is what clients want, so that it may be learned from.
    """
    straying = known.residual.since_at is not None
    due = _due(known, at, settings, straying=straying)
    low, middle, high, deviation, beyond, age_s = math.nan, math.nan, math.nan, math.nan, False, 0.0
    if due is not None and not math.isnan(offered_per_s):
        due_at, low, middle, high = due
        age_s = max(0.0, at - due_at)
        over = offered_per_s - middle
        wide = high - middle if over > 0 else middle - low
        # A tenth is the least that any forecast of arrivals can be wrong by.
        deviation = over / max(wide, 0.1 * middle, settings.margin_per_s)
        beyond = _beyond(offered_per_s, middle, settings)
    residual, stray = look(known.residual, at, deviation, CALIBRATED, settings, beyond=beyond, learning=learning)
    after = _held(known, at, forecast if learning else None, settings, residual.since_at)
    after = replace(after, residual=residual)
    if stray is None:
        return after, None
    return after, LoadLook(offered_per_s, middle, stray, age_s)


def _beyond(offered_per_s: float, middle: float, settings: LoadResidualSettings) -> bool:
    times = 1.0 + settings.margin_ratio
    far = offered_per_s >= times * middle or times * offered_per_s <= middle
    return far and abs(offered_per_s - middle) > settings.margin_per_s


def _spacing_s(step_s: float, settings: LoadResidualSettings) -> float:
    return max(step_s, settings.lead_s / _AT_ONCE)


def _due(
    known: LoadMemory, at: float, settings: LoadResidualSettings, *, straying: bool
) -> tuple[float, float, float, float] | None:
    """Return what was forecast for now: when its step ends, and three quantiles; the last there is while it strays."""
    spacing_s = _spacing_s(known.step_s, settings)
    past = [each for each in known.due if each[0] <= at + spacing_s / 2.0]
    if not past or (not straying and at - past[-1][0] > spacing_s):
        return None
    return past[-1]


def _held(
    known: LoadMemory,
    at: float,
    forecast: LoadForecast | None,
    settings: LoadResidualSettings,
    since_at: float | None,
) -> LoadMemory:
    """Return ``known`` with what ``forecast`` says of the lead, and without what is past or made of what strays."""
    before = known.residual.since_at
    if before is not None and since_at is None:
        return LoadMemory()  # what was forecast meanwhile was made of it
    if since_at is not None:
        if before is not None:
            return known
        lead_s = max(settings.lead_s, known.step_s)
        clean = tuple(each for each in known.due if each[0] - lead_s <= since_at)
        return replace(known, due=clean or known.due[:1])
    spacing_s = _spacing_s(known.step_s, settings)
    due = tuple(each for each in known.due if each[0] > at - 2.0 * spacing_s)
    if forecast is None or forecast.trust is Trust.NONE or not abs(at - forecast.made_at) <= 2.0 * forecast.step_s:
        return replace(known, due=due)
    step_s = forecast.step_s
    step = min(max(round(settings.lead_s / step_s), 1), forecast.values.shape[1]) - 1
    due_at = forecast.start_at + (step + 1) * step_s
    if due and due_at - due[-1][0] < _spacing_s(step_s, settings) - 1e-6:
        return replace(known, due=due)
    quantiles = np.interp((0.1, 0.5, 0.9), forecast.levels, forecast.values[:, step, REQUESTS]).tolist()
    low, middle, high = (float(f"{rate:.5g}") for rate in quantiles)
    return replace(known, due=(*due, (due_at, low, middle, high)), step_s=step_s)
