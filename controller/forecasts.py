"""What load is coming, per model: the history of offered load, and the forecast made from it at each tick."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from forecasting.company import Company
from forecasting.forecast import LoadForecast
from forecasting.forecaster import FallbackForecaster, Forecaster
from forecasting.judged import JudgedChain
from forecasting.present import present_load
from forecasting.series import CHANNELS, OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, LoadSeries, block_means
from forecasting.trust import TrustSettings
from policies.fleet import Demand, FleetState, PoolState
from policies.lead_time import LeadTimeSettings, lead_time
from policies.memory import PolicyMemory, PoolMemory
from policies.tunable import Tunable


class ForecastSettings(BaseModel):
    """What forecasters are shown and asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_s: float = Field(
        60.0,
        ge=1,
        le=86400,
        description="Step of the load that forecasters see, in seconds; a whole multiple of the tick. Requests live "
        "for tens of seconds, so peaks much shorter than a minute need no replica of their own.",
    )
    kept_s: float = Field(
        15 * 86400.0,
        gt=0,
        le=92 * 86400,
        description="Load history kept per model, in seconds; a fortnight and a day for weekly shapes. It is held in "
        "memory, 48 bytes a tick.",
    )
    demand_window_s: Annotated[
        float, Tunable(15.0, 240.0, why="from one scrape to what is late by minutes", log=True)
    ] = Field(
        60.0,
        gt=0,
        le=86400,
        description="Window over which present demand is averaged, in seconds: a single scrape is noise. A jump that "
        "is more than noise counts at once.",
    )
    company: Company = Field(
        Company.SINGLE,
        description="Who forecasts: single (the trained model, or the local level), combined (both and the same time a "
        "day and a week ago, weighted by how each did lately) or none (replicas follow what is seen).",
    )
    trust: TrustSettings = Field(
        default_factory=TrustSettings, description="What a forecast has to show before replicas follow it."
    )


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far ahead a decision has to look, from what was measured of starts and from the time between ticks."""

    lead_times: LeadTimeSettings
    tick_s: float

    def reach_s(self, pools: Iterable[PoolState], memory: PolicyMemory) -> float:
        """Return the time in seconds that the slowest of ``pools`` takes to start a replica, plus a tick."""
        known = (memory.pools.get(str(pool.key), PoolMemory()) for pool in pools)
        return max(lead_time(pool, self.lead_times).p90_s for pool in known) + self.tick_s


@dataclass(frozen=True, slots=True)
class ForecastNote:
    """Who forecast a model, and who could not and why."""

    source: str
    stepped_back: tuple[tuple[str, str], ...]


class LoadHistory:
    """Offered load of one model at the tick step, bounded in length; a tick without observation is a gap."""

    def __init__(self, step_s: float, kept_s: float, before: LoadSeries | None = None) -> None:
        """Start empty, or from ``before``: the load recorded earlier, at the same step.

        Raises:
            ValueError: If ``before`` has another step.
        """
        if before is not None and abs(before.step_s - step_s) > 1e-9 * step_s:
            raise ValueError(f"history has steps of {before.step_s} s, the tick is {step_s} s")
        self.step_s = step_s
        self._kept = max(2, round(kept_s / step_s))
        self._rows = np.empty((0, len(CHANNELS)))
        self._count = 0
        self._end_at = math.nan
        if before is not None and len(before):
            self._rows = np.array(before.values[-self._kept :])
            self._count = len(self._rows)
            self._end_at = before.end_at
        self._hidden = np.zeros(len(self._rows), np.bool_)

    def append(self, at: float, demand: Demand | None, *, hidden: bool = False) -> None:
        """Add the step that ended at ``at``. Missed ticks before it become gaps; an early tick is ignored.

        A ``hidden`` one is a gap to everybody who asks for a series, and part of what is ``recent``.

        After the clock was set back, time goes on from where it is now: the past keeps its order, not its dates.
        """
        row = [math.nan] * len(CHANNELS)
        if demand is not None:
            row[REQUESTS] = demand.requests_per_s
            row[PROMPT_TOKENS] = demand.prompt_tokens_per_s
            row[OUTPUT_TOKENS] = demand.output_tokens_per_s
        if math.isnan(self._end_at) or at < self._end_at - self.step_s:
            self._end_at = at - self.step_s
        steps = round((at - self._end_at) / self.step_s)
        for _ in range(min(steps - 1, self._kept)):
            self._push([math.nan] * len(CHANNELS), hidden=False)
        if steps >= 1:
            self._push(row, hidden=hidden)
            self._end_at += max(1, steps) * self.step_s

    def _push(self, row: list[float], *, hidden: bool) -> None:
        if self._count == len(self._rows):
            self._make_room()
        self._rows[self._count] = row
        self._hidden[self._count] = hidden
        self._count += 1

    def _make_room(self) -> None:
        """Let go of what is too old, and grow by as much as there is up to what is kept and a sixteenth of it.

        A fortnight of a thousand models is two gigabytes as it is; room that is not used yet need not be among them.
        """
        newest = slice(max(0, self._count - self._kept), self._count)
        kept = self._rows[newest]
        room = min(max(len(kept), 256), self._kept + max(self._kept // 16, 16) - len(kept))
        self._rows = np.concatenate([kept, np.full((room, len(CHANNELS)), np.nan)])
        self._hidden = np.concatenate([self._hidden[newest], np.zeros(room, np.bool_)])
        self._count = len(kept)

    def series(self, step_s: float, most_steps: int | None = None) -> LoadSeries:
        """Return the kept history in steps of ``step_s``, aligned so that the newest step is whole.

        With ``most_steps``, not more than the newest so many.
        """
        newest = slice(max(0, self._count - self._kept), self._count)
        rows = self._rows[newest]
        if np.count_nonzero(hidden := self._hidden[newest]):
            rows = np.where(hidden[:, None], np.nan, rows)
        factor = max(1, round(step_s / self.step_s))
        steps = len(rows) // factor if most_steps is None else min(most_steps, len(rows) // factor)
        rows = rows[len(rows) - steps * factor :]
        end_at = 0.0 if math.isnan(self._end_at) else self._end_at
        return LoadSeries(end_at - len(rows) * self.step_s, factor * self.step_s, block_means(rows, factor))

    def recorded(self) -> LoadSeries:
        """Return all that is kept, as it was appended."""
        return self.series(self.step_s)

    def recall(self, earlier: LoadSeries) -> None:
        """Put the part of ``earlier`` from before the first row in front of it; what lies between is a gap.

        Raises:
            ValueError: If ``earlier`` has another step.
        """
        if abs(earlier.step_s - self.step_s) > 1e-9 * self.step_s:
            raise ValueError(f"history has steps of {earlier.step_s} s, the tick is {self.step_s} s")
        own = self.recorded()
        rows = earlier.values
        if len(own):
            before = (own.start_at - earlier.start_at) / self.step_s  # steps from one start to the other
            known = earlier.values[: max(0, round(before))]
            gap = min(self._kept, max(0, round(before) - len(known)))
            rows = np.concatenate([known, np.full((gap, len(CHANNELS)), np.nan), own.values])
        end_at = own.end_at if len(own) else earlier.end_at
        whole = LoadSeries(end_at - len(rows) * self.step_s, self.step_s, rows)
        fresh = LoadHistory(self.step_s, self._kept * self.step_s, whole)
        self._rows, self._count, self._end_at = fresh._rows, fresh._count, fresh._end_at
        self._hidden = fresh._hidden

    def recent(self, window_s: float) -> Demand | None:
        """Return present demand (``forecasting.present``); None when the newest step was not observed."""
        present = present_load(self._rows[max(0, self._count - self._kept) : self._count], self.step_s, window_s)
        if present is None:
            return None
        requests, prompt, output = (float(rate) for rate in present)
        return Demand(requests, prompt, output)


class LoadForecasts:
    """Histories and forecasts of all models."""

    def __init__(
        self,
        forecaster: FallbackForecaster,
        tick_s: float,
        settings: ForecastSettings,
        before: Mapping[str, LoadSeries] | None = None,
    ) -> None:
        """Start from the load recorded ``before``, per model, at steps of ``tick_s``."""
        self._chain, self.settings = JudgedChain(forecaster.forecasters, settings.trust), settings
        self._tick_s = tick_s
        self._histories = {
            model: LoadHistory(tick_s, settings.kept_s, series) for model, series in (before or {}).items()
        }
        self.notes: dict[str, ForecastNote] = {}
        self._asked_steps: dict[str, int] = {}

    @property
    def forecasters(self) -> tuple[Forecaster, ...]:
        """Who is asked, in order of preference."""
        return self._chain.forecasters

    def ask(self, forecaster: FallbackForecaster) -> None:
        """Ask these from now on; what is known of how those of them did who were asked before stays known."""
        chain = JudgedChain(forecaster.forecasters, self.settings.trust)
        chain.follow(self._chain)
        self._chain = chain

    def learn(self, fleet: FleetState, hidden: Collection[str] = ()) -> Mapping[str, Demand]:
        """Add what was observed, and return present demand per observed model, with noise averaged out.

        Of the models that are ``hidden`` no forecaster is ever shown the load of this tick.
        """
        recent: dict[str, Demand] = {}
        for model in fleet.models:
            if model not in self._histories:
                self._histories[model] = LoadHistory(self._tick_s, self.settings.kept_s)
            history = self._histories[model]
            history.append(fleet.at, fleet.demand.get(model), hidden=model in hidden)
            demand = history.recent(self.settings.demand_window_s)
            if demand is not None:
                ratio = fleet.demand.get(model, demand).cached_prompt_ratio
                same = ratio == demand.cached_prompt_ratio
                recent[model] = demand if same else replace(demand, cached_prompt_ratio=ratio)
        return recent

    def recorded(self) -> Mapping[str, LoadSeries]:
        """Return the load of each model as far as it is kept, in steps of a tick."""
        return {model: history.recorded() for model, history in self._histories.items()}

    def asked(self, models: Iterable[str]) -> dict[str, tuple[LoadSeries, int]]:
        """Return the load of ``models`` as forecasters see it, and how many steps ahead they were last asked for."""
        return {
            model: (self._histories[model].series(self.settings.step_s), self._asked_steps[model])
            for model in models
            if model in self._histories and model in self._asked_steps
        }

    @property
    def models(self) -> tuple[str, ...]:
        """Models whose load is known, in order."""
        return tuple(sorted(self._histories))

    def recall(self, before: Mapping[str, LoadSeries]) -> None:
        """Add load that was recorded before this object learned anything, such as from a store of metrics."""
        for model, earlier in before.items():
            if model not in self._histories:
                self._histories[model] = LoadHistory(self._tick_s, self.settings.kept_s)
            self._histories[model].recall(earlier)

    def forecast(self, model: str, horizon_s: float) -> LoadForecast | None:
        """Return the forecast of ``model`` to at least ``horizon_s`` ahead; None when none can be trusted."""
        return self.forecast_many({model: horizon_s}).get(model)

    def forecast_many(self, horizons_s: Mapping[str, float]) -> dict[str, LoadForecast]:
        """Return the forecast of each model to at least its horizon ahead, without those that none can be trusted of.

        Forecasters that can are asked for all models at once.
        """
        known = {model: reach_s for model, reach_s in horizons_s.items() if model in self._histories}
        step_s = max(1, round(self.settings.step_s / self._tick_s)) * self._tick_s
        horizons_steps = [max(1, math.ceil(reach_s / step_s - 1e-9)) for reach_s in known.values()]
        self._asked_steps.update(zip(known, horizons_steps, strict=True))
        most_steps = self._chain.most_steps(step_s, max(horizons_steps, default=1))
        histories = [self._histories[model].series(self.settings.step_s, most_steps) for model in known]
        forecasts = {}
        for model, answer in zip(known, self._chain.answer_many(histories, horizons_steps), strict=True):
            source = answer.forecast.source if answer.forecast else "reactive only"
            self.notes[model] = ForecastNote(source, answer.stepped_back)
            if answer.forecast is not None:
                forecasts[model] = answer.forecast
        return forecasts
