"""What is the load now, when a single scrape is noise and a mean over a minute is late?"""

from __future__ import annotations

import numpy as np

from forecasting.series import REQUESTS, FloatArray

NOISE_STEPS = 40
SURE_SIGMAS = 3.0
"""Standard errors by which a newer, shorter mean has to be above the older one to count."""


def present_load(rows: FloatArray, step_s: float, window_s: float) -> FloatArray | None:
    """Return the present rate of each channel, or None when the newest step was not observed.

    It is the mean over ``window_s``, unless the load has jumped: then the newest steps alone say how far for certain,
    and what they say less ``SURE_SIGMAS`` standard errors is taken where that is more. The mean of a minute would
    need the whole minute to say that the load doubled, while replicas take minutes to start. A fall, of the tokens
    neither, is never taken from fewer steps: giving up late is cheap.

    The error of one step is that of its neighbours (median absolute difference over ``NOISE_STEPS``), and at least
    that of Poisson arrivals and the scatter of the newest steps themselves: a single wild scrape is no longer believed
    once another follows it.

    Args:
        rows: Rates per second, ``float64[T, C]``, the newest last; NaN where not observed.
        step_s: Seconds per row.
        window_s: Seconds over which noise is averaged.

    >>> calm = np.full((40, 3), 10.0)
    >>> present_load(calm, 15.0, 60.0)
    array([10., 10., 10.])
    >>> jumped = np.vstack([calm, np.full((1, 3), 40.0)])  # the mean of the minute: 17.5
    >>> present_load(jumped, 15.0, 60.0).round(1)  # 40 less 3 times sqrt(40 / 15)
    array([35.1, 35.1, 35.1])
    """
    if not len(rows) or np.isnan(rows[-1]).any():
        return None
    window = max(1, round(window_s / step_s))
    mean: FloatArray = np.nanmean(rows[-window:], axis=0)
    present, sure = mean, mean[REQUESTS]
    noise = _noise(rows[:, REQUESTS])
    for steps in range(1, min(window, len(rows))):
        newest = np.nanmean(rows[-steps:], axis=0)
        rate, observed = newest[REQUESTS], np.isfinite(rows[-steps:, REQUESTS]).sum()
        scatter = float(np.nanstd(rows[-steps:, REQUESTS]))
        error = max(noise, scatter, np.sqrt(rate / step_s)) / np.sqrt(observed)
        if rate - SURE_SIGMAS * error > sure:
            sure = rate - SURE_SIGMAS * error
            present = np.maximum(mean, newest * (sure / rate))
    return present


def _noise(rates: FloatArray) -> float:
    """Return the standard deviation of one step around its neighbours: of a normal one, 1.48 median / sqrt(2)."""
    seen = rates[-NOISE_STEPS:]
    changes = np.abs(np.diff(seen[np.isfinite(seen)]))
    return 1.4826 * float(np.median(changes)) / np.sqrt(2.0) if len(changes) else 0.0
