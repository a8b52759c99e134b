"""What do boosted quantile trees expect? Plain arrays of splits and answers, evaluated for many windows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from forecasting.features import IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.residuals import check_history
from forecasting.series import CHANNELS, FloatArray, LoadSeries
from forecasting.spikes import without_spikes
from forecasting.tree_features import Float32Array, TreeSpec, tree_windows

MIN_STEPS = 32
# Windows evaluated at once: 16 MB of answers of 120 trees.
_CHUNK = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Symmetric trees per lead; with ``L`` leads, ``T`` trees, depth ``D`` and ``Q`` levels.

    Attributes:
        first: ``float32[L, 2 Q]``: answer before any tree, log changes of the rate and then of the maximum.
        feature: ``int32[L, T, D]``: input that each question looks at.
        threshold: ``float32[L, T, D]``: yes when the input is above it; an input that is NaN is not.
        leaf: ``float32[L, T, 2^D, 2 Q]``: what is added, by the yeses as a binary number, first question lowest.
    """

    first: Float32Array
    feature: npt.NDArray[np.int32]
    threshold: Float32Array
    leaf: Float32Array

    def answer(self, lead: int, inputs: Float32Array) -> Float32Array:
        """Return ``float32[N, 2 Q]`` of the lead in place ``lead`` for ``inputs`` (``float32[N, F]``)."""
        trees, depth = self.feature.shape[1:]
        weights = 1 << np.arange(depth, dtype=np.int64)
        each = np.arange(trees)[None, :]
        answers = np.empty((len(inputs), self.first.shape[1]), dtype=np.float32)
        for begin in range(0, len(inputs), _CHUNK):
            part = inputs[begin : begin + _CHUNK]
            yes = part[:, self.feature[lead].reshape(-1)] > self.threshold[lead].reshape(-1)
            place = yes.reshape(len(part), trees, depth) @ weights
            answers[begin : begin + _CHUNK] = self.first[lead] + self.leaf[lead][each, place].sum(axis=1)
        return answers


class TreeForecaster:
    """Boosted trees that answer quantiles of the rate and of the maximum at their leads.

    Between two leads, and before the first one, the log change is interpolated along the square root of the lead.

    Args:
        trees: What was fitted.
        spec: What it was fitted for.
        name: Name and version.
        fitted_until: End of the load that it was fitted on, Unix seconds.
    """

    def __init__(self, trees: Trees, spec: TreeSpec, name: str = "trees", fitted_until: float = float("-inf")) -> None:
        self._trees, self._spec, self._name, self._fitted_until = trees, spec, name, fitted_until

    @property
    def name(self) -> str:
        """Name and version."""
        return self._name

    @property
    def fitted_until(self) -> float:
        """End of the load that it was fitted on, Unix seconds: what it says about earlier load proves nothing."""
        return self._fitted_until

    @property
    def most_steps(self) -> int:
        """Newest steps that it looks at."""
        return self._spec.most_steps

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If the history is shorter than 32 steps, too gappy or of another step, or more leads or
                levels are asked than were fitted.
        """
        (answer,) = self.forecast_many([history], [horizon_steps], levels)
        if isinstance(answer, CannotForecast):
            raise answer
        return answer

    def forecast_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[LoadForecast | CannotForecast]:
        """Return what ``forecast`` returns or raises for each; those of one length are worked out side by side."""
        answers: list[LoadForecast | CannotForecast] = [CannotForecast("not asked")] * len(histories)
        alike: dict[int, list[tuple[int, LoadSeries]]] = {}
        for place, (history, horizon_steps) in enumerate(zip(histories, horizons_steps, strict=True)):
            recent = without_spikes(history.tail(self.most_steps))
            try:
                self._check(recent, horizon_steps, levels)
            except CannotForecast as reason:
                answers[place] = reason
            else:
                alike.setdefault(len(recent), []).append((place, recent))
        for steps, found in alike.items():
            side_by_side = max(1, _CHUNK // (len(CHANNELS) * max(1, steps // 512)))
            for begin in range(0, len(found), side_by_side):
                places, part = zip(*found[begin : begin + side_by_side], strict=True)
                quantiles = self._quantiles(part, [horizons_steps[place] for place in places], levels)
                for place, history, (values, peaks) in zip(places, part, quantiles, strict=True):
                    answers[place] = LoadForecast.ordered(
                        history.end_at, history.step_s, np.asarray(levels), values, self._name, peaks
                    )
        return answers

    def _check(self, recent: LoadSeries, horizon_steps: int, levels: Sequence[float]) -> None:
        spec = self._spec
        if abs(recent.step_s - spec.step_s) > 1e-6 * spec.step_s:
            raise CannotForecast(f"history has steps of {recent.step_s:g} s, the trees were fitted on {spec.step_s:g}")
        if not 1 <= horizon_steps <= spec.lead_steps[-1]:
            raise CannotForecast(f"asked for {horizon_steps} steps, fitted for {spec.lead_steps[-1]}")
        if not spec.levels[0] - 1e-9 <= min(levels) <= max(levels) <= spec.levels[-1] + 1e-9:
            raise CannotForecast(
                f"asked for levels {tuple(levels)}, fitted for {spec.levels[0]:g} to {spec.levels[-1]:g}"
            )
        check_history(recent, MIN_STEPS)

    def _quantiles(
        self, alike: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float]
    ) -> list[tuple[FloatArray, FloatArray]]:
        """Return ``float64[Q, H, C]`` of values and of peaks for each of ``alike``: histories of one length."""
        spec, channels = self._spec, len(CHANNELS)
        values = np.concatenate([history.values for history in alike], axis=1)
        origins: IntArray = np.array([len(values)], dtype=np.int64)
        windows = tree_windows(values, [history.start_at for history in alike], spec, origins, channels)
        nothing = np.zeros((len(windows.level), self._trees.first.shape[1]))
        change: list[FloatArray] = [
            nothing,
            *(self._trees.answer(lead, inputs).astype(np.float64) for lead, inputs in enumerate(windows.inputs)),
        ]
        between = _weights(np.sqrt([0.0, *spec.lead_steps]), np.sqrt(np.arange(1.0, max(horizons_steps) + 1)))
        of_levels = _weights(ndtri(spec.levels), ndtri(np.asarray(levels, dtype=np.float64)))
        answered = np.stack(change, axis=1).reshape(len(windows.level), -1, 2, len(spec.levels))
        rates = windows.rates(np.einsum("hl,nlkq,pq->nkph", between, answered, of_levels, optimize=True))
        known = rates.reshape(len(alike), channels, 2, len(levels), -1).transpose(0, 2, 3, 4, 1)
        return [(known[place, 0, :, :steps], known[place, 1, :, :steps]) for place, steps in enumerate(horizons_steps)]


def _weights(known: FloatArray, wanted: FloatArray) -> FloatArray:
    """Return ``float64[len(wanted), len(known)]``: weights of linear interpolation."""
    return np.stack([np.interp(wanted, known, unit) for unit in np.eye(len(known))], axis=1)
