"""What did live vLLM engines do, minute by minute, by a metrics store? Growth of counters and looks at gauges.

A window lasts from the scrape that was the newest at its one edge to that at its other edge: its growth and its length
are then exact, however scrapes and edges fall. PromQL's ``increase`` would stretch what some of the scrapes saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controller.adapters import promql
from controller.adapters.metric_names import Source, of_scope, probe
from controller.adapters.prometheus_http import MAX_POINTS, PrometheusHttp
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.promql import Grouping
from controller.adapters.series_rows import labels_of, range_of
from controller.errors import BadInput
from forecasting.series import FloatArray

WINDOW_S = 60.0
_LOOKS = 4  # at gauges, steps of a window
_SHORTEST, _LONGEST = 0.5, 1.5  # times WINDOW_S: else scrapes are too far apart, or some failed
_COUNTERS = ("steps_total", "prompt_tokens_total", "output_tokens_total")
_GAUGES = ("running_requests", "kv_cache_ratio")
_NEEDED = (*_COUNTERS, *_GAUGES, "ttft_seconds")
_PROMPTS, _CACHED, _SCRAPED_AT = "prompts", "cached_prompt_tokens_total", "scraped_at"

ByEngine = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """What busy engines did in windows of about ``WINDOW_S``; ``float64[N]`` each, all engines in order of time.

    Attributes:
        seconds: How long the window was.
        steps: Steps that yielded tokens.
        prompts: Requests whose first token came.
        prompt_tokens: Prefilled.
        output_tokens: Generated, first tokens included.
        kv_ratio_per_request: Mean share of the KV cache that a running request held.
    """

    seconds: FloatArray
    steps: FloatArray
    prompts: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    kv_ratio_per_request: FloatArray

    def __len__(self) -> int:
        return len(self.steps)

    def work(self, kv_cache_tokens: int) -> FloatArray:
        """Return ``float64[N, 6]``: the work per second of each window, in the order of the coefficients.

        A step of n sequences decodes n tokens, so decoded tokens times the KV tokens that a sequence holds are the KV
        tokens of all steps; a mean over time would count long steps, which are the full ones, more than once.
        """
        decoded = np.maximum(self.output_tokens - self.prompts, 0.0)
        mean_prompt = self.prompt_tokens / np.maximum(self.prompts, 1.0)
        columns = (
            self.steps,
            np.zeros(len(self)),
            decoded,
            decoded * self.kv_ratio_per_request * kv_cache_tokens,
            self.prompt_tokens,
            self.prompt_tokens * mean_prompt,
        )
        return np.stack(columns, axis=1) / self.seconds[:, np.newaxis]


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
    counted = {signal: asked.at_edges(signal) for signal in _COUNTERS}
    show(0.4)
    counted[_PROMPTS] = asked.at_edges("ttft_seconds", "_count")
    counted[_SCRAPED_AT] = asked.scraped_at("steps_total")
    cached = asked.at_edges(_CACHED)
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
    pod: str, counted: Mapping[str, ByEngine], cached: ByEngine, looks: Mapping[str, ByEngine]
) -> tuple[FloatArray, FloatArray] | None:
    """Return window numbers and ``float64[N, 6]`` of the windows in which an engine was busy whenever looked at."""
    if not all(pod in by_pod for by_pod in (*counted.values(), *looks.values())):
        return None
    grown = {signal: growth(by_pod[pod]) for signal, by_pod in counted.items()}
    prefilled = grown["prompt_tokens_total"]
    if pod in cached:
        prefilled = prefilled - np.nan_to_num(growth(cached[pod]))
    running, kv = (_in_windows(looks[signal][pod]) for signal in _GAUGES)
    weights = np.array([0.5, *np.ones(_LOOKS - 1), 0.5])
    busy: npt.NDArray[np.bool_] = np.all(running >= 1.0, axis=1)
    held = np.full(len(busy), np.nan)
    held[busy] = kv[busy] @ weights / (running[busy] @ weights)
    columns = (grown[_SCRAPED_AT], grown["steps_total"], grown[_PROMPTS], prefilled, grown["output_tokens_total"], held)
    table = np.stack(columns, axis=1)
    usable = busy & np.isfinite(table).all(axis=1) & (table[:, 1] > 0) & _as_long_as_asked(table[:, 0])
    return np.flatnonzero(usable).astype(np.float64), table[usable]


def growth(at_edges: FloatArray) -> FloatArray:
    """Return ``float64[N]`` from ``float64[N + 1]`` at the edges; NaN where a counter was not there, or began anew."""
    grown = np.diff(at_edges)
    return np.where(grown >= 0.0, grown, np.nan)


def _as_long_as_asked(seconds: FloatArray) -> npt.NDArray[np.bool_]:
    return (seconds >= _SHORTEST * WINDOW_S) & (seconds <= _LONGEST * WINDOW_S)


def _in_windows(looks: FloatArray) -> FloatArray:
    """Return ``float64[N, 5]``: the looks in every window, those at its edges included."""
    return np.lib.stride_tricks.sliding_window_view(looks, _LOOKS + 1)[::_LOOKS]


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

    def at_edges(self, signal: str, part: str = "") -> ByEngine:
        """Return per engine a counter at the edges of the windows; NaN where it was not observed."""
        if signal not in self._source.matched:
            return {}
        query = promql.figure(self._source.matched[signal], self._grouping, "sum", part)
        return self._by_pod(query, WINDOW_S, self._windows + 1)

    def scraped_at(self, signal: str) -> ByEngine:
        """Return per engine when the counter that stands at each edge was scraped."""
        query = promql.sampled_at(self._source.matched[signal], self._grouping)
        return self._by_pod(query, WINDOW_S, self._windows + 1)

    def gauge(self, signal: str) -> ByEngine:
        """Return per engine a gauge at ``_LOOKS`` steps of each window, from the first edge to the last."""
        query = promql.figure(self._source.matched[signal], self._grouping, "max")
        return self._by_pod(query, WINDOW_S / _LOOKS, self._windows * _LOOKS + 1)

    def _by_pod(self, query: str, step_s: float, count: int) -> dict[str, FloatArray]:
        rows = self._client.over(query, self._start_at, self._start_at + (count - 1) * step_s, step_s)
        found = {}
        for pod, row in zip(labels_of(rows, self._pod), rows, strict=True):
            at, values = range_of(row)
            column = np.full(count, np.nan)
            places = np.rint((at - self._start_at) / step_s).astype(np.intp)
            inside = (places >= 0) & (places < count)
            column[places[inside]] = values[inside]
            found[pod] = column
        return found
