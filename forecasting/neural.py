"""What does a fitted net expect: a forecaster around loaded weights.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import torch
from scipy.special import ndtri
from torch import nn

from forecasting.artifact import ArtifactManifest, ResidualTable
from forecasting.features import NetSpec, WindowTensors, present_windows, rates_of
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.quantile_net import NetAnswer
from forecasting.series import CHANNELS, FloatArray, LoadSeries
from forecasting.threads import one_thread

# A net has learned to read through a few gaps, not to invent half of what it reads.
MIN_OBSERVED_RATIO = 0.7
# Beyond this share of the context without any observation the "last" level is not the last any more.
MAX_BLIND_RATIO = 0.1
# Histories read at once: their inputs fit the processor's cache.
SIDE_BY_SIDE = 256
ROWS = 192
# Blocks of histories worked out at the same time, as far as there are cores.
WORKERS = 2
SHORTEST_STEP_S = 5.0


class NeuralForecaster:
    """A net, its manifest and nothing else: the same history always gives the same forecast.

    A history of shorter steps is averaged to the model's step when that is a whole multiple; its forecast then
    repeats the rate of each long step, so the quantiles are those of means over the model's step.
    """

    def __init__(self, net: nn.Module, manifest: ArtifactManifest) -> None:
        self._net = net.eval()
        self._spec = manifest.card.spec
        self._residuals = manifest.card.residuals
        # A product with a single output, as the reference stack ends in, is rounded by its place in the batch.
        self._side_by_side = 1 if self._spec.kind == "reference_lstm" else SIDE_BY_SIDE
        self._name = f"{manifest.card.name}@{manifest.version}"
        self.manifest = manifest

    @property
    def name(self) -> str:
        """Model name and the first digits of its manifest's digest."""
        return self._name

    @property
    def fitted_until(self) -> float:
        """End of the load that it learned from, Unix seconds; minus infinity where its manifest does not say."""
        until = self.manifest.card.training.fitted_until
        return -math.inf if until is None else until

    @property
    def min_history_steps(self) -> int:
        """Steps of the model's length that a forecast needs; what is missing of context and seasons is masked."""
        return self._spec.least_steps

    @property
    def most_steps(self) -> int:
        """Newest steps of a history that it looks at, if those are of ``SHORTEST_STEP_S`` or longer."""
        return self._spec.most_steps * max(1, math.ceil(self._spec.step_s / SHORTEST_STEP_S))

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If the history is too short, too gappy or of another step, more leads or levels are asked
                than the net answers, or its answer is not finite.
        """
        (answer,) = self.forecast_many([history], [horizon_steps], levels)
        if isinstance(answer, CannotForecast):
            raise answer
        return answer

    def forecast_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[LoadForecast | CannotForecast]:
        """Return what ``forecast`` returns or raises for each, bit by bit; the net reads them side by side."""
        alike: dict[tuple[float, int], list[int]] = {}
        for place, (history, horizon_steps) in enumerate(zip(histories, horizons_steps, strict=True)):
            alike.setdefault((history.step_s, horizon_steps), []).append(place)
        blocks = [
            (places[first : first + self._side_by_side], step_s, horizon_steps)
            for (step_s, horizon_steps), places in alike.items()
            for first in range(0, len(places), self._side_by_side)
        ]

        def told(block: tuple[list[int], float, int]) -> Sequence[LoadForecast | CannotForecast]:
            places, step_s, horizon_steps = block
            return self._told([histories[place] for place in places], step_s, horizon_steps, levels)

        with one_thread():
            if len(blocks) > 1:
                with ThreadPoolExecutor(WORKERS) as pool:
                    parts = [*pool.map(told, blocks)]
            else:
                parts = [told(block) for block in blocks]
        by_place = {
            place: answer
            for (places, _, _), part in zip(blocks, parts, strict=True)
            for place, answer in zip(places, part, strict=True)
        }
        return [by_place[place] for place in range(len(histories))]

    def _told(
        self, histories: Sequence[LoadSeries], step_s: float, horizon_steps: int, levels: Sequence[float]
    ) -> Sequence[LoadForecast | CannotForecast]:
        """Answer for histories of one step and one horizon."""
        spec = self._spec
        try:
            factor = _steps_per_model_step(step_s, spec.step_s)
            model_steps = self._model_steps(horizon_steps, factor, levels)
        except CannotForecast as reason:
            return [reason] * len(histories)
        series = [*histories] if factor == 1 else [_at_model_step(one, factor, spec.step_s) for one in histories]
        least = spec.least_steps
        told: list[LoadForecast | CannotForecast] = [CannotForecast("not asked")] * len(series)
        lengths = [len(one) for one in series]
        long = [place for place, steps in enumerate(lengths) if steps >= least]
        if len(long) < len(series):
            told = [CannotForecast(f"history has {steps} of the {least} steps the net reads") for steps in lengths]
        if not long:
            return told
        windows = present_windows([series[place] for place in long], spec)
        answer = run_net(self._net, windows, ROWS if self._side_by_side > 1 else None)
        reasons = [*_unfit(spec, windows, answer)]
        whole = [row for row, reason in enumerate(reasons) if reason is None]
        for place, refusal in zip(long, reasons, strict=True):
            told[place] = refusal or told[place]
        if not whole:
            return told
        values, peaks = (
            self._asked(part, len(long), model_steps, levels) for part in self._rates(windows, answer, model_steps)
        )
        repeats = np.repeat(np.arange(model_steps), factor)[:horizon_steps]
        if len(whole) < len(long) or factor > 1:
            values, peaks = (part[whole][:, :, repeats] for part in (values, peaks))
        made_at = [histories[long[row]].end_at for row in whole]
        built = LoadForecast.ordered_many(
            made_at, step_s, np.asarray(levels, dtype=np.float64), values, peaks, self._name
        )
        for row, forecast in zip(whole, built, strict=True):
            told[long[row]] = forecast
        return told

    def _model_steps(self, horizon_steps: int, factor: int, levels: Sequence[float]) -> int:
        """Return the steps of the model that cover the horizon, after refusing what it cannot answer."""
        spec = self._spec
        model_steps = -(-horizon_steps // factor)
        if not 1 <= model_steps <= spec.lead_steps[-1]:
            raise CannotForecast(
                f"asked for {model_steps} steps of {spec.step_s:g} s, fitted for {spec.lead_steps[-1]}"
            )
        known = self._levels
        if not known[0] - 1e-9 <= min(levels) <= max(levels) <= known[-1] + 1e-9:
            raise CannotForecast(f"asked for levels {tuple(levels)}, fitted for {known[0]:g} to {known[-1]:g}")
        return model_steps

    @property
    def _levels(self) -> tuple[float, ...]:
        return self._residuals.levels if self._residuals is not None else self._spec.levels

    def _rates(self, windows: WindowTensors, answer: NetNumbers, steps: int) -> NetNumbers:
        """Return rates of values and peaks, ``float64[B, steps, K]``, at the levels the net knows."""
        if self._residuals is not None:
            return _around_mean(self._spec, windows, answer[0][:, 0, 0], self._residuals, steps)
        grid = np.asarray(self._spec.lead_steps, dtype=np.float64)
        weights = _interpolation(grid, np.arange(1, steps + 1, dtype=np.float64))
        values, peaks = (rates_of(self._spec, part, windows) for part in answer)
        return np.matmul(weights, values), np.matmul(weights, peaks)

    def _asked(self, rates: FloatArray, histories: int, steps: int, levels: Sequence[float]) -> FloatArray:
        """Return ``float64[N, Q, steps, C]`` at ``levels`` from ``float64[N * C, steps, K]``."""
        if tuple(levels) != self._levels:
            rates = np.matmul(rates, _level_weights(self._levels, levels).T)
        return np.ascontiguousarray(rates.reshape(histories, len(CHANNELS), steps, -1).transpose(0, 3, 2, 1))


NetNumbers: TypeAlias = tuple[FloatArray, FloatArray]


def _unfit(spec: NetSpec, windows: WindowTensors, answer: NetNumbers) -> Iterator[CannotForecast | None]:
    """Yield, per history, why there is no answer for it, or None."""
    channels = len(CHANNELS)
    blind = max(1, int(MAX_BLIND_RATIO * spec.context_steps))
    values, peaks = answer
    finite = np.isfinite(values).all(axis=(1, 2)) & np.isfinite(peaks).all(axis=(1, 2))
    gappy, stale = windows.observed_ratio < MIN_OBSERVED_RATIO, windows.blind_steps >= blind
    unfit = gappy | stale | ~finite
    for number, refused in enumerate(np.any(unfit.reshape(-1, channels), axis=1)):
        if not refused:
            yield None
            continue
        first = number * channels
        row = first + int(np.argmax(unfit[first : first + channels]))
        name = CHANNELS[row - first]
        if gappy[row]:
            observed, steps = windows.observed_ratio[row], spec.context_steps
            yield CannotForecast(f"{name} was observed in {observed:.0%} of the last {steps} steps")
        elif stale[row]:
            yield CannotForecast(f"{name} was not observed in the last {blind} steps")
        else:
            yield CannotForecast("the net answered with rates that are not finite")


def _at_model_step(history: LoadSeries, factor: int, step_s: float) -> LoadSeries:
    return history.window(len(history) % factor, len(history)).resampled(step_s)


def run_net(net: nn.Module, windows: WindowTensors, rows_at_once: int | None = None) -> NetNumbers:
    """Return the net's answer for every window, ``float64[B, L, Q]`` for values and for peaks, in delta space.

    With ``rows_at_once`` it reads just so many at a time, the last ones padded: another number of rows may go through
    other routines of the linear algebra, with other roundings.
    """
    rows = len(windows)
    size = rows_at_once or max(rows, 1)
    shape = -(-rows // size) * size
    context = np.zeros((shape, *windows.context.shape[1:]), dtype=np.float32)
    static = np.zeros((shape, windows.static.shape[1]), dtype=np.float32)
    context[:rows], static[:rows] = windows.context, windows.static
    parts: list[NetAnswer] = []
    with torch.inference_mode():
        for first in range(0, shape, size):
            block = slice(first, first + size)
            parts.append(net(torch.from_numpy(context[block]), torch.from_numpy(static[block])))
    values = np.concatenate([part.values.numpy() for part in parts])
    peaks = np.concatenate([part.peaks.numpy() for part in parts])
    return values[:rows].astype(np.float64), peaks[:rows].astype(np.float64)


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
