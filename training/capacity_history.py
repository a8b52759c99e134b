"""Which step times do live vLLM engines show in a metrics store? A profile fitted to the history of their counters.

While an engine is busy its time is the sum of its steps. Over a window of W seconds in which it never ran dry

    W = steps * base + decoded tokens * per sequence + steps * KV tokens * per KV token
        + prompt tokens * per token + prompt tokens * prompt length * per squared token

and all amounts are counters or gauges that vLLM exports: steps are the observations of ``iteration_tokens_total``,
decoded tokens the generated ones less the first of each request. Windows of many loads make a bounded, robust
regression. Prefix cache hits are not prefilled and are taken off; where prompts vary in length, the square of the mean
stands for the mean square, which only the last coefficient feels. ``prefill_base_s`` does not show in counters.

While the mean context of a sequence hardly changes from window to window, KV tokens grow as sequences do, and only the
sum of the two terms shows: then their ratio is that of the start. The same goes for prompt tokens and their squares.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from controller.adapters import promql
from controller.adapters.metric_names import Source, of_scope, probe
from controller.adapters.prometheus_http import MAX_POINTS, PrometheusHttp
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.promql import Grouping
from controller.adapters.series_rows import labels_of, range_of
from controller.errors import BadInput
from forecasting.series import FloatArray
from policies.engine_profile import EngineProfile
from simulations.engine_runs import COEFFICIENTS, coefficients_of, with_coefficients
from training.capacity_fit import Coefficient, FitSettings, WorkRows, coefficients_from, solve
from training.profile_options import EngineOptions, start_of

WINDOW_S = 60.0
_LOOKS = 4  # of gauges in a window
_FEWEST_WINDOWS = 20
_HELD_OUT = 0.4
_ROUNDS = 20
_TOLD_APART = 2.0  # 90th over 10th percentile of a ratio of two amounts, from which on each shows by itself
_PAIRS = (("decode_per_sequence_s", "decode_per_kv_token_s"), ("prefill_per_token_s", "prefill_per_token2_s"))
_COUNTERS = ("steps_total", "prompt_tokens_total", "output_tokens_total")
_GAUGES = ("running_requests", "kv_cache_ratio")
_NEEDED = (*_COUNTERS, *_GAUGES, "ttft_seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """What busy engines did in windows of ``WINDOW_S``; ``float64[N]`` each, all engines one after the other in time.

    Attributes:
        steps: Steps that yielded tokens.
        prompts: Requests whose first token came.
        prompt_tokens: Prefilled.
        output_tokens: Generated, first tokens included.
        kv_cache_ratio: Mean share of the KV cache in use.
    """

    steps: FloatArray
    prompts: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    kv_cache_ratio: FloatArray

    def __len__(self) -> int:
        return len(self.steps)

    def work(self, kv_cache_tokens: int) -> FloatArray:
        """Return ``float64[N, 6]``: the work per second of each window, in the order of the coefficients."""
        mean_prompt = self.prompt_tokens / np.maximum(self.prompts, 1.0)
        columns = (
            self.steps,
            np.zeros(len(self)),
            np.maximum(self.output_tokens - self.prompts, 0.0),
            self.steps * self.kv_cache_ratio * kv_cache_tokens,
            self.prompt_tokens,
            self.prompt_tokens * mean_prompt,
        )
        return np.stack(columns, axis=1) / WINDOW_S


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
    for first, second in tied:  # a gauge looked at now and then is noisy; what it says on average is not
        exact, noisy = work[:, COEFFICIENTS.index(first)], work[:, COEFFICIENTS.index(second)]
        work[:, COEFFICIENTS.index(second)] = exact * (noisy[:fitted_on].sum() / exact[:fitted_on].sum())
    settings = FitSettings.near_start(_HELD_OUT)
    rows = WorkRows(work[:fitted_on] * prior @ mix, np.ones(fitted_on))  # unknowns: multiples of the start
    factors, deviations = np.ones(mix.shape[1]), settings.deviations[: mix.shape[1]]
    for _ in range(_ROUNDS):
        factors = solve(rows, factors, np.ones(len(factors)), deviations)
    values = prior * (mix @ factors)
    profile = with_coefficients(start, values).model_copy(update={"source": f"fitted by foresail to {source}"})
    error = float(np.abs(work[fitted_on:] @ values - 1.0).mean())
    unknowns = coefficients_from(rows, factors, deviations, [COEFFICIENTS[row] for row in mix.argmax(axis=0)])
    kept = {second for _, second in tied}
    coefficients = tuple(
        replace(shared, name=name, value=float(value), determined=shared.determined and name not in kept)
        for name, value, shared in zip(
            COEFFICIENTS, values, (unknowns[owner] for owner in mix.argmax(axis=1)), strict=True
        )
    )
    return HistoryFit(profile, coefficients, len(windows), engines, error, tuple(tied))


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


def read_windows(
    client: PrometheusHttp, settings: PrometheusSettings, model: str, span_s: float, show: Callable[[float], None]
) -> tuple[Windows, int]:
    """Return the busy windows of all vLLM engines of a model, in order of time, and how many engines they are of.

    Raises:
        BadInput: If the store has no vLLM engine of that model.
        ObservationError: If it cannot be asked.
    """
    last_at = float(int(client.now()))
    sources = [one for one in of_scope(probe(client, last_at, settings.match), "replica") if one.name == "vllm"]
    lacking = [signal for signal in _NEEDED if not sources or signal not in sources[0].matched]
    if lacking:
        what = "there are no vLLM engines in the metrics store" if not sources else f"it lacks {', '.join(lacking)}"
        raise BadInput(what, settings.url, "only vLLM counts its steps; see `foresail doctor`")
    asked = _Reader(client, settings, sources[0], model, last_at, span_s)
    counted = {signal: asked.increases(signal) for signal in _COUNTERS}
    show(0.4)
    counted["prompts"] = asked.increases("ttft_seconds", "_count")
    cached = asked.increases("cached_prompt_tokens_total")
    show(0.6)
    looks = {signal: asked.gauge(signal) for signal in _GAUGES}
    show(0.9)
    found = [_of_engine(pod, counted, cached, looks) for pod in sorted(counted["steps_total"])]
    kept = [one for one in found if one is not None and len(one[0])]
    if not kept:
        what = f"no engine of {model!r} was busy for a whole minute"
        raise BadInput(what, "--model", f"check the name in the label {settings.model_label}, or read further back")
    at = np.concatenate([instants for instants, _ in kept])
    columns = np.concatenate([rows for _, rows in kept])[np.argsort(at, kind="stable")]
    return Windows(*columns.T), len(kept)


def _of_engine(
    pod: str,
    counted: Mapping[str, Mapping[str, FloatArray]],
    cached: Mapping[str, FloatArray],
    looks: Mapping[str, Any],
) -> tuple[FloatArray, FloatArray] | None:
    """Return instants (window numbers) and ``float64[N, 5]`` of the windows in which an engine was busy throughout."""
    if not all(pod in by_pod for by_pod in (*counted.values(), *looks.values())):
        return None
    running, kv = (looks[signal][pod].reshape(-1, _LOOKS) for signal in _GAUGES)
    columns = [counted[signal][pod] for signal in ("steps_total", "prompts", "prompt_tokens_total")]
    columns[2] = columns[2] - np.nan_to_num(cached.get(pod, np.zeros(len(columns[2]))))
    table = np.stack([*columns, counted["output_tokens_total"][pod], kv.mean(axis=1)], axis=1)
    busy = (running >= 1.0).all(axis=1) & np.isfinite(table).all(axis=1) & (table[:, 0] > 0)
    return np.flatnonzero(busy).astype(np.float64), table[busy]


class _Reader:
    """Range queries over whole windows, a figure per engine."""

    def __init__(
        self,
        client: PrometheusHttp,
        settings: PrometheusSettings,
        source: Source,
        model: str,
        last_at: float,
        span_s: float,
    ) -> None:
        self._client, self._source, self._pod = client, source, settings.replica_label
        self._windows = int(min(span_s // WINDOW_S, (MAX_POINTS - 1) // _LOOKS))
        self._start_at = last_at - self._windows * WINDOW_S
        match = {**settings.match, settings.model_label: model}
        self._grouping = Grouping((self._pod,), source.repeated_labels, match, (self._pod,))

    def increases(self, signal: str, part: str = "") -> dict[str, FloatArray]:
        """Return per engine the growth of a counter in each window; NaN where it was not observed."""
        if signal not in self._source.matched:
            return {}
        query = promql.figure(self._source.matched[signal], self._grouping, "sum", part, WINDOW_S)
        return self._by_pod(query, self._start_at + WINDOW_S, WINDOW_S, self._windows)

    def gauge(self, signal: str) -> dict[str, FloatArray]:
        """Return per engine a gauge at ``_LOOKS`` instants of each window."""
        step_s = WINDOW_S / _LOOKS
        query = promql.figure(self._source.matched[signal], self._grouping, "max")
        return self._by_pod(query, self._start_at + step_s, step_s, self._windows * _LOOKS)

    def _by_pod(self, query: str, first_at: float, step_s: float, count: int) -> dict[str, FloatArray]:
        rows = self._client.over(query, first_at, first_at + (count - 1) * step_s, step_s)
        found = {}
        for pod, row in zip(labels_of(rows, self._pod), rows, strict=True):
            at, values = range_of(row)
            column = np.full(count, np.nan)
            places = np.rint((at - first_at) / step_s).astype(np.intp)
            inside = (places >= 0) & (places < count)
            column[places[inside]] = values[inside]
            found[pod] = column
        return found
