"""How many requests arrive? Counters of engines or gateways, scrape after scrape, turned into rates per model.

Where arrivals are counted, their growth is taken, less what the gateway sent again. Where only the end of a request is
counted, what arrived is what ended plus what has queued up meanwhile, so that an overloaded fleet is not mistaken for
a quiet one: 8 ended and 2 more inside than before are 10 that arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from forecasting.series import FloatArray

REMEMBERED_S = 600.0
"""A counter that has been silent for longer, though its target is still there, is no longer waited for."""

_RESET_RATIO = 0.5
"""A counter that fell to more than this share of itself was not reset: part of what it sums is gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """What was counted at one look, position by position of one source (an engine, or a gateway's view of a pool).

    Attributes:
        keys: Names of the sources.
        models: Their models.
        sampled_at: When each was scraped, ``float64[N]``.
        received: Requests that arrived, NaN where that is not counted.
        retried: Of those, requests that the gateway sent again; NaN for none.
        ended: Requests that ended in whatever way.
        inside: Requests that arrived and have not ended.
    """

    keys: Sequence[str]
    models: Sequence[str]
    sampled_at: FloatArray
    received: FloatArray
    retried: FloatArray
    ended: FloatArray
    inside: FloatArray

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests per second by model, and of which models too little is known, with why."""

    requests_per_s: Mapping[str, float] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Silent:
    model: str
    rate: float
    sampled_at: float


class ArrivalRates:
    """Rates of arrival from one look at the counters to the next. Its state is the last look."""

    def __init__(self, stale_after_s: float, min_coverage_ratio: float) -> None:
        """Believe a rate for ``stale_after_s``, and a model's sum while this share of its sources is heard of."""
        self._stale_after_s, self._min_coverage = stale_after_s, min_coverage_ratio
        self._before: Counted | None = None
        self._rates = np.zeros(0)
        self._places: dict[str, int] = {}
        self._silent: dict[str, _Silent] = {}

    @property
    def silent(self) -> Sequence[str]:
        """Sources that were heard of lately, are not now, and are still there as far as is known."""
        return sorted(self._silent)

    def update(self, now: Counted, at: float, still_there: Callable[[str], bool] = lambda _: True) -> Arrivals:
        """Return the rates as of ``at``.

        A source that is new counts with what it has inside: the rest of its counter may be from any time. One that is
        silent goes on at its last rate until it is stale, unless it is gone.

        Args:
            now: What is counted now.
            at: The time, in seconds since the epoch.
            still_there: Whether a source that is silent is still expected.
        """
        with np.errstate(invalid="ignore"):  # what was sampled at no known time has no age, and no rate
            rates = self._new_rates(now)
        self._note_silent(now, at, still_there)
        self._before, self._rates = now, rates
        self._places = {key: place for place, key in enumerate(now.keys)}
        return self._by_model(now, rates, at)

    def _new_rates(self, now: Counted) -> FloatArray:
        before = self._before
        if before is None:
            return np.full(len(now), np.nan)
        places = np.fromiter((self._places.get(key, -1) for key in now.keys), np.intp, len(now))
        known = places >= 0
        elapsed_s = now.sampled_at - _taken(before.sampled_at, places)
        grown = _growth(_taken(before.received, places), now.received)
        grown -= np.nan_to_num(_growth(_taken(before.retried, places), now.retried))
        ended = _growth(_taken(before.ended, places), now.ended)
        restarted = now.ended < _taken(before.ended, places)
        was_inside = np.where(restarted, 0.0, _taken(before.inside, places))
        queued_up = np.nan_to_num(now.inside - was_inside)
        arrived = np.where(np.isfinite(grown), grown, ended + queued_up)
        moved = known & (elapsed_s > 0)
        rates: FloatArray = np.divide(arrived, elapsed_s, out=np.full(len(now), np.nan), where=moved)
        still = known & ~moved
        rates[still] = self._rates[places[still]]
        if len(before):
            since_s = np.maximum(now.sampled_at - before.sampled_at.max(), 1.0)
            rates[~known] = (np.nan_to_num(now.inside) / since_s)[~known]
        return rates

    def _note_silent(self, now: Counted, at: float, still_there: Callable[[str], bool]) -> None:
        present, before = set(now.keys), self._before
        if before is not None:
            lost = [(place, key) for place, key in enumerate(before.keys) if key not in present]
            for place, key in lost:
                rate, sampled_at = float(self._rates[place]), float(before.sampled_at[place])
                self._silent[key] = _Silent(before.models[place], rate, sampled_at)
        self._silent = {
            key: last
            for key, last in self._silent.items()
            if key not in present and at - last.sampled_at <= REMEMBERED_S and still_there(key)
        }

    def _by_model(self, now: Counted, rates: FloatArray, at: float) -> Arrivals:
        usable = np.isfinite(rates) & (at - now.sampled_at <= self._stale_after_s)
        models, places = np.unique(np.asarray(now.models, dtype=object), return_inverse=True)
        sums = dict(zip(models, np.bincount(places, np.where(usable, rates, 0.0), len(models)), strict=True))
        heard = dict(zip(models, np.bincount(places, usable, len(models)), strict=True))
        expected = dict(zip(models, np.bincount(places, minlength=len(models)).astype(float), strict=True))
        for last in self._silent.values():
            expected[last.model] = expected.get(last.model, 0.0) + 1.0
            if at - last.sampled_at <= self._stale_after_s and np.isfinite(last.rate):
                heard[last.model] = heard.get(last.model, 0.0) + 1.0
                sums[last.model] = sums.get(last.model, 0.0) + last.rate
        known, unknown = {}, {}
        for model, count in expected.items():
            if heard.get(model, 0.0) >= max(self._min_coverage * count, 1e-9):
                known[model] = max(0.0, float(sums[model]))
            else:
                unknown[model] = f"{heard.get(model, 0.0):.0f} of {count:.0f} that count its requests are heard of"
        return Arrivals(known, unknown)


def _taken(column: FloatArray, places: np.ndarray) -> FloatArray:
    """Return ``column`` at ``places``, NaN where there is none."""
    if not len(column):
        return np.full(len(places), np.nan)
    return np.where(places >= 0, column[places], np.nan)


def _growth(before: FloatArray, now: FloatArray) -> FloatArray:
    """Return how much counters grew; one that began anew at zero grew by what it shows, NaN where nobody can tell."""
    reset = now < before * _RESET_RATIO
    return np.where(now >= before, now - before, np.where(reset, now, np.nan))
