"""Who may be believed? Forecasters in order of preference, each judged by how it did lately on the very same workload.

Each is asked again at past instants of the history, with what was known then, and so is the last value: what really
followed says which of them lost less (``trust``). An answer is kept under a digest of the numbers it was made from, so
that keeping it saves time and changes nothing. How many may be asked for in one go is bounded, since a tick must not
wait for the past of a thousand workloads. Until there are enough, what was fitted elsewhere is a floor; what learns
from this history alone has bounds as wide as its own errors on it, and is believed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from forecasting.features import IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast, Trust
from forecasting.forecaster import CannotForecast, FallbackForecaster, FleetForecaster, ForecastAnswer, Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.past_answers import Fitted, ask_all, judged_leads
from forecasting.residuals import futures
from forecasting.series import REQUESTS, FloatArray, LoadSeries
from forecasting.trust import TrackRecord, TrustSettings, Verdict, trust_in
from forecasting.window_digests import clock_of, window_digests

JUDGED = 48
"""Past instants at which a forecaster is judged; of a long history every half hour of the last day."""
MAX_STRIDE_S = 1800.0
LEAST_STEPS = 10
MOST_ASKED = 400
"""Answers of one forecaster at past instants that are asked for at once, over all workloads."""
MOST_KEPT = 500_000
"""Answers kept, of 56 bytes and their key each."""
ALL_STEPS = 1_000_000_000
_STRIDES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900)

Key: TypeAlias = tuple[str, int, int, int, float]


@runtime_checkable
class SelfJudged(Forecaster, Protocol):
    """A forecaster that keeps its own record of what it said."""

    def track_record(self, history: LoadSeries, horizon_steps: int) -> TrackRecord:
        """Return how its forecasts of the peak of requests/s did lately."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Past:
    """Past instants of one history at which a forecaster is judged: ``origins`` steps seen, ``lead`` steps ahead."""

    history: LoadSeries
    origins: IntArray
    lead: int

    @classmethod
    def of(cls, history: LoadSeries, horizon_steps: int) -> _Past:
        """Choose up to ``JUDGED`` of them, evenly spaced on the clock, of which it is known what followed."""
        lead = judged_leads(horizon_steps)[-1]
        widest = max(1, round(MAX_STRIDE_S / history.step_s))
        first, last = LEAST_STEPS, len(history) - lead
        stride = next((s for s in _STRIDES if s < widest and (last - first) / s <= JUDGED), widest)
        last -= (clock_of(history) + last) % stride
        return cls(history, np.arange(last, first - 1, -stride, dtype=np.int64)[:JUDGED][::-1], lead)

    @property
    def overlap(self) -> float:
        """The lead in units of the distance of two of them."""
        return self.lead / float(np.diff(self.origins[:2]).max(initial=1))

    def keys(self, name: str, most_steps: int) -> list[Key]:
        """Return what names the answer of a forecaster that looks at ``most_steps`` at each instant."""
        begins = np.maximum(0, self.origins - most_steps)
        digests = window_digests(self.history, begins, self.origins)
        step_s, clock = self.history.step_s, clock_of(self.history)
        return [
            (name, digest, clock + end, self.lead, step_s)
            for digest, end in zip(digests, self.origins.tolist(), strict=True)
        ]

    def shown(self, place: int, most_steps: int) -> LoadSeries:
        """Return what a forecaster would have seen."""
        origin = int(self.origins[place])
        return self.history.window(max(0, origin - most_steps), origin)

    def followed(self) -> FloatArray:
        """Return ``float64[K]``: the largest requests/s up to the lead."""
        after = futures(self.history.values[:, [REQUESTS]], self.origins, self.lead)
        return after.largest[:, -1, 0]


