"""In which simulated world are two models compared? The most restless hours of a held-out load, on a small fleet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from controller.errors import BadInput
from forecasting.series import OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, FloatArray, LoadSeries
from simulations.arrivals import arrivals_named
from simulations.benchmark import OutOfReach
from simulations.case import Case, SimulationSettings, prepare
from simulations.job import on_the_clock_of
from simulations.rate_curve import RateCurve
from simulations.sizing import FIRST_UTILISATION, load_tested
from simulations.token_shapes import token_shape_named
from simulations.workload import Client, DrawnTrace
from training.history import History

_OBSERVED_RATIO = 0.5  # of a window that is replayed; the rest lies on a line between its neighbours
_LEAST_STEPS = 4


class WorldSettings(BaseModel):
    """How much of a held-out load is replayed, and how large the fleet is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    window_s: float = Field(
        3 * 3600.0,
        ge=600,
        le=7 * 86_400,
        description="Longest part of a history that is replayed, in seconds: the one in which load rises most within "
        "a lead time. More of it takes longer.",
    )
    most_series: int = Field(
        3, ge=1, le=1000, description="Histories that are replayed, those with the most requests; all are judged."
    )
    replicas: int = Field(
        16,
        ge=2,
        le=1000,
        description="Replicas that the busiest step of a window is scaled to: enough for one more or less to be no "
        "coarse answer.",
    )
    most_requests: int = Field(
        1_000_000, ge=1000, le=1_000_000_000, description="Most requests of a window; a busier one is scaled down."
    )


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutWorld:
    """A window of a history, ready to be replayed by whoever forecasts.

    Attributes:
        begins_s: Where the window begins, in seconds of the history; ``length_s`` is how long it is.
        scale: What the recorded load was multiplied with.
    """

    series: str
    case: Case
    begins_s: float
    length_s: float
    scale: float


def held_out_world(
    history: History, test_from: int, simulation: SimulationSettings, settings: WorldSettings
) -> HeldOutWorld:
    """Return the world of the most restless window of ``history`` from row ``test_from`` on.

    Forecasts are made in steps of the history; ticks are as ``simulation`` says, or as near as whole steps allow.

    Raises:
        BadInput: If the held-out part is too short or too gappy, or its requests do not fit the engines.
    """
    series = history.series
    simulation = _in_steps_of(series.step_s, simulation)
    lead = max(1, round(simulation.lead_time_s / series.step_s))
    first, last = _window(history, test_from, lead, max(_LEAST_STEPS, round(settings.window_s / series.step_s)))
    rates = filled(series.values)
    trace = _trace(history.name, series, rates, first, last, simulation.seed)
    scale = _scale(trace, simulation, settings)
    trace = trace.scaled(scale)
    tick_s = simulation.policy.tick_s
    rows = series.values[max(0, first - math.ceil(simulation.forecast.kept_s / series.step_s)) : first] * scale
    # Recorded load is known in steps only; a tick within one has its mean.
    before = np.repeat(rows, round(series.step_s / tick_s), axis=0)
    set_up = on_the_clock_of(trace, simulation)
    began_at = set_up.fleet.epoch_at - len(before) * tick_s
    case = prepare(trace, set_up, LoadSeries(began_at, tick_s, before))
    return HeldOutWorld(history.name, case, first * series.step_s, (last - first) * series.step_s, scale)


def filled(values: FloatArray) -> FloatArray:
    """Return ``values`` (``float64[T, C]``) with gaps on a line between what was observed before and after."""
    rows = np.arange(len(values))
    columns = []
    for column in values.T:
        seen = np.isfinite(column)
        columns.append(np.interp(rows, rows[seen], column[seen]) if seen.any() else np.zeros(len(column)))
    return np.stack(columns, axis=1)


def _in_steps_of(step_s: float, simulation: SimulationSettings) -> SimulationSettings:
    ticks = max(1, round(step_s / simulation.policy.tick_s))
    return simulation.model_copy(
        update={
            "policy": simulation.policy.model_copy(update={"tick_s": step_s / ticks}),
            "forecast": simulation.forecast.model_copy(update={"step_s": step_s}),
        }
    )


def _window(history: History, test_from: int, lead: int, most_steps: int) -> tuple[int, int]:
    """Return first and last row of the window in which load rises most within ``lead`` steps; the newest of equals."""
    series = history.series
    steps = min(most_steps, len(series) - test_from)
    if steps < _LEAST_STEPS:
        raise BadInput(
            f"{max(steps, 0)} held-out steps of {series.step_s:g} s are too few to replay",
            history.name,
            f"give a longer history, at least {_LEAST_STEPS} steps of it held out",
        )
    requests = series.values[test_from:, REQUESTS]
    whole = filled(series.values[test_from:])[:, REQUESTS]
    rises = np.maximum(whole - np.concatenate([np.full(min(lead, len(whole)), np.inf), whole[:-lead]]), 0.0)
    score, seen, busy = (_sums(column, steps) for column in (rises, np.isfinite(requests).astype(float), whole))
    usable = (seen >= _OBSERVED_RATIO * steps) & (busy > 0)
    if not usable.any():
        raise BadInput(
            f"no {steps * series.step_s / 3600:.1f} hours of the held-out part hold load and few gaps",
            history.name,
            "give a history that was recorded with fewer gaps, or --window-s with a shorter time",
        )
    score = np.where(usable, score, -1.0)
    start = test_from + int(len(score) - 1 - np.argmax(score[::-1]))
    return start, start + steps


def _sums(column: FloatArray, steps: int) -> FloatArray:
    """Return the sum of every ``steps`` consecutive entries."""
    total = np.concatenate(([0.0], np.cumsum(column)))
    return np.asarray(total[steps:] - total[:-steps])


def _trace(name: str, series: LoadSeries, rates: FloatArray, first: int, last: int, seed: int) -> DrawnTrace:
    """Return Poisson requests at the recorded rates, as long as recorded on average in each step."""
    requests = rates[first:last, REQUESTS]
    means = []
    for channel in (PROMPT_TOKENS, OUTPUT_TOKENS):
        tokens = rates[first:last, channel]
        overall = float(tokens.sum() / requests.sum())
        mean = np.divide(tokens, requests, out=np.full(len(requests), overall), where=requests > 0)
        means.append(np.maximum(mean, 1.0))
    curve = RateCurve(series.step_s, requests)
    client = Client(curve, arrivals_named("poisson", 1.0), token_shape_named("chat"), *means)
    begins_at = series.start_at + first * series.step_s
    return DrawnTrace(name, "held-out load", False, [client], seed, curves_begin_at=begins_at)


def _scale(trace: DrawnTrace, simulation: SimulationSettings, settings: WorldSettings) -> float:
    """Return what makes the busiest step of ``trace`` need about so many replicas as ``settings`` say."""
    try:
        first, *_ = load_tested(simulation.pools, simulation.policy.objective, trace)
    except OutOfReach as error:
        remedy = "name pools and an objective that can carry it: -c FILE, or --set policy.objective.ttft_s=..."
        raise BadInput(str(error), trace.name, remedy) from None
    bounds = first.settings
    replicas = min(max(settings.replicas, 2 * bounds.min_replicas), bounds.max_replicas)
    scale = replicas * FIRST_UTILISATION * first.requests_per_s / trace.peak_requests_per_s
    return min(scale, settings.most_requests / trace.expected_requests(0.0, trace.duration_s))
