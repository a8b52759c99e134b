"""What was the mean of what a replica observed since its last scrape? From running sums and counts of a histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.series import FloatArray


class ScrapeMeans:
    """Means of the newest scrape window per replica; its state is the scrape before."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._sampled_at = self._sums = self._counts = self._means = np.zeros(0)

    def update(self, names: Sequence[str], sampled_at: FloatArray, sums: FloatArray, counts: FloatArray) -> FloatArray:
        """Return ``float64[N]``, NaN where nothing was observed since, or there was no scrape before.

        What began anew at zero counts from there; looking twice at one scrape gives the same answer twice.
        """
        places = np.fromiter((self._places.get(name, -1) for name in names), np.intp, len(names))
        known = places >= 0
        means = np.full(len(names), np.nan)
        if known.any():
            was = places[known]
            began_anew = counts[known] < self._counts[was]
            count = counts[known] - np.where(began_anew, 0.0, self._counts[was])
            total = sums[known] - np.where(began_anew, 0.0, self._sums[was])
            fresh = sampled_at[known] > self._sampled_at[was]
            ratio = np.divide(total, count, out=np.full(len(count), np.nan), where=(count > 0) & (total >= 0))
            means[known] = np.where(fresh, ratio, self._means[was])
        self._places = {name: place for place, name in enumerate(names)}
        self._sampled_at, self._sums, self._counts, self._means = sampled_at, sums, counts, means
        return means
