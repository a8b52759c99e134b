"""Load series with known truth, every forecaster there is, and small nets to put into artifacts."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forecasting.arima import ArimaForecaster
from forecasting.artifact import ModelCard, ResidualTable, TrainingFacts
from forecasting.ensemble import CombinedForecaster
from forecasting.features import DAY_S, NetSpec
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.forecaster import Forecaster
from forecasting.kalman import KalmanForecaster
from forecasting.last_value import LastValueForecaster
from forecasting.regression import RegressionForecaster
from forecasting.seasonal_naive import SeasonalNaiveForecaster
from forecasting.series import LoadSeries
from forecasting.statistical import ExponentialSmoothingForecaster
from forecasting.tree_features import TreeSpec
from forecasting.trees import TreeForecaster

TOKENS = np.array([1.0, 900.0, 200.0])
"""Requests, prompt and output tokens per request, so that one column of rates makes three."""


def series_of(rates: Any, step_s: float = 15.0, start_at: float = 1_700_000_100.0) -> LoadSeries:
    """Return a series with tokens in a fixed ratio to ``rates`` (``[T]`` requests/s)."""
    return LoadSeries(start_at, step_s, np.asarray(rates, dtype=np.float64)[:, None] * TOKENS)


def poisson_series(
    steps: int,
    rate: float = 6.0,
    step_s: float = 15.0,
    seed: int = 0,
    period_s: float = DAY_S,
    swing_ratio: float = 0.0,
) -> LoadSeries:
    """Return counts drawn around a sine of ``period_s``: the mean is known and the scatter is that of arrivals."""
    rng = np.random.default_rng(seed)
    at = np.arange(steps) * step_s
    mean = rate * (1.0 + swing_ratio * np.sin(2 * np.pi * at / period_s))
    return series_of(rng.poisson(mean * step_s) / step_s, step_s)


def with_gaps(series: LoadSeries, share: float, seed: int = 0) -> LoadSeries:
    """Return the series with a share of its steps unobserved, never the last four."""
    rng = np.random.default_rng(seed)
    values = series.values.copy()
    values[:-4][rng.random(len(values) - 4) < share] = np.nan
    return LoadSeries(series.start_at, series.step_s, values)


def small_spec(kind: Literal["quantile_lstm", "reference_lstm"] = "quantile_lstm", **changes: Any) -> NetSpec:
    """Return a spec that is built and run in milliseconds."""
    figures: dict[str, Any] = {
        "kind": kind,
        "step_s": 15.0,
        "context_steps": 32,
        "lead_steps": (1, 2, 4, 8, 20) if kind == "quantile_lstm" else (20,),
        "hidden": (8,) if kind == "quantile_lstm" else (8, 4),
        "head": 8,
        "level_steps": 4,
        "periods_s": (1800.0,),
    }
    return NetSpec(**{**figures, **changes})


def card_of(spec: NetSpec, name: str = "small") -> ModelCard:
    """Return a card; a reference stack gets a plain residual table."""
    residuals = None
    if spec.kind == "reference_lstm":
        leads = tuple(range(1, spec.lead_steps[-1] + 1))
        spread = tuple(0.3 * (level - 0.5) for level in DEFAULT_LEVELS)
        residuals = ResidualTable(
            lead_steps=leads,
            levels=DEFAULT_LEVELS,
            values=(spread,) * len(leads),
            peaks=tuple(tuple(width + 0.01 * lead for width in spread) for lead in leads),
        )
    facts = TrainingFacts(
        data_digest="d" * 64, code_revision="r" * 40, trained_at=1_700_000_000.0, seed=1, validation={"pinball": 0.5}
    )
    return ModelCard(name=name, spec=spec, training=facts, residuals=residuals)


def write_small_artifact(folder: Path, spec: NetSpec, seed: int = 0) -> Path:
    """Write a seeded, unfitted net and return its folder."""
    import torch

    from forecasting.artifact import write_artifact
    from forecasting.quantile_net import build_net

    torch.manual_seed(seed)
    write_artifact(folder, build_net(spec).state_dict(), card_of(spec))
    return folder


def small_neural(spec: NetSpec) -> Forecaster:
    """Return a forecaster around a seeded, unfitted net."""
    import tempfile

    from forecasting.artifact import load_artifact

    with tempfile.TemporaryDirectory() as scratch:
        return load_artifact(write_small_artifact(Path(scratch) / "net", spec))


@lru_cache(maxsize=1)
def small_trees() -> TreeForecaster:
    """Return trees fitted on another load of the same shape as the contract's, for 20 steps of 15 s."""
    from training.tree_fit import TreeSettings, fit_trees

    spec = TreeSpec(step_s=15.0, lead_steps=(1, 5, 20), levels=DEFAULT_LEVELS)
    load = poisson_series(1500, seed=11, swing_ratio=0.3, period_s=1800.0)
    settings = TreeSettings(trees=30, depth=3, learning_rate=0.15, most_windows=1500)
    return TreeForecaster(fit_trees([load], [len(load)], [0], spec, settings), spec, "small-trees")


def small_combination() -> CombinedForecaster:
    """Return three experts, looked back on for an hour."""
    experts = (LastValueForecaster(), SeasonalNaiveForecaster(1800.0, 300.0), small_trees())
    return CombinedForecaster(experts, replays=48, spacing_s=60.0)


FORECASTERS: dict[str, Callable[[], Forecaster]] = {
    "last-value": lambda: LastValueForecaster(0.0),
    "last-value-60s": lambda: LastValueForecaster(60.0),
    "local-level": LastValueForecaster,
    "ets": ExponentialSmoothingForecaster,
    "ets-season": lambda: ExponentialSmoothingForecaster(period_s=1800.0),
    "seasonal-naive": lambda: SeasonalNaiveForecaster(period_s=1800.0, level_window_s=300.0),
    "kalman-level": KalmanForecaster,
    "kalman-trend": lambda: KalmanForecaster(trend=True),
    "arima": lambda: ArimaForecaster(refit_s=1800.0),
    "arima-season": lambda: ArimaForecaster(period_s=1800.0, refit_s=1800.0),
    "arima-rates": lambda: ArimaForecaster(logs=False, fit_steps=50, refit_s=1800.0),
    "regression": lambda: RegressionForecaster(refit_s=600.0),
    "trees": small_trees,
    "combined": small_combination,
    "quantile-lstm": lambda: small_neural(small_spec("quantile_lstm")),
    "reference-lstm": lambda: small_neural(small_spec("reference_lstm")),
}
"""Every kind of forecaster, for steps of 15 s and up to 20 of them ahead."""

LEARNED = ("quantile-lstm", "reference-lstm", "trees")
"""Those whose spread was learned elsewhere, on another load or (nets) on none, so that it means little here."""
