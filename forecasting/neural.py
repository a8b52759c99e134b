"""What does a fitted net expect: a forecaster around loaded weights.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import ndtri
from torch import nn

from forecasting.artifact import ArtifactManifest, ResidualTable
from forecasting.features import NetSpec, WindowTensors, rates_of, window_tensors
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.quantile_net import NetAnswer
from forecasting.series import CHANNELS, FloatArray, LoadSeries

# A net has learned to read through a few gaps, not to invent half of what it reads.
MIN_OBSERVED_RATIO = 0.7
# Beyond this share of the context without any observation the "last" level is not the last any more.
MAX_BLIND_RATIO = 0.1


class NeuralForecaster:
    """A net, its manifest and nothing else: the same history always gives the same forecast.

    A history of shorter steps is averaged to the model's step when that is a whole multiple; its forecast then
    repeats the rate of each long step, so the quantiles are those of means over the model's step.
    """

    def __init__(self, net: nn.Module, manifest: ArtifactManifest) -> None:
        self._net = net.eval()
        self._spec = manifest.card.spec
        self._residuals = manifest.card.residuals
        self._name = f"{manifest.card.name}@{manifest.version}"
        self.manifest = manifest

    @property
    def name(self) -> str:
        """Model name and the first digits of its manifest's digest."""
        return self._name

    @property
    def min_history_steps(self) -> int:
        """Steps of the model's length that a forecast needs; seasons need their period on top to be seen."""
        return self._spec.context_steps

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If the history is too short, too gappy or of another step, more leads or levels are asked
                than the net answers, or its answer is not finite.
        """
        spec = self._spec
        factor = _steps_per_model_step(history.step_s, spec.step_s)
        model_steps = -(-horizon_steps // factor)
        if not 1 <= model_steps <= spec.lead_steps[-1]:
            raise CannotForecast(
                f"asked for {model_steps} steps of {spec.step_s:g} s, fitted for {spec.lead_steps[-1]}"
            )
        known = self._residuals.levels if self._residuals is not None else spec.levels
        if not known[0] - 1e-9 <= min(levels) <= max(levels) <= known[-1] + 1e-9:
            raise CannotForecast(f"asked for levels {tuple(levels)}, fitted for {known[0]:g} to {known[-1]:g}")
        series = history
        if factor > 1:
            series = history.window(len(history) % factor, len(history)).resampled(spec.step_s)
        windows = self._windows(series)
        values, peaks = self._quantiles(windows, model_steps)
        if not (np.isfinite(values).all() and np.isfinite(peaks).all()):
            raise CannotForecast("the net answered with rates that are not finite")
        at_levels = _level_weights(known, levels)
        repeats = np.repeat(np.arange(model_steps), factor)[:horizon_steps]
        return LoadForecast.ordered(
            made_at=history.end_at,
            step_s=history.step_s,
            levels=np.asarray(levels, dtype=np.float64),
            values=np.einsum("qk,chk->qhc", at_levels, values)[:, repeats],
            source=self._name,
            peaks=np.einsum("qk,chk->qhc", at_levels, peaks)[:, repeats],
        )

    def _windows(self, series: LoadSeries) -> WindowTensors:
        spec = self._spec
        if len(series) < spec.context_steps:
            raise CannotForecast(f"history has {len(series)} of the {spec.context_steps} steps the net reads")
        context = np.isfinite(series.values[-spec.context_steps :])
        blind = max(1, int(MAX_BLIND_RATIO * spec.context_steps))
        for column, name in enumerate(CHANNELS):
            observed = float(context[:, column].mean())
            if observed < MIN_OBSERVED_RATIO:
                raise CannotForecast(f"{name} was observed in {observed:.0%} of the last {spec.context_steps} steps")
            if not context[-blind:, column].any():
                raise CannotForecast(f"{name} was not observed in the last {blind} steps")
        return window_tensors(series, spec, [len(series)], CHANNELS)

    def _quantiles(self, windows: WindowTensors, steps: int) -> tuple[FloatArray, FloatArray]:
        """Return rates of values and peaks, ``float64[C, steps, K]``, at the levels the net knows."""
        answer = run_net(self._net, windows)
        if self._residuals is not None:
            return _around_mean(self._spec, windows, answer[0][:, 0, 0], self._residuals, steps)
        grid = np.asarray(self._spec.lead_steps, dtype=np.float64)
        weights = _interpolation(grid, np.arange(1, steps + 1, dtype=np.float64))
        values, peaks = (rates_of(self._spec, part, windows) for part in answer)
        return np.einsum("hl,clk->chk", weights, values), np.einsum("hl,clk->chk", weights, peaks)


def run_net(net: nn.Module, windows: WindowTensors) -> tuple[FloatArray, FloatArray]:
    """Return the net's answer for every window, ``float64[B, L, Q]`` for values and for peaks, in delta space."""
    with torch.inference_mode():
        answer: NetAnswer = net(torch.from_numpy(windows.context), torch.from_numpy(windows.static))
    return answer.values.numpy().astype(np.float64), answer.peaks.numpy().astype(np.float64)


