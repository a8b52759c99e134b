"""What does a rival see of the load: the rates as they were scraped, and no forecast."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controller.forecasts import ForecastSettings, LoadForecasts
from forecasting.forecast import LoadForecast
from forecasting.forecaster import FallbackForecaster
from policies.fleet import Demand, FleetState


class RawDemand(LoadForecasts):
    """Stands where the daemon's forecasts are, for a policy that averages and predicts by itself, if at all.

    It keeps no history, so that a rival which looks every two seconds for a week costs no memory.
    """

    def __init__(self, settings: ForecastSettings) -> None:
        super().__init__(FallbackForecaster(()), 1.0, settings)

    def learn(self, fleet: FleetState, hidden: Collection[str] = ()) -> Mapping[str, Demand]:
        """Return what was observed, as it is."""
        return fleet.demand

    def forecast_many(self, horizons_s: Mapping[str, float]) -> dict[str, LoadForecast]:
        """Return none: nobody is asked."""
        return {}
