"""What do several forecasters expect together? Their quantiles, weighted by how good each was lately, then calibrated.

Weights are per workload, channel, kind (rate or maximum) and lead; so is calibration, per level too. Both are functions
of the history alone: the experts' answers at past origins are worked out from it (``past_answers``).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from forecasting.calibration import corrections, width_of
from forecasting.combination import expert_weights
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast, Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.past_answers import Fitted, Past, PastAnswers, ask_all, judged_leads, seen_steps, shown
from forecasting.residuals import futures
from forecasting.series import CHANNELS, REQUESTS, FloatArray, LoadSeries
from forecasting.trust import TrackRecord

# Past origins that weights and calibration rest on, and the seconds between them: two days.
REPLAYS, SPACING_S = 288, 600.0
MOST_KEPT = 300_000
ALL_STEPS = 1_000_000_000
# An expert that was fitted to this load begins with so many times the weight of one that only smooths it.
FITTED_PRIOR = 3.0
# Workloads whose records are gone through at once: 40 MB at five experts and three leads.
_SIDE_BY_SIDE = 32

_Told = Sequence[LoadForecast | CannotForecast]


@dataclass(frozen=True, slots=True, eq=False)
class _Judgement:
    """What the record of one workload asks for: ``float64[E, 2, L, C]``, and ``float64[Q, 2, L, C]`` in widths."""

    weights: FloatArray
    shift: FloatArray


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
        most_asked: Answers at past origins that one call of ``forecast_many`` works out at most, over all histories;
            ``track_record`` works out none then. A fleet that has just been started spreads looking back over many
            ticks, its newest past first; until it is done, weights, calibration and trust rest on less. Without a
            limit a forecast is a function of the history alone.
    """

    def __init__(
        self,
        experts: Sequence[Forecaster],
        name: str = "combined",
        replays: int = REPLAYS,
        spacing_s: float = SPACING_S,
        most_kept: int = MOST_KEPT,
        calibrated: bool = True,
        most_asked: int | None = None,
    ) -> None:
        if not experts or replays < 1 or not spacing_s > 0 or (most_asked is not None and most_asked < 1):
            raise ValueError("experts must not be empty; replays, spacing_s and most_asked must be positive")
        self._experts, self._name = tuple(experts), name
        self._replays, self._spacing_s, self._calibrated = replays, spacing_s, calibrated
        self._most_asked, self._most_judged = most_asked, max(1, most_kept // replays)
        self._prior = np.array([FITTED_PRIOR if isinstance(one, Fitted) else 1.0 for one in self._experts])
        self._judged: OrderedDict[bytes, _Judgement] = OrderedDict()
        self.past = PastAnswers(self._experts, most_kept)
        self._reference = PastAnswers([LastValueForecaster(0.0)], most_kept)

    @property
    def name(self) -> str:
        """Name as given."""
        return self._name

    @property
    def most_steps(self) -> int:
        """Newest steps that it looks at: all there are, since how many days back is a matter of their length."""
        return ALL_STEPS

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
        said = [[expert[place] for expert in told] for place in range(len(histories))]
        able = [place for place, one in enumerate(said) if any(isinstance(each, LoadForecast) for each in one)]
        answers: list[LoadForecast | CannotForecast] = [
            next((each for each in one if isinstance(each, CannotForecast)), CannotForecast("not asked"))
            for one in said
        ]
        judgements = self._judgements(
            [histories[place] for place in able],
            [horizons_steps[place] for place in able],
            [np.array([isinstance(each, LoadForecast) for each in said[place]]) for place in able],
        )
        for place, judgement in zip(able, judgements, strict=True):
            history, horizon_steps = histories[place], horizons_steps[place]
            values, peaks = self._mixed(said[place], judgement, horizon_steps, asked)
            answers[place] = LoadForecast.ordered(
                history.end_at, history.step_s, np.asarray(levels), values[kept], self._name, peaks[kept]
            )
        return answers

    def weights(self, history: LoadSeries, horizon_steps: int) -> tuple[tuple[int, ...], FloatArray]:
        """Return the judged leads, and ``float64[E, 2, L, C]``: who would count how much if all answered now."""
        awake = np.ones(len(self._experts), dtype=bool)
        (judgement,) = self._judgements([history], [horizon_steps], [awake])
        return judged_leads(horizon_steps), judgement.weights

    def track_record(self, history: LoadSeries, horizon_steps: int, channel: int = REQUESTS) -> TrackRecord:
        """Return how forecasts of the peak at the longest judged lead did lately, for ``trust.trust_in``.

        The newer half of the past origins is judged, with weights and calibration as they were in the middle.
        """
        recent, most_asked = self._recent(history), None if self._most_asked is None else 0
        past, reference = (
            of.of_many([recent], [horizon_steps], self._spacing_s, self._replays, most_asked)[0]
            for of in (self.past, self._reference)
        )
        levels, middle = np.asarray(DEFAULT_LEVELS), len(past.origins) // 2
        older = Past(past.origins[:middle], past.leads, past.answers[:, :middle])
        newer = Past(past.origins[middle:], past.leads, past.answers[:, middle:])
        then = _actual(recent.window(0, int(past.origins[middle])) if middle else recent, older)
        (judgement,) = self._judged_by([older], [then], np.ones((len(self._experts), 1), dtype=bool))
        actual = _actual(recent, newer)
        mixed = _mixture(_answers(newer), judgement.weights.reshape(len(self._experts), -1))
        mixed = mixed + judgement.shift.reshape(len(levels), -1) * width_of(mixed, levels)[:, None]
        column = (2 * len(past.leads) - 1) * len(CHANNELS) + channel
        last = reference.answers[0, middle:, 1, :, -1, channel].astype(np.float64)
        overlap = past.leads[-1] / float(np.diff(past.origins[:2]).max(initial=1))
        return TrackRecord(np.sort(mixed[:, :, column], axis=1), last, actual[:, column], levels, overlap)

    def _recent(self, history: LoadSeries) -> LoadSeries:
        """Return what any past origin can look at."""
        return history.tail(
            seen_steps(history.step_s) + self._replays * max(1, round(self._spacing_s / history.step_s))
        )

    def _judgements(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], awake: Sequence[npt.NDArray[np.bool_]]
    ) -> list[_Judgement]:
        """Return what the record of each workload asks for; what was judged before is looked up."""
        recent = [self._recent(history) for history in histories]
        pasts = self.past.of_many(recent, horizons_steps, self._spacing_s, self._replays, self._most_asked)
        if self._most_asked is not None:
            # What trust will be measured by; in time, since ``track_record`` may ask for nothing.
            self._reference.of_many(recent, horizons_steps, self._spacing_s, self._replays, self._most_asked)
        actual = [_actual(*one) for one in zip(recent, pasts, strict=True)]
        keys = [
            hashlib.blake2b(repr((past.digest, past.leads)).encode() + able.tobytes() + came.tobytes()).digest()
            for past, able, came in zip(pasts, awake, actual, strict=True)
        ]
        found: dict[int, _Judgement] = {}
        alike: dict[tuple[int, int], list[int]] = {}
        for place, (key, past) in enumerate(zip(keys, pasts, strict=True)):
            if key in self._judged:
                self._judged.move_to_end(key)
                found[place] = self._judged[key]
            else:
                alike.setdefault((len(past.leads), len(past.origins)), []).append(place)
        for places in alike.values():
            for first in range(0, len(places), _SIDE_BY_SIDE):
                part = places[first : first + _SIDE_BY_SIDE]
                able = np.stack([awake[place] for place in part], axis=1)
                judged = self._judged_by([pasts[place] for place in part], [actual[place] for place in part], able)
                for place, judgement in zip(part, judged, strict=True):
                    found[place] = self._judged[keys[place]] = judgement
        while len(self._judged) > self._most_judged:
            self._judged.popitem(last=False)
        return [found[place] for place in range(len(histories))]

    def _judged_by(
        self, pasts: Sequence[Past], actual: Sequence[FloatArray], awake: npt.NDArray[np.bool_]
    ) -> list[_Judgement]:
        """Return the judgement of each workload; all have as many origins and leads. ``awake`` is ``bool[E, W]``."""
        experts, levels = len(self._experts), np.asarray(DEFAULT_LEVELS)
        shape = (2, len(pasts[0].leads), len(CHANNELS))
        answers = np.stack([_answers(past) for past in pasts], axis=3)  # [E, K, Q, W, M]
        came = np.stack(actual, axis=1)  # [K, W, M]
        weights = expert_weights(answers, came, levels, awake, self._prior)
        replays, workloads = len(came), len(pasts)
        if self._calibrated and replays:
            mixed = _mixture(answers.reshape(*answers.shape[:3], -1), weights.reshape(experts, -1))
            shift = corrections(mixed, came.reshape(replays, -1), levels).reshape(len(levels), workloads, -1)
        else:
            shift = np.zeros((len(levels), workloads, int(np.prod(shape))))
        return [
            _Judgement(weights[:, place].reshape(experts, *shape), shift[:, place].reshape(len(levels), *shape))
            for place in range(workloads)
        ]

    def _mixed(
        self, said: _Told, judgement: _Judgement, horizon_steps: int, asked: tuple[float, ...]
    ) -> tuple[FloatArray, FloatArray]:
        """Return ``float64[len(asked), H, C]`` of rates and of maxima."""
        between = _between(judged_leads(horizon_steps), horizon_steps)  # [H, L]
        shares = np.einsum("hl,eklc->ekhc", between, judgement.weights)
        now = np.stack(
            [
                np.stack([one.values, one.peaks])
                if isinstance(one, LoadForecast)
                else np.zeros((2, len(asked), horizon_steps, len(CHANNELS)))
                for one in said
            ]
        )
        mixed = np.einsum("ekhc,ekqhc->kqhc", shares, now)
        if judgement.shift.any():
            moved = np.einsum("aq,hl,qklc->kahc", _levels(asked), between, judgement.shift, optimize=True)
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
    columns = past.answers.astype(np.float64).transpose(0, 1, 3, 2, 4, 5)
    return columns.reshape(experts, replays, levels, 2 * len(past.leads) * len(CHANNELS))


def _mixture(answers: FloatArray, weights: FloatArray) -> FloatArray:
    """Return ``float64[K, Q, M]``: what experts with these weights said together; NaN where most of them slept."""
    there: npt.NDArray[np.bool_] = np.all(np.isfinite(answers), axis=2)  # [E, K, M]
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
