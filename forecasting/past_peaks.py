"""What did a forecaster say of the peak lately, had it been asked? Asked once per instant, and kept.

A forecaster is a function of the history that it is shown, so that what it says of the past, shown only what was known
then, is what it would have said. An answer is kept under a digest of the numbers it was made from: keeping it saves
time and changes nothing. How many may be asked for in one go is bounded, since a tick must not wait for the past of a
thousand workloads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from forecasting.features import IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import FleetForecaster, Forecaster
from forecasting.past_answers import Fitted, ask_all, judged_leads
from forecasting.residuals import futures
from forecasting.series import REQUESTS, FloatArray, LoadSeries
from forecasting.window_digests import clock_of, window_digests

JUDGED = 48
"""Past instants at which a forecaster is judged; of a long history every half hour of the last day."""
MAX_STRIDE_S = 1800.0
LEAST_STEPS = 10
MOST_KEPT = 500_000
"""Answers kept, of 56 bytes and their key each."""
ALL_STEPS = 1_000_000_000
_STRIDES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900)

Key: TypeAlias = tuple[str, int, int, int, float]


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """Past instants of one history at which a forecaster is judged: ``origins`` steps seen, ``lead`` steps ahead."""

    history: LoadSeries
    origins: IntArray
    lead: int

    @classmethod
    def of(cls, history: LoadSeries, horizon_steps: int, since_at: float = -np.inf) -> Past:
        """Choose up to ``JUDGED`` of them, evenly spaced on the clock, of which it is known what followed.

        None of them is before ``since_at``, Unix seconds: what has been there for an hour is judged every few steps.
        """
        lead = judged_leads(horizon_steps)[-1]
        widest = max(1, round(MAX_STRIDE_S / history.step_s))
        first, last = LEAST_STEPS, len(history) - lead
        if since_at > history.start_at:
            first = max(first, int(np.ceil(min((since_at - history.start_at) / history.step_s, last + 1.0) - 1e-9)))
        stride = next((s for s in _STRIDES if s < widest and (last - first) / s <= JUDGED), widest)
        last -= (clock_of(history) + last) % stride
        return cls(history, np.arange(last, first - 1, -stride, dtype=np.int64)[:JUDGED][::-1], lead)

    @property
    def overlap(self) -> float:
        """The lead in units of the distance of two of them."""
        return self.lead / float(np.diff(self.origins[:2]).max(initial=1))

    def keys(self, name: str, most_steps: int) -> list[Key]:
        """Return what names the answer of a forecaster that looks at ``most_steps`` at each instant."""
        begins = np.maximum(0, self.origins - most_steps)
        digests = window_digests(self.history, begins, self.origins)
        step_s, clock = self.history.step_s, clock_of(self.history)
        return [
            (name, digest, clock + end, self.lead, step_s)
            for digest, end in zip(digests, self.origins.tolist(), strict=True)
        ]

    def shown(self, place: int, most_steps: int) -> LoadSeries:
        """Return what a forecaster would have seen."""
        origin = int(self.origins[place])
        return self.history.window(max(0, origin - most_steps), origin)

    def followed(self) -> FloatArray:
        """Return ``float64[K]``: the largest requests/s up to the lead."""
        after = futures(self.history.values[:, [REQUESTS]], self.origins, self.lead)
        return after.largest[:, -1, 0]


class PastPeaks:
    """What forecasters said of the peak of requests/s at past instants of any histories.

    Args:
        most_asked: Answers that are asked for in one call, over all histories.
    """

    def __init__(self, most_asked: int) -> None:
        self._most_asked = most_asked
        self._kept: OrderedDict[Key, FloatArray] = OrderedDict()

    def follow(self, predecessor: PastPeaks, names: Collection[str]) -> None:
        """Keep what forecasters of these names said as well."""
        self._kept.update({key: peaks for key, peaks in predecessor._kept.items() if key[0] in names})

    def of(self, forecaster: Forecaster, pasts: Sequence[Past]) -> list[FloatArray]:
        """Return ``float64[K, Q]`` for each: what it said of the peak; NaN where it had no answer or was not asked yet.

        Of those that it was never asked for, the newest are asked for first, whichever history they are of.
        """
        most_steps = forecaster.most_steps if isinstance(forecaster, FleetForecaster) else ALL_STEPS
        keys = [past.keys(forecaster.name, most_steps) for past in pasts]
        until = forecaster.fitted_until if isinstance(forecaster, Fitted) else -np.inf
        missing = [
            (len(past.origins) - place, number, place)
            for number, (past, mine) in enumerate(zip(pasts, keys, strict=True))
            for place, key in enumerate(mine)
            if key not in self._kept and past.history.start_at + past.origins[place] * past.history.step_s >= until
        ]
        asked = sorted(missing)[: self._most_asked]
        shown = [pasts[number].shown(place, most_steps) for _, number, place in asked]
        leads = [pasts[number].lead for _, number, _ in asked]
        for (_, number, place), lead, answer in zip(
            asked, leads, ask_all(forecaster, shown, leads, DEFAULT_LEVELS), strict=True
        ):
            said = answer.peaks[:, lead - 1, REQUESTS] if isinstance(answer, LoadForecast) else _NOTHING
            self._kept[keys[number][place]] = np.array(said)
        found = []
        for mine in keys:
            found.append(np.array([self._kept.get(key, _NOTHING) for key in mine]).reshape(-1, len(DEFAULT_LEVELS)))
            for key in mine:
                if key in self._kept:
                    self._kept.move_to_end(key)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return found


_NOTHING = np.full(len(DEFAULT_LEVELS), np.nan)
