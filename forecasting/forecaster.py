"""What can be asked for a forecast: the protocols of fitted forecasters, and a chain of them that steps back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.series import LoadSeries


class CannotForecast(Exception):
    """The forecaster has no honest answer for this history; the message says why in one clause."""


class Forecaster(Protocol):
    """A fitted model. Something that still has to be fitted is an estimator and lives in ``training``.

    ``forecast`` must not change what later calls return for the same input.
    """

    @property
    def name(self) -> str:
        """Model name and version, as it appears in reasons and reports."""
        ...

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps of ``history.step_s`` after ``history.end_at``.

        Raises:
            CannotForecast: If the history is too short, too gappy or of another step than the model's.
        """
        ...


@runtime_checkable
class FleetForecaster(Forecaster, Protocol):
    """A forecaster that answers for many workloads at once, faster than one by one and with the same numbers."""

    @property
    def most_steps(self) -> int:
        """Newest steps of a history that it looks at; more of them change nothing."""
        ...

    def forecast_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[LoadForecast | CannotForecast]:
        """Return what ``forecast`` returns or raises for each history and its horizon."""
        ...


@dataclass(frozen=True, slots=True)
class ForecastAnswer:
    """A forecast or none (then scaling is reactive only), and why earlier forecasters stepped back."""

    forecast: LoadForecast | None
    stepped_back: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FallbackForecaster:
    """Ask forecasters in order of preference; the first honest answer wins, none at all means reactive only.

    A forecaster that fails, or whose answer no ``LoadForecast`` can hold, counts as one that stepped back.
    """

    forecasters: tuple[Forecaster, ...]

    def answer(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> ForecastAnswer:
        """Return the first forecast that can be made, with the name and reason of each that could not."""
        return self.answer_many([history], [horizon_steps], levels)[0]

    @property
    def most_steps(self) -> int | None:
        """Newest steps of a history that any of them looks at; None where one does not say."""
        known = [forecaster.most_steps for forecaster in self.forecasters if isinstance(forecaster, FleetForecaster)]
        return max(known, default=0) if len(known) == len(self.forecasters) else None

    def answer_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[ForecastAnswer]:
        """Return the answer for each history and its horizon: each forecaster is asked for what the earlier left."""
        answers = [ForecastAnswer(None)] * len(histories)
        left = list(range(len(histories)))
        for forecaster in self.forecasters:
            asked = [(histories[place], horizons_steps[place]) for place in left]
            for place, told in zip(left, _told(forecaster, asked, levels), strict=True):
                before = answers[place].stepped_back
                if isinstance(told, LoadForecast):
                    answers[place] = ForecastAnswer(told, before)
                else:
                    answers[place] = ForecastAnswer(None, (*before, (forecaster.name, told)))
            left = [place for place in left if answers[place].forecast is None]
        return answers


def _told(
    forecaster: Forecaster, asked: Sequence[tuple[LoadSeries, int]], levels: Sequence[float]
) -> list[LoadForecast | str]:
    """Return the forecast for each history and horizon, or why there is none; one that breaks all is asked singly."""
    if isinstance(forecaster, FleetForecaster) and len(asked) > 1:
        histories, horizons_steps = zip(*asked, strict=True)
        try:
            told = forecaster.forecast_many(histories, horizons_steps, levels)
            return [one if isinstance(one, LoadForecast) else str(one) for one in told]
        except Exception:  # noqa: BLE001, S110 - the history that breaks it tells its reason below, others lose nothing
            pass
    return [_told_one(forecaster, history, horizon_steps, levels) for history, horizon_steps in asked]


def _told_one(
    forecaster: Forecaster, history: LoadSeries, horizon_steps: int, levels: Sequence[float]
) -> LoadForecast | str:
    try:
        return forecaster.forecast(history, horizon_steps, levels)
    except CannotForecast as reason:
        return str(reason)
    except Exception as failure:  # noqa: BLE001 - a broken model must not stop the loop; its reason is told
        return f"it failed: {type(failure).__name__}: {failure}"
