"""Which step times do live vLLM engines show in a metrics store? A profile fitted to the history of their counters.

While an engine is busy its time is the sum of its steps. Over a window of W seconds in which it never ran dry

    W = steps * base + decoded tokens * per sequence + decoded tokens * KV tokens of a sequence * per KV token
        + prompt tokens * per token + prompt tokens * prompt length * per squared token

and all amounts are counters or gauges that vLLM exports: steps are the observations of ``iteration_tokens_total``,
decoded tokens the generated ones less the first of each request. Windows of many loads make a bounded, robust
regression. An engine that ran dry between two looks at it has less work than time: such windows are left out of it.
Prefix cache hits are not prefilled and are taken off; where prompts vary in length, the square of the mean stands for
the mean square, which the last coefficient feels. ``prefill_base_s`` does not show in counters.

While the mean context of a sequence hardly changes from window to window, KV tokens grow as sequences do, and only the
sum of the two terms shows: then their ratio is that of the start. The same goes for prompt tokens and their squares
(and both then feel the mean square: 4 % where lengths are spread evenly from nothing to twice the mean).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.adapters.prometheus_http import PrometheusHttp
from controller.errors import BadInput
from forecasting.series import FloatArray
from policies.engine_profile import EngineProfile
from simulations.engine_runs import COEFFICIENTS, coefficients_of, with_coefficients
from training.capacity_fit import Coefficient, FitSettings, WorkRows, coefficients_from, solve
from training.history_windows import Windows, read_windows
from training.profile_options import EngineOptions, start_of

_FEWEST_WINDOWS = 20
_HELD_OUT = 0.4
_ROUNDS = 20
_TOLD_APART = 2.0  # 90th over 10th percentile of a ratio of two amounts, from which on each shows by itself
_DRY, _LEAST_DRY = 2.0, 0.02  # a window lacks work when it lacks so many standard deviations, and this share
_PAIRS = (("decode_per_sequence_s", "decode_per_kv_token_s"), ("prefill_per_token_s", "prefill_per_token2_s"))


@dataclass(frozen=True, slots=True, eq=False)
class HistoryFit:
    """A profile fitted to a metrics store."""

    profile: EngineProfile
    coefficients: tuple[Coefficient, ...]
    windows: int
    engines: int
    held_out_error: float
    """Mean absolute error of the busy time of windows that were not fitted."""
    tied: tuple[tuple[str, str], ...] = ()
    """Pairs of coefficients whose ratio is that of the start."""

    @property
    def note(self) -> str:
        """Return what it rests on and how far it is off, in a sentence."""
        pairs = ", ".join(" and ".join(pair) for pair in self.tied)
        in_pairs = {name for _, name in self.tied}
        kept = ", ".join(each.name for each in self.coefficients if not each.determined and each.name not in in_pairs)
        return (
            f"fitted to {self.windows} busy minutes of {self.engines} engines; on the newest {_HELD_OUT:.0%}, not "
            f"fitted, the time of a minute's steps is off by {self.held_out_error:.1%} on average"
            + (f"; in the ratio of the start, since they never showed apart: {pairs}" if pairs else "")
            + (f"; not determined and kept near the start: {kept}" if kept else "")
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "profile": self.profile.model_dump(mode="json"),
            "coefficients": [asdict(each) for each in self.coefficients],
            "windows": self.windows,
            "engines": self.engines,
            "held_out_error": self.held_out_error,
            "tied": [list(pair) for pair in self.tied],
            "undetermined": [each.name for each in self.coefficients if not each.determined],
        }


def fit_to_history(
    url: str | None, config: Path | None, engine: EngineOptions, span_s: float, show: Callable[[float], None]
) -> HistoryFit:
    """Return the profile that the last ``span_s`` seconds of a metrics store show for the engines of a model.

    Raises:
        BadInput: If the settings cannot be used, or the store holds too little of that model.
        ObservationError: If the store cannot be asked.
    """
    from controller.adapters.system_clock import SystemClock
    from controller.settings import load_settings

    settings = load_settings(config, [] if url is None else [f"prometheus.url={json.dumps(url)}"]).prometheus
    client = PrometheusHttp(settings, SystemClock().elapsed)
    try:
        windows, engines = read_windows(client, settings, str(engine.model), span_s, show)
    finally:
        client.close()
    start = start_of(engine, (), {})
    return fit_windows(start, windows, engines, f"history of {engine.model} in a metrics store")


def fit_windows(start: EngineProfile, windows: Windows, engines: int, source: str) -> HistoryFit:
    """Return the profile whose steps take the time that the windows lasted.

    Raises:
        BadInput: If there are too few windows.
    """
    fitted_on = round(len(windows) * (1.0 - _HELD_OUT))
    if fitted_on < _FEWEST_WINDOWS:
        what = f"{len(windows)} minutes in which an engine was busy throughout are too few"
        raise BadInput(what, "--history-s", "read further back, or wait until there was more load")
    work = windows.work(start.kv_cache_tokens)
    prior = np.maximum(coefficients_of(start), 1e-12)
    tied = [pair for pair in _PAIRS if not _told_apart(work[:fitted_on], pair)]
    mix = _mixture(prior, tied)
    settings = FitSettings.near_start(_HELD_OUT)
    rows = WorkRows(work[:fitted_on] * prior @ mix, np.ones(fitted_on))  # unknowns: multiples of the start
    factors, deviations = np.ones(mix.shape[1]), settings.deviations[: mix.shape[1]]
    for _ in range(_ROUNDS):
        full = _never_dry(rows.work @ factors - 1.0)
        kept_rows = WorkRows(rows.work[full], rows.weight[full])
        factors = solve(kept_rows, factors, np.ones(len(factors)), deviations)
    values = prior * (mix @ factors)
    profile = with_coefficients(start, values).model_copy(update={"source": f"fitted by foresail to {source}"})
    error = float(np.abs(work[fitted_on:] @ values - 1.0).mean())
    unknowns = coefficients_from(kept_rows, factors, deviations, [COEFFICIENTS[row] for row in mix.argmax(axis=0)])
    kept = {second for _, second in tied}
    coefficients = tuple(
        replace(shared, name=name, value=float(value), determined=shared.determined and name not in kept)
        for name, value, shared in zip(
            COEFFICIENTS, values, (unknowns[owner] for owner in mix.argmax(axis=1)), strict=True
        )
    )
    return HistoryFit(profile, coefficients, len(windows), engines, error, tuple(tied))


def _never_dry(residuals: FloatArray) -> npt.NDArray[np.bool_]:
    """Return ``bool[N]``: which windows have as much work as time, as far as the others' scatter lets it be told."""
    scatter = 1.4826 * float(np.median(np.abs(residuals)))
    return residuals >= -max(_LEAST_DRY, _DRY * scatter)


def _told_apart(work: FloatArray, pair: tuple[str, str]) -> bool:
    """Return whether the ratio of the amounts of two coefficients changes enough from window to window."""
    first, second = (work[:, COEFFICIENTS.index(name)] for name in pair)
    ratios = second[first > 0] / first[first > 0]
    low, high = np.quantile(ratios, (0.1, 0.9)) if len(ratios) else (0.0, 0.0)
    return bool(low > 0 and high / low >= _TOLD_APART)


def _mixture(prior: FloatArray, tied: Sequence[tuple[str, str]]) -> FloatArray:
    """Return ``float64[6, U]``: which unknown each coefficient is a multiple of, with tied ones sharing one."""
    leader = {second: first for first, second in tied}
    owners = [leader.get(name, name) for name in COEFFICIENTS]
    unknowns = list(dict.fromkeys(owners))
    mix = np.zeros((len(prior), len(unknowns)))
    for row, owner in enumerate(owners):
        mix[row, unknowns.index(owner)] = 1.0
    return mix
