"""What did each expert say lately? Their answers at past origins, asked once and kept as long as they are of use.

Origins lie on a grid of the clock. An answer is kept under a digest of the very numbers it was made from, so keeping it
saves time and changes nothing; a new origin comes every ten minutes, the others are there already.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from forecasting.features import DAY_S, IntArray
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast, FleetForecaster, Forecaster
from forecasting.series import CHANNELS, LoadSeries
from forecasting.window_digests import clock_of, window_digests

# Experts see at most so much, now and then; the rest of what is kept of a load is where past origins lie.
SEEN_S, LEAST_SEEN_STEPS = 13 * DAY_S, 1500
LEAST_STEPS = 10
# Leads that are judged are shares of a horizon rounded down to one of these, so that a lead time that is measured anew
# at every start does not ask everything again.
_GRID = tuple(sorted({1, *(2**power for power in range(13)), *(3 * 2**power for power in range(11))}))
_SHARES = (0.25, 0.5, 1.0)

Key: TypeAlias = tuple[int, int, int, int, float, float]


@runtime_checkable
class Fitted(Protocol):
    """A forecaster that was fitted on load up to an instant: what it says about earlier ones is no forecast."""

    @property
    def fitted_until(self) -> float:
        """End of what it was fitted on, Unix seconds."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """What ``E`` experts said at ``K`` past origins, oldest first.

    Attributes:
        origins: ``int64[K]``: steps seen.
        leads: Leads that are judged, ascending.
        answers: ``float32[E, K, 2, Q, L, C]`` at ``DEFAULT_LEVELS``, rates and then maxima; NaN where an expert slept.
        digest: The same for the same numbers.
    """

    origins: IntArray
    leads: tuple[int, ...]
    answers: npt.NDArray[np.float32]
    digest: int = 0


def judged_leads(horizon_steps: int) -> tuple[int, ...]:
    """Return the leads that stand for a horizon.

    >>> judged_leads(20), judged_leads(6), judged_leads(1)
    ((4, 8, 16), (2, 3, 6), (1,))
    """
    reach = max(lead for lead in _GRID if lead <= horizon_steps) if horizon_steps < _GRID[-1] else _GRID[-1]
    return tuple(sorted({max(1, int(np.ceil(share * reach))) for share in _SHARES}))


def past_origins(history: LoadSeries, spacing_s: float, most: int) -> IntArray:
    """Return up to ``most`` newest origins before now on the grid of the clock, ascending."""
    stride = max(1, round(spacing_s / history.step_s))
    newest = len(history) - 1
    newest -= (clock_of(history) + newest) % stride
    return np.arange(newest, LEAST_STEPS - 1, -stride, dtype=np.int64)[:most][::-1]


def shown(history: LoadSeries, origin: int) -> LoadSeries:
    """Return what experts see of ``history`` once ``origin`` steps have been seen."""
    return history.window(max(0, origin - seen_steps(history.step_s)), origin)


def seen_steps(step_s: float) -> int:
    """Return how many of the newest steps experts see."""
    return max(LEAST_SEEN_STEPS, round(SEEN_S / step_s))


class PastAnswers:
    """Answers of ``experts`` at past origins of any histories, the ``most_kept`` used last.

    Attributes:
        asked: How often the experts had to be asked.
    """

    def __init__(self, experts: Sequence[Forecaster], most_kept: int) -> None:
        self._experts, self._most_kept = tuple(experts), most_kept
        self._kept: OrderedDict[Key, npt.NDArray[np.float32]] = OrderedDict()
        self.asked = 0

    def of(self, history: LoadSeries, horizon_steps: int, spacing_s: float, most: int) -> Past:
        """Return what the experts said at the ``most`` newest origins of ``history``."""
        return self.of_many([history], [horizon_steps], spacing_s, most)[0]

    def of_many(
        self,
        histories: Sequence[LoadSeries],
        horizons_steps: Sequence[int],
        spacing_s: float,
        most: int,
        most_asked: int | None = None,
    ) -> list[Past]:
        """Return what the experts said at the ``most`` newest origins of each history.

        At most ``most_asked`` new answers are worked out, the newest first and those of all histories in turn; where
        one is left for the next call, all experts slept.
        """
        leads = [judged_leads(horizon) for horizon in horizons_steps]
        origins = [past_origins(history, spacing_s, most) for history in histories]
        keys = [_keys(history, of, reach[-1]) for history, of, reach in zip(histories, origins, leads, strict=True)]
        new = {
            keys[place][back]: (place, back)
            for back in range(-1, -most - 1, -1)
            for place in range(len(keys))
            if -back <= len(keys[place]) and keys[place][back] not in self._kept
        }
        chosen = [*new.items()][:most_asked]
        self.asked += len(chosen)
        for reach in {leads[place] for _, (place, _) in chosen}:
            of_reach = [(key, place, back) for key, (place, back) in chosen if leads[place] == reach]
            seen = [shown(histories[place], int(origins[place][back])) for _, place, back in of_reach]
            for (key, _, _), answer in zip(of_reach, self._told(seen, reach), strict=True):
                self._kept[key] = answer
        found = [self._past(*one) for one in zip(origins, leads, keys, strict=True)]
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        return found

    def _past(self, origins: IntArray, leads: tuple[int, ...], keys: Sequence[Key]) -> Past:
        shape = (len(self._experts), 2, len(DEFAULT_LEVELS), len(leads), len(CHANNELS))
        nothing = np.full(shape, np.nan, dtype=np.float32)
        known = [key in self._kept for key in keys]
        for key, there in zip(keys, known, strict=True):
            if there:
                self._kept.move_to_end(key)
        answers = [self._kept[key] if there else nothing for key, there in zip(keys, known, strict=True)]
        stacked = np.stack(answers, axis=1) if answers else np.empty((shape[0], 0, *shape[1:]), dtype=np.float32)
        return Past(origins, leads, stacked, hash((tuple(keys), tuple(known))))

    def _told(self, seen: Sequence[LoadSeries], leads: tuple[int, ...]) -> list[npt.NDArray[np.float32]]:
        """Return ``float32[E, 2, Q, L, C]`` for each of ``seen``."""
        shape = (len(seen), len(self._experts), 2, len(DEFAULT_LEVELS), len(leads), len(CHANNELS))
        answers = np.full(shape, np.nan, dtype=np.float32)
        at = np.array(leads) - 1
        for expert, forecaster in enumerate(self._experts):
            # What was fitted on load after an instant knew what came: its answer then says nothing of its worth.
            until = forecaster.fitted_until if isinstance(forecaster, Fitted) else -np.inf
            places = [place for place, one in enumerate(seen) if one.end_at >= until]
            asked = [seen[place] for place in places]
            told = ask_all(forecaster, asked, [leads[-1]] * len(asked), DEFAULT_LEVELS)
            for place, one in zip(places, told, strict=True):
                if isinstance(one, LoadForecast):
                    answers[place, expert, 0], answers[place, expert, 1] = one.values[:, at], one.peaks[:, at]
        return list(answers)


def ask_all(
    forecaster: Forecaster, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float]
) -> list[LoadForecast | CannotForecast]:
    """Return the forecast for each history or why there is none; a forecaster that breaks has none."""
    if not histories:
        return []
    if isinstance(forecaster, FleetForecaster):
        try:
            return forecaster.forecast_many(histories, horizons_steps, levels)
        except Exception:  # noqa: BLE001, S110 - whose history breaks it is found out below
            pass
    return [_ask(forecaster, *one, levels) for one in zip(histories, horizons_steps, strict=True)]


def _ask(
    forecaster: Forecaster, history: LoadSeries, horizon_steps: int, levels: Sequence[float]
) -> LoadForecast | CannotForecast:
    try:
        return forecaster.forecast(history, horizon_steps, levels)
    except CannotForecast as reason:
        return reason
    except Exception as failure:  # noqa: BLE001 - a broken expert sleeps, the others answer
        return CannotForecast(f"{forecaster.name} failed: {type(failure).__name__}: {failure}")


def _keys(history: LoadSeries, origins: IntArray, reach: int) -> list[Key]:
    """Return what names what is shown at each origin."""
    step_s, clock = history.step_s, clock_of(history)
    begins = np.maximum(0, origins - seen_steps(step_s))
    digests = window_digests(history, begins, origins)
    phase = history.start_at - clock * step_s
    return [
        (digest, clock + end, end - begin, reach, step_s, phase)
        for digest, end, begin in zip(digests, origins.tolist(), begins.tolist(), strict=True)
    ]
