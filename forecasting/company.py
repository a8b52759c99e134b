"""Who is asked for forecasts together? A trained model, if there is one, and forecasters that need no training."""

from __future__ import annotations

from enum import StrEnum

from forecasting.features import DAY_S, WEEK_S
from forecasting.forecaster import Forecaster


class Company(StrEnum):
    """Who forecasts."""

    SINGLE = "single"
    """The model, and the local level where it steps back."""
    COMBINED = "combined"
    """The model, the local level and the same time a day and a week ago, weighted by how each did lately."""
    NONE = "none"
    """Nobody: replicas follow what is seen."""


MOST_ASKED = 2_000
"""Answers at past instants that a tick works out at most while a company looks back for the first time."""


def forecasters_of(company: Company, model: Forecaster | None) -> tuple[Forecaster, ...]:
    """Return who is asked, in order of preference; when all step back, scaling is reactive only."""
    from forecasting.last_value import LastValueForecaster

    plain = LastValueForecaster()
    if company is Company.NONE:
        return ()
    if company is Company.SINGLE:
        return (plain,) if model is None else (model, plain)
    from forecasting.ensemble import CombinedForecaster
    from forecasting.seasonal_naive import SeasonalNaiveForecaster

    experts = (plain, SeasonalNaiveForecaster(DAY_S), SeasonalNaiveForecaster(WEEK_S))
    name = "combined" if model is None else f"combined with {model.name}"
    everybody = experts if model is None else (model, *experts)
    return CombinedForecaster(everybody, name, most_asked=MOST_ASKED), plain
