"""Which observations can be no load? Single steps a hundred times over all but a few others are treated as gaps."""

from __future__ import annotations

import numpy as np

from forecasting.series import LoadSeries

# A scrape that went wrong, or a counter that was reset, is off by far more; bursts of load are seldom alone or so high.
SPIKE_RATIO = 100.0
USUAL_LEVEL = 0.99


def without_spikes(history: LoadSeries) -> LoadSeries:
    """Return ``history`` with every spike as NaN; the same object when there is none.

    A spike is a single step over 100 times the 0.99 quantile of its channel. The newest step is never one: it may be
    the first of a new level, and the next step will tell. A channel that is nearly always idle has none.
    """
    values = history.values
    if len(values) < 3:
        return history
    seen = np.isfinite(values)
    highest = np.where(seen, values, 0.0).max(axis=0)
    if not (highest > SPIKE_RATIO * np.where(seen, values, 0.0).mean(axis=0)).any():
        return history
    with np.errstate(invalid="ignore"):
        usual = np.quantile(np.where(seen, values, 0.0), USUAL_LEVEL, axis=0)
        over = (values > SPIKE_RATIO * usual) & (usual > 0)
    near = np.zeros_like(over)
    near[1:] |= over[:-1]
    near[:-1] |= over[1:]
    alone = over & ~near
    alone[-1] = False
    if not alone.any():
        return history
    return LoadSeries(history.start_at, history.step_s, np.where(alone, np.nan, values))
