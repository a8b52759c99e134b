"""Who may be believed? Forecasters in order of preference, each judged by how it did lately on the very same workload.

Each is asked again at past instants of the history, with what was known then, and so is the last value: what really
followed says which of them lost less (``trust``). Until enough of that is known, what was fitted elsewhere is a floor;
what learns from this history alone has bounds as wide as its own errors on it, and is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from forecasting.forecast import DEFAULT_LEVELS, LoadForecast, Trust
from forecasting.forecaster import CannotForecast, FallbackForecaster, ForecastAnswer, Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.past_answers import Fitted, ask_all
from forecasting.past_peaks import JUDGED, MAX_STRIDE_S, Past, PastPeaks
from forecasting.series import LoadSeries
from forecasting.trust import TrackRecord, TrustSettings, Verdict, trust_in

MOST_ASKED = 400
"""Answers of one forecaster at past instants that are asked for at once, over all workloads."""


@runtime_checkable
class SelfJudged(Forecaster, Protocol):
    """A forecaster that keeps its own record of what it said."""

    def track_record(self, history: LoadSeries, horizon_steps: int) -> TrackRecord:
        """Return how its forecasts of the peak of requests/s did lately."""
        ...


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
        self._last_value = LastValueForecaster(0.0)
        self._past_peaks = PastPeaks(most_asked)

    def most_steps(self, step_s: float, horizon_steps: int) -> int | None:
        """Newest steps of a history that any of them looks at, now or in the past; None where one does not say."""
        most = FallbackForecaster((*self.forecasters, self._last_value)).most_steps
        judged = horizon_steps + (JUDGED + 1) * max(1, round(MAX_STRIDE_S / step_s))
        return None if most is None else most + judged

    def follow(self, predecessor: JudgedChain) -> None:
        """Go on with what those said who are still asked."""
        names = {forecaster.name for forecaster in (*self.forecasters, self._last_value)}
        self._past_peaks.follow(predecessor._past_peaks, names)

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
        since_at = forecaster.fitted_until if isinstance(forecaster, Fitted) else -np.inf
        pasts = [
            Past.of(history, horizon, since_at) if isinstance(answer, LoadForecast) else None
            for history, horizon, answer in zip(histories, horizons_steps, told, strict=True)
        ]
        known = [past for past in pasts if past is not None]
        own, last = (self._past_peaks.of(one, known) for one in (forecaster, self._last_value))
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