class JudgedChain:
    """Ask forecasters in order of preference; the first one that answers and is trusted wins, none means reactive only.

    A forecaster that fails, that has no answer, or whose record is worse than none steps back, with the reason.

    Args:
        forecasters: In order of preference.
        settings: What a forecast has to show.
        most_asked: Answers at past instants asked for in one call of ``answer_many``, per forecaster.
    """

    def __init__(
        self, forecasters: Sequence[Forecaster], settings: TrustSettings, most_asked: int = MOST_ASKED
    ) -> None:
        self.forecasters, self.settings = tuple(forecasters), settings
        self._most_asked = most_asked
        self._last_value = LastValueForecaster(0.0)
        self._kept: OrderedDict[Key, FloatArray] = OrderedDict()

    def most_steps(self, step_s: float, horizon_steps: int) -> int | None:
        """Newest steps of a history that any of them looks at, now or in the past; None where one does not say."""
        most = FallbackForecaster((*self.forecasters, self._last_value)).most_steps
        judged = horizon_steps + (JUDGED + 1) * max(1, round(MAX_STRIDE_S / step_s))
        return None if most is None else most + judged

    def follow(self, predecessor: JudgedChain) -> None:
        """Go on with what those said who are still asked."""
        names = {forecaster.name for forecaster in (*self.forecasters, self._last_value)}
        self._kept.update({key: peaks for key, peaks in predecessor._kept.items() if key[0] in names})

    def answer_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[ForecastAnswer]:
        """Return the answer for each history and its horizon: each forecaster is asked for what the earlier left."""
        answers = [ForecastAnswer(None)] * len(histories)
        left = list(range(len(histories)))
        for forecaster in self.forecasters:
            asked = [histories[place] for place in left]
            horizons = [horizons_steps[place] for place in left]
            told = ask_all(forecaster, asked, horizons, levels)
            judged = self._judged(forecaster, asked, horizons, told)
            for place, answer, verdict in zip(left, told, judged, strict=True):
                before = answers[place].stepped_back
                if verdict is None or not isinstance(answer, LoadForecast):
                    answers[place] = ForecastAnswer(None, (*before, (forecaster.name, str(answer))))
                elif verdict.trust is Trust.NONE:
                    why = f"it is not trusted: {verdict.reason}"
                    answers[place] = ForecastAnswer(None, (*before, (forecaster.name, why)))
                else:
                    answers[place] = ForecastAnswer(answer.trusted(verdict.trust, verdict.reason), before)
            left = [place for place in left if answers[place].forecast is None]
        return answers

    def _judged(
        self,
        forecaster: Forecaster,
        histories: Sequence[LoadSeries],
        horizons_steps: Sequence[int],
        told: Sequence[LoadForecast | CannotForecast],
    ) -> list[Verdict | None]:
        """Return how far ``forecaster`` is trusted on each history; None where it told nothing now."""
        if isinstance(forecaster, SelfJudged):
            each = zip(histories, horizons_steps, told, strict=True)
            return [
                trust_in(forecaster.track_record(history, horizon), self.settings)
                if isinstance(answer, LoadForecast)
                else None
                for history, horizon, answer in each
            ]
        pasts = [
            _Past.of(history, horizon) if isinstance(answer, LoadForecast) else None
            for history, horizon, answer in zip(histories, horizons_steps, told, strict=True)
        ]
        known = [past for past in pasts if past is not None]
        own, last = self._peaks(forecaster, known), self._peaks(self._last_value, known)
        levels = np.array(DEFAULT_LEVELS)
        records = (
            TrackRecord(mine, naive, past.followed(), levels, past.overlap)
            for past, mine, naive in zip(known, own, last, strict=True)
        )
        verdicts = iter([self._verdict(forecaster, record) for record in records])
        return [None if past is None else next(verdicts) for past in pasts]

    def _verdict(self, forecaster: Forecaster, record: TrackRecord) -> Verdict:
        verdict = trust_in(record, self.settings)
        if verdict.forecasts < self.settings.least_forecasts and not isinstance(forecaster, Fitted):
            return replace(verdict, trust=Trust.FULL)
        return verdict

    def _peaks(self, forecaster: Forecaster, pasts: Sequence[_Past]) -> list[FloatArray]:
        """Return ``float64[K, Q]`` for each: what it said of the peak; NaN where it had no answer or was not asked yet.

        Of those that it was never asked for, the newest are asked for first, whichever history they are of.
        """
        most_steps = forecaster.most_steps if isinstance(forecaster, FleetForecaster) else ALL_STEPS
        keys = [past.keys(forecaster.name, most_steps) for past in pasts]
        until = forecaster.fitted_until if isinstance(forecaster, Fitted) else -np.inf
        missing = [
            (len(past.origins) - place, number, place)
            for number, (past, mine) in enumerate(zip(pasts, keys, strict=True))
            for place, key in enumerate(mine)
            if key not in self._kept and past.history.start_at + past.origins[place] * past.history.step_s >= until
        ]
        asked = sorted(missing)[: self._most_asked]
        shown = [pasts[number].shown(place, most_steps) for _, number, place in asked]
        leads = [pasts[number].lead for _, number, _ in asked]
        for (_, number, place), lead, answer in zip(
            asked, leads, ask_all(forecaster, shown, leads, DEFAULT_LEVELS), strict=True
        ):
            said = answer.peaks[:, lead - 1, REQUESTS] if isinstance(answer, LoadForecast) else _NOTHING
            self._kept[keys[number][place]] = np.array(said)
        found = []
        for mine in keys:
            found.append(np.array([self._kept.get(key, _NOTHING) for key in mine]).reshape(-1, len(DEFAULT_LEVELS)))
            for key in mine:
                if key in self._kept:
                    self._kept.move_to_end(key)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return found


_NOTHING = np.full(len(DEFAULT_LEVELS), np.nan)
