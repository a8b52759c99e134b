"""What can be asked for a forecast: the protocol of fitted forecasters, and a chain of them that steps back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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
        stepped_back: list[tuple[str, str]] = []
        for forecaster in self.forecasters:
            try:
                return ForecastAnswer(forecaster.forecast(history, horizon_steps, levels), tuple(stepped_back))
            except CannotForecast as reason:
                stepped_back.append((forecaster.name, str(reason)))
            except Exception as failure:  # noqa: BLE001 - a broken model must not stop the loop; its reason is told
                stepped_back.append((forecaster.name, f"it failed: {type(failure).__name__}: {failure}"))
        return ForecastAnswer(None, tuple(stepped_back))
