"""What do several forecasters expect together? Their quantiles, weighted by how good each was lately, then calibrated.

Weights are per workload, channel, kind (rate or maximum) and lead; so is calibration, per level too. Both are functions
of the history alone: the experts' answers at past origins are worked out from it (``past_answers``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from forecasting.calibration import corrections, width_of
from forecasting.combination import expert_weights
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast, Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.past_answers import Past, PastAnswers, ask_all, seen_steps, shown
from forecasting.residuals import futures
from forecasting.series import CHANNELS, REQUESTS, FloatArray, LoadSeries
from forecasting.trust import TrackRecord

# Past origins that weights and calibration rest on, and the seconds between them: two days.
REPLAYS, SPACING_S = 288, 600.0
MOST_KEPT = 300_000


class CombinedForecaster:
    """Experts and their common answer; an expert that cannot answer sleeps.

    Args:
        experts: At least one; any forecasters.
        name: Name in reasons and reports.
        replays: Past origins looked back on.
        spacing_s: Seconds between them.
        most_kept: Answers at past origins kept in all, each 504 bytes an expert at three leads; a fleet of ``W``
            workloads needs ``W * replays``, or everything is asked again at every tick.
        calibrated: Whether bounds are moved to hold as often as they say.
    """

    def __init__(
        self,
        experts: Sequence[Forecaster],
        name: str = "combined",
        replays: int = REPLAYS,
        spacing_s: float = SPACING_S,
        most_kept: int = MOST_KEPT,
        calibrated: bool = True,
    ) -> None:
        if not experts or replays < 1 or not spacing_s > 0:
            raise ValueError("experts must not be empty, replays and spacing_s must be positive")
        self._experts, self._name = tuple(experts), name
        self._replays, self._spacing_s, self._calibrated = replays, spacing_s, calibrated
        self.past = PastAnswers(self._experts, most_kept)
        self._reference = PastAnswers([LastValueForecaster(0.0)], most_kept)

    @property
    def name(self) -> str:
        """Name as given."""
        return self._name

    @property
    def experts(self) -> tuple[Forecaster, ...]:
        """Who is asked."""
        return self._experts

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        """Forecast ``horizon_steps`` steps after ``history.end_at``.

        Raises:
            CannotForecast: If no expert can; the message is the reason of the first.
        """
        (answer,) = self.forecast_many([history], [horizon_steps], levels)
        if isinstance(answer, CannotForecast):
            raise answer
        return answer

    def forecast_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[LoadForecast | CannotForecast]:
        """Return what ``forecast`` returns or raises for each."""
        asked = tuple(sorted({*levels, *DEFAULT_LEVELS}))
        now = [shown(history, len(history)) for history in histories]
        told = [ask_all(expert, now, horizons_steps, asked) for expert in self._experts]
        kept = [asked.index(level) for level in levels]
        answers: list[LoadForecast | CannotForecast] = []
        for place, (history, horizon_steps) in enumerate(zip(histories, horizons_steps, strict=True)):
            said = [expert[place] for expert in told]
            forecasts = [one for one in said if isinstance(one, LoadForecast)]
            if not forecasts:
                answers.append(next(one for one in said if isinstance(one, CannotForecast)))
                continue
            values, peaks = self._mixed(history, horizon_steps, said, asked)
            answers.append(
                LoadForecast.ordered(
                    history.end_at, history.step_s, np.asarray(levels), values[kept], self._name, peaks[kept]
                )
            )
        return answers

    def weights(self, history: LoadSeries, horizon_steps: int) -> tuple[tuple[int, ...], FloatArray]:
        """Return the judged leads, and ``float64[E, 2, L, C]``: who would count how much if all answered now."""
        past = self.past.of(self._recent(history), horizon_steps, self._spacing_s, self._replays)
        actual = _actual(self._recent(history), past)
        columns = (2, len(past.leads), len(CHANNELS))
        awake = np.ones((len(self._experts), int(np.prod(columns))), dtype=bool)
        return past.leads, _weights(past, actual, awake).reshape(-1, *columns)

    def track_record(self, history: LoadSeries, horizon_steps: int, channel: int = REQUESTS) -> TrackRecord:
        """Return how forecasts of the peak at the longest judged lead did lately, for ``trust.trust_in``.

        The newer half of the past origins is judged, with weights and calibration as they were in the middle.
        """
        recent = self._recent(history)
        past = self.past.of(recent, horizon_steps, self._spacing_s, self._replays)
        reference = self._reference.of(recent, horizon_steps, self._spacing_s, self._replays)
        levels, middle = np.asarray(DEFAULT_LEVELS), len(past.origins) // 2
        older = Past(past.origins[:middle], past.leads, past.answers[:, :middle])
        newer = Past(past.origins[middle:], past.leads, past.answers[:, middle:])
        actual = _actual(recent, newer)
        then = _actual(recent.window(0, int(past.origins[middle])) if middle else recent, older)
        awake = np.ones((len(self._experts), actual.shape[1]), dtype=bool)
        weights = _weights(older, then, awake)
        mixed = _mixture(newer, weights)
        if self._calibrated:
            mixed = mixed + _shift(older, then, weights) * width_of(mixed, levels)[:, None]
        column = (2 * len(past.leads) - 1) * len(CHANNELS) + channel
        last = reference.answers[0, middle:, 1, :, -1, channel].astype(np.float64)
        return TrackRecord(np.sort(mixed[:, :, column], axis=1), last, actual[:, column], levels)

    def _recent(self, history: LoadSeries) -> LoadSeries:
        """Return what any past origin can look at."""
        return history.tail(
            seen_steps(history.step_s) + self._replays * max(1, round(self._spacing_s / history.step_s))
        )

    def _mixed(
        self,
        history: LoadSeries,
        horizon_steps: int,
        said: Sequence[LoadForecast | CannotForecast],
        asked: tuple[float, ...],
    ) -> tuple[FloatArray, FloatArray]:
        """Return ``float64[len(asked), H, C]`` of rates and of maxima."""
        recent = self._recent(history)
        past = self.past.of(recent, horizon_steps, self._spacing_s, self._replays)
        actual = _actual(recent, past)
        columns = (2, len(past.leads), len(CHANNELS))
        able = np.array([isinstance(one, LoadForecast) for one in said])
        weights = _weights(past, actual, np.repeat(able[:, None], int(np.prod(columns)), axis=1))
        between = _between(past.leads, horizon_steps)  # [H, L]
        shares = np.einsum("hl,eklc->ekhc", between, weights.reshape(-1, *columns))
        now = np.stack(
            [
                np.stack([one.values, one.peaks])
                if isinstance(one, LoadForecast)
                else np.zeros((2, len(asked), horizon_steps, len(CHANNELS)))
                for one in said
            ]
        )
        mixed = np.einsum("ekhc,ekqhc->kqhc", shares, now)
        if self._calibrated and len(past.origins):
            shift = _shift(past, actual, weights).reshape(len(DEFAULT_LEVELS), *columns)
            of_levels = _levels(asked)
            moved = np.einsum("aq,hl,qklc->kahc", of_levels, between, shift, optimize=True)
            width = width_of(mixed.transpose(0, 2, 1, 3), np.asarray(asked))  # [2, H, C]
            mixed = mixed + moved * width[:, None]
        return mixed[0], mixed[1]


def _actual(history: LoadSeries, past: Past) -> FloatArray:
    """Return ``float64[K, M]``: what followed each origin at the judged leads, rates and then maxima."""
    after = futures(history.values, past.origins, past.leads[-1])
    at = np.array(past.leads) - 1
    both = np.stack([after.rates[:, at], after.largest[:, at]], axis=1)
    return np.ascontiguousarray(both.reshape(len(past.origins), 2 * len(at) * len(CHANNELS)))


def _answers(past: Past) -> FloatArray:
    """Return ``float64[E, K, Q, M]``."""
    experts, replays, _, levels = past.answers.shape[:4]
    return past.answers.astype(np.float64).transpose(0, 1, 3, 2, 4, 5).reshape(experts, replays, levels, -1)


def _weights(past: Past, actual: FloatArray, awake: np.ndarray) -> FloatArray:
    return expert_weights(_answers(past), actual, np.asarray(DEFAULT_LEVELS), awake)


def _shift(past: Past, actual: FloatArray, weights: FloatArray) -> FloatArray:
    """Return ``float64[Q, M]``: what the mixture of now would have had to be moved by lately, in its widths."""
    return corrections(_mixture(past, weights), actual, np.asarray(DEFAULT_LEVELS))


def _mixture(past: Past, weights: FloatArray) -> FloatArray:
    """Return ``float64[K, Q, M]``: what experts with these weights said together; NaN where most of them slept."""
    answers = _answers(past)
    there = np.isfinite(answers).all(axis=2)  # [E, K, M]
    shares = np.where(there, weights[:, None], 0.0)
    total = shares.sum(axis=0)
    mixed = np.einsum("ekm,ekqm->kqm", shares / np.maximum(total, 1e-300), np.where(there[:, :, None], answers, 0.0))
    # Where those that count now slept, the rest says nothing about how this mixture does.
    return np.where((total > 0.5)[:, None], mixed, np.nan)


def _between(leads: tuple[int, ...], horizon_steps: int) -> FloatArray:
    """Return ``float64[H, L]``: weights of linear interpolation between judged leads, flat outside."""
    steps = np.arange(1.0, horizon_steps + 1)
    return np.stack([np.interp(steps, leads, unit) for unit in np.eye(len(leads))], axis=1)


def _levels(asked: Sequence[float]) -> FloatArray:
    """Return ``float64[A, Q]``: interpolation from ``DEFAULT_LEVELS`` along normal scores."""
    known, wanted = ndtri(DEFAULT_LEVELS), ndtri(asked)
    return np.stack([np.interp(wanted, known, unit) for unit in np.eye(len(known))], axis=1)
