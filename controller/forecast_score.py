"""How good did the forecasts turn out? What was forecast, held until its time has come, against what was offered."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from forecasting.forecast import LoadForecast
from forecasting.series import REQUESTS
from policies.fleet import Demand

MAX_PENDING = 4096
"""Forecasts held per model and lead; a day of ticks of 15 s is 5760, and no lead is that long."""


@dataclass(frozen=True, slots=True)
class ForecastScore:
    """One forecast whose time has come.

    Attributes:
        realised_per_s: Requests/s that were offered then.
        median_per_s: Requests/s that had been forecast.
        held: Whether the realised rate was within each level's quantile.
    """

    model: str
    lead_s: float
    realised_per_s: float
    median_per_s: float
    held: Mapping[float, bool]

    @property
    def error_ratio(self) -> float:
        """Return forecast minus realised over realised, one request/s at least: 0.1 is ten percent too much."""
        return (self.median_per_s - self.realised_per_s) / max(1.0, self.realised_per_s)


@dataclass(frozen=True, slots=True)
class _Pending:
    due_at: float
    median_per_s: float
    quantiles: Mapping[float, float]


class ForecastScores:
    """Compares forecasts of requests/s with what came, at fixed leads; bounded in memory."""

    def __init__(self, leads_s: Sequence[float], levels: Sequence[float], tolerance_s: float) -> None:
        """``tolerance_s`` is how far from its time a forecast may still be compared, half a step or so."""
        self._leads_s, self._levels, self._tolerance_s = tuple(leads_s), tuple(levels), tolerance_s
        self._pending: dict[tuple[str, float], deque[_Pending]] = {}

    def add(
        self, at: float, forecasts: Mapping[str, LoadForecast], demand: Mapping[str, Demand]
    ) -> list[ForecastScore]:
        """Hold ``forecasts``, and return what ``demand``, observed at ``at``, says about those that are due.

        A forecast whose time passed unobserved is dropped: nobody knows how good it was.
        """
        scores = [score for key in self._pending for score in self._due(at, key, demand.get(key[0]))]
        for model, forecast in forecasts.items():
            for lead_s in self._leads_s:
                if lead_s <= forecast.horizon_s + 1e-9:
                    self._hold(model, lead_s, forecast)
        return scores

    def forget(self, gone: Collection[str]) -> None:
        """Drop what is held of models that are no longer there."""
        self._pending = {key: held for key, held in self._pending.items() if key[0] not in gone}

    @property
    def models(self) -> set[str]:
        """Models of which anything is held."""
        return {model for model, _ in self._pending}

    def _hold(self, model: str, lead_s: float, forecast: LoadForecast) -> None:
        step = max(0, round(lead_s / forecast.step_s) - 1)
        quantiles = {level: float(forecast.at_level(level)[step, REQUESTS]) for level in self._levels}
        median = float(forecast.at_level(0.5)[step, REQUESTS])
        held = self._pending.setdefault((model, lead_s), deque(maxlen=MAX_PENDING))
        held.append(_Pending(forecast.start_at + (step + 1) * forecast.step_s, median, quantiles))

    def _due(self, at: float, key: tuple[str, float], demand: Demand | None) -> list[ForecastScore]:
        held, found = self._pending[key], []
        while held and held[0].due_at <= at + self._tolerance_s:
            due = held.popleft()
            if demand is not None and abs(due.due_at - at) <= self._tolerance_s:
                real = demand.requests_per_s
                within = {level: real <= quantile for level, quantile in due.quantiles.items()}
                found.append(ForecastScore(key[0], key[1], real, due.median_per_s, within))
        return found
