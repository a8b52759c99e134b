"""Is a forecast fit for this decision: trusted, new enough, and reaching as far as a replica takes to start?"""

from __future__ import annotations

from collections.abc import Mapping

from forecasting.forecast import LoadForecast, Trust
from policies.decisions import Reason
from policies.fleet import FleetState
from policies.lead_time import lead_time
from policies.memory import PolicyMemory, PoolMemory
from policies.settings import PolicySettings


def fit_for_use(
    fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory, settings: PolicySettings
) -> tuple[Mapping[str, LoadForecast], tuple[Reason, ...]]:
    """Return the forecasts that may be decided from, and why not the others: their models are sized by the present.

    How far one has to reach is what was known of lead times when it was asked for, at the end of the last tick.
    """
    fit: dict[str, LoadForecast] = {}
    reasons = []
    for model in fleet.models:
        forecast = forecasts.get(model)
        if forecast is None:
            continue
        if forecast.trust is Trust.NONE:
            detail = f"{forecast.trust_reason} ({forecast.source}): reactive"
            reasons.append(Reason("forecast not trusted", model, 1.0, 0.0, detail))
            continue
        pools = (memory.pools.get(str(pool.key), PoolMemory()) for pool in fleet.pools_of(model))
        slowest_s = max(lead_time(pool, settings.lead_time).p90_s for pool in pools)
        before, after, detail = _unfit(forecast, fleet.at, slowest_s, settings.tick_s)
        if detail:
            reasons.append(Reason("forecast refused", model, before, after, f"{detail} ({forecast.source}): reactive"))
        else:
            fit[model] = forecast
    return fit, tuple(reasons)


def _unfit(forecast: LoadForecast, at: float, reach_s: float, tick_s: float) -> tuple[float, float, str]:
    """Return what there is, what there should be, in seconds, and what is wrong; no words when nothing is."""
    age_s, oldest_s = at - forecast.made_at, forecast.step_s + tick_s
    if not age_s <= oldest_s:  # NaN is no age
        return age_s, oldest_s, f"made {age_s:.0f} s ago, {oldest_s:.0f} s is the most"
    if age_s < -oldest_s:
        return age_s, 0.0, f"made {-age_s:.0f} s in the future"
    ends_s = forecast.start_at + forecast.horizon_s - at
    if ends_s < reach_s - tick_s:
        return ends_s, reach_s, f"ends in {ends_s:.0f} s, a start takes {reach_s:.0f} s"
    return 0.0, 0.0, ""