def mean_path(spec: NetSpec, windows: WindowTensors, answer: FloatArray, steps: int) -> FloatArray:
    """Return ``float64[B, steps]``: rates on the straight way from the last level to the mean at the one lead.

    ``answer`` is ``float64[B]``, what a reference stack said.
    """
    share = np.arange(1, steps + 1) / spec.lead_steps[-1]
    return rates_of(spec, answer[:, None] * share[None, :], windows)


def residual_table(
    spec: NetSpec, windows: WindowTensors, answer: FloatArray, levels: Sequence[float] = DEFAULT_LEVELS
) -> ResidualTable:
    """Return the quantiles around the mean path that a reference stack needs, measured on validation windows.

    Args:
        spec: Spec of the reference stack, with its one lead ``lead``.
        windows: Validation windows built with ``lead_steps=range(1, lead + 1)``.
        answer: ``float64[B]``: what the net said for them (``run_net(net, windows)[0][:, 0, 0]``).
        levels: Levels of the table.

    Raises:
        ValueError: If the windows have other leads, or fewer than 30 of them are recorded.
    """
    lead = spec.lead_steps[-1]
    if windows.target.shape[1] != lead:
        raise ValueError(f"windows have {windows.target.shape[1]} targets, the table needs each of {lead} leads")
    path = mean_path(spec, windows, answer, lead)
    rows = []
    for target, point in ((windows.target, path), (windows.target_peak, np.maximum.accumulate(path, axis=1))):
        actual = np.where(np.isfinite(target), rates_of(spec, np.nan_to_num(target), windows), np.nan)
        ratio = np.log((actual + windows.offset[:, None]) / (point + windows.offset[:, None]))
        if np.isfinite(ratio).sum(axis=0).min() < 30:
            raise ValueError("fewer than 30 validation windows are recorded to the end")
        quantiles = np.nanquantile(ratio, np.asarray(levels), axis=0).T
        rows.append(tuple(tuple(float(value) for value in row) for row in quantiles))
    return ResidualTable(lead_steps=tuple(range(1, lead + 1)), levels=tuple(levels), values=rows[0], peaks=rows[1])


def _around_mean(
    spec: NetSpec, windows: WindowTensors, answer: FloatArray, residuals: ResidualTable, steps: int
) -> tuple[FloatArray, FloatArray]:
    path = mean_path(spec, windows, answer, steps)
    weights = _interpolation(np.asarray(residuals.lead_steps, dtype=np.float64), np.arange(1.0, steps + 1))
    parts = []
    for point, table in ((path, residuals.values), (np.maximum.accumulate(path, axis=1), residuals.peaks)):
        ratio = np.exp(weights @ np.asarray(table, dtype=np.float64))
        offset = windows.offset[:, None, None]
        parts.append(np.maximum((point[:, :, None] + offset) * ratio[None] - offset, 0.0))
    return parts[0], parts[1]


def _steps_per_model_step(history_step_s: float, model_step_s: float) -> int:
    factor = round(model_step_s / history_step_s)
    if factor < 1 or abs(factor * history_step_s - model_step_s) > 1e-6 * model_step_s:
        raise CannotForecast(f"history has steps of {history_step_s:g} s, the net was fitted on {model_step_s:g} s")
    return factor


def _interpolation(known: FloatArray, wanted: FloatArray) -> FloatArray:
    """Return ``float64[len(wanted), len(known)]``: weights of linear interpolation, flat outside ``known``."""
    return np.stack([np.interp(wanted, known, unit) for unit in np.eye(len(known))], axis=1)


def _level_weights(known: Sequence[float], wanted: Sequence[float]) -> FloatArray:
    """Interpolate between levels on the normal score, where quantiles of most loads are nearly straight."""
    return _interpolation(ndtri(np.asarray(known)), ndtri(np.asarray(wanted, dtype=np.float64)))
