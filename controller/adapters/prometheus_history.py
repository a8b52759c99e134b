"""What was the load before we looked? Offered load per model from range queries, newest first, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from controller.adapters import promql
from controller.adapters.fleet_answers import model_names
from controller.adapters.fleet_queries import history_grouping, subject_labels, targets_query
from controller.adapters.metric_names import Source, of_scope, probe
from controller.adapters.model_figures import Subjects
from controller.adapters.prometheus_http import MAX_POINTS, PrometheusHttp, Row
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.promql import Change
from controller.adapters.series_rows import keys_of, range_of
from controller.errors import ObservationError, QueryRefused
from forecasting.series import CHANNELS, OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, FloatArray, LoadSeries
from policies.fleet import PoolKey

_BYTES_PER_POINT = 40
_FIRST_PIECE_S = 3600.0
_FEWEST_POINTS = 8
_SHORTEST_WINDOW_S = 60.0
_ENDS = ("finished_requests_total", "failed_requests_total", "aborted_requests_total")

OfModel = dict[str, FloatArray]


class HistoryReader:
    """Reads the load history of every model that the store knows.

    Each ``advance`` reads one piece, from the newest to the oldest; one that failed is read again by the next call, so
    that an outage in the middle costs nothing but time. Pieces are as long as the server's limit on points and ours on
    the size of an answer allow.
    """

    def __init__(
        self,
        client: PrometheusHttp,
        settings: PrometheusSettings,
        pools: Iterable[PoolKey],
        last_at: float,
        span_s: float,
        step_s: float,
        longest_piece_s: float = math.inf,
    ) -> None:
        """Read ``span_s`` seconds up to ``last_at`` in steps of ``step_s``; nothing is asked yet.

        Pieces are at most ``longest_piece_s`` long; the first is an hour, its size tells how long others may be.
        """
        self._client, self._settings, self.step_s = client, settings, step_s
        self._pools = [(key.model, key.pool) for key in pools]
        self._steps = max(1, math.floor(span_s / step_s))
        self._last_at = float(math.floor(last_at))
        self._start_at = self._last_at - self._steps * step_s
        self._left = self._steps
        self._most_points = int(min(MAX_POINTS - 1, max(_FEWEST_POINTS, longest_piece_s / step_s)))
        self._points = max(_FEWEST_POINTS, min(self._most_points, math.ceil(_FIRST_PIECE_S / step_s)))
        self._values: dict[str, FloatArray] = {}
        self._sources: tuple[Source, ...] = ()
        self._subjects = Subjects(settings, {})

    @property
    def done_ratio(self) -> float:
        """Share of the span that has been read."""
        return 1.0 - self._left / self._steps

    def advance(self) -> bool:
        """Read the next piece and return whether there is another.

        Raises:
            ObservationError: If the store cannot be asked; what was read so far is kept.
        """
        if not self._left:
            return False
        if not self._sources:
            self._look_around()
        first = max(0, self._left - self._points)
        try:
            series = self._read(first, self._left)
        except QueryRefused:
            if self._points <= _FEWEST_POINTS:
                raise
            self._points = max(_FEWEST_POINTS, self._points // 4)
            return True
        self._left = first
        allowed = self._settings.max_response_bytes / _BYTES_PER_POINT / max(1, series)
        self._points = int(min(self._most_points, max(_FEWEST_POINTS, 0.5 * allowed)))
        return self._left > 0

    def loads(self) -> dict[str, LoadSeries]:
        """Return what has been read, per model, from the first step in which it was observed."""
        found = {}
        for model, values in self._values.items():
            seen = np.flatnonzero(np.isfinite(values[:, REQUESTS]))
            if len(seen):
                start_at = self._start_at + float(seen[0]) * self.step_s
                found[model] = LoadSeries(start_at, self.step_s, values[seen[0] :])
        return found

    def _look_around(self) -> None:
        found = probe(self._client, self._last_at, self._settings.match)
        self._sources = tuple(source for source in found if source.names.scope != "gpu")
        if not self._sources:
            raise ObservationError(
                "there is no series of any known engine or gateway", self._settings.url, "see `foresail doctor`"
            )
        labels = (self._settings.model_label, self._settings.pool_label)
        seen = keys_of(self._client.instant(targets_query(self._settings), self._last_at), labels)
        known = {(model, pool) for model, pool in [*self._pools, *seen] if model and pool}
        self._subjects = Subjects(self._settings, model_names(sorted(known)))

    def _read(self, first: int, last: int) -> int:
        """Read steps ``first`` to ``last`` into the values, and return the most series that an answer had."""
        asked = _Piece(self._client, self._subjects, self._start_at, self.step_s, first, last)
        arrivals: OfModel = {}
        means: dict[int, OfModel] = {PROMPT_TOKENS: {}, OUTPUT_TOKENS: {}}
        # Engines first, so that what a gateway counted replaces it step by step.
        for source in (*of_scope(self._sources, "replica"), *of_scope(self._sources, "gateway")):
            for model, rates in _arrivals(asked, source).items():
                before = arrivals.get(model, np.full(last - first, np.nan))
                arrivals[model] = np.where(np.isfinite(rates), rates, before)
            for channel, signal in ((PROMPT_TOKENS, "prompt"), (OUTPUT_TOKENS, "output")):
                means[channel] |= _mean_lengths(asked, source, signal)
        for model, rates in arrivals.items():
            if model not in self._values:
                self._values[model] = np.full((self._steps, len(CHANNELS)), np.nan)
            rows = self._values[model][first:last]
            rows[:, REQUESTS] = rates
            for channel, prior in (
                (PROMPT_TOKENS, self._settings.prompt_tokens_prior),
                (OUTPUT_TOKENS, self._settings.output_tokens_prior),
            ):
                rows[:, channel] = rates * _filled(means[channel].get(model), len(rates), prior)
        return asked.most_series


class _Piece:
    """Range queries over some steps, evaluated where each of them ends."""

    def __init__(
        self, client: PrometheusHttp, subjects: Subjects, start_at: float, step_s: float, first: int, last: int
    ) -> None:
        self._client, self.subjects, self.step_s, self.steps = client, subjects, step_s, last - first
        self._first_at, self._last_at = start_at + (first + 1) * step_s, start_at + last * step_s
        self.window_s = max(step_s, _SHORTEST_WINDOW_S)
        self.most_series = 0

    def change(
        self, source: Source, signal: str, part: str = "", window_s: float = 0.0, change: Change = "increase"
    ) -> OfModel:
        """Return the change of a signal over the window before each step's end, per model; nothing where unmatched."""
        if signal not in source.matched:
            return {}
        grouping = history_grouping(source, self.subjects.settings)
        query = promql.figure(source.matched[signal], grouping, "sum", part, window_s or self.window_s, change)
        rows = self._client.over(query, self._first_at, self._last_at, self.step_s)
        self.most_series = max(self.most_series, len(rows))
        return dict(_summed(self._by_model(source, rows)))

    def _by_model(self, source: Source, rows: Sequence[Row]) -> Iterator[tuple[str, FloatArray]]:
        keys = keys_of(rows, subject_labels(source, self.subjects.settings))
        for subject, row in zip(keys, rows, strict=True):
            model = self.subjects.model_of(source, subject)
            if model:
                at, values = range_of(row)
                places = np.rint((at - self._first_at) / self.step_s).astype(np.intp)
                inside = (places >= 0) & (places < self.steps) & np.isfinite(values)
                column = np.full(self.steps, np.nan)
                column[places[inside]] = values[inside]
                yield model, column


def _summed(columns: Iterable[tuple[str, FloatArray]]) -> OfModel:
    """Return the sums per model; a step is NaN only where no series of it was observed."""
    sums: OfModel = {}
    for model, column in columns:
        sums[model] = _plus(sums[model], column) if model in sums else column
    return sums


def _plus(one: FloatArray, other: FloatArray) -> FloatArray:
    both = np.isnan(one) & np.isnan(other)
    return np.where(both, np.nan, np.nan_to_num(one) + np.nan_to_num(other))


def _arrivals(asked: _Piece, source: Source) -> OfModel:
    """Return arrivals per second: counted where they are, else what ended plus what has queued up."""
    received = asked.change(source, "received_requests_total")
    retried = asked.change(source, "retried_requests_total")
    counts = {
        model: grown - np.nan_to_num(retried.get(model, np.zeros(asked.steps))) for model, grown in received.items()
    }
    if not counts and source.names.scope == "replica":
        ended = [asked.change(source, signal) for signal in _ENDS]
        inside = [asked.change(source, s, change="delta") for s in ("running_requests", "queued_requests")]
        for model, finished in ended[0].items():
            others = [np.nan_to_num(told[model]) for told in (*ended[1:], *inside) if model in told]
            counts[model] = finished + sum(others, np.zeros(asked.steps))
    return {model: np.maximum(count, 0.0) / asked.window_s for model, count in counts.items()}


def _mean_lengths(asked: _Piece, source: Source, what: str) -> OfModel:
    """Return mean tokens per request over the settings' window, NaN where no request told."""
    window_s, signal = asked.subjects.settings.means_window_s, f"{what}_length_tokens"
    total = asked.change(source, signal, "_sum", window_s)
    count = asked.change(source, signal, "_count", window_s)
    if not total and source.names.scope == "replica":
        total = asked.change(source, f"{what}_tokens_total", "", window_s)
        count = asked.change(source, "finished_requests_total", "", window_s)
    return {
        model: np.divide(tokens, count[model], out=np.full(asked.steps, np.nan), where=count[model] > 0)
        for model, tokens in total.items()
        if model in count
    }


def _filled(means: FloatArray | None, steps: int, prior: float) -> FloatArray:
    """Return means with gaps filled from before, then from after, and with ``prior`` where there is none at all."""
    if means is None or not np.isfinite(means).any():
        return np.full(steps, prior)
    known = np.flatnonzero(np.isfinite(means))
    before = np.searchsorted(known, np.arange(steps), side="right") - 1
    return np.asarray(means[known[np.maximum(before, 0)]])


def read_history(
    reader: HistoryReader, failures: int = 3, on_piece: Callable[[float], None] | None = None
) -> Mapping[str, LoadSeries]:
    """Return the load per model as far back as could be read.

    Args:
        reader: What reads it; a second call goes on where the first had to stop.
        failures: Failed pieces in a row after which what there is must do.
        on_piece: Told the share that has been read, after each piece.

    Raises:
        ObservationError: If nothing at all could be read.
    """
    failed = 0
    while True:
        try:
            more = reader.advance()
            failed = 0
        except ObservationError:
            failed += 1
            if failed >= failures:
                if loads := reader.loads():
                    return loads
                raise
            continue
        if on_piece is not None:
            on_piece(reader.done_ratio)
        if not more:
            return reader.loads()


def at_step(loads: Mapping[str, LoadSeries], step_s: float) -> dict[str, LoadSeries]:
    """Return the series in shorter steps, each value held: what a loop that ticks faster begins with.

    Raises:
        ValueError: If a step is no whole multiple of ``step_s``.
    """
    held = {}
    for model, load in loads.items():
        factor = round(load.step_s / step_s)
        if factor < 1 or abs(factor * step_s - load.step_s) > 1e-6 * load.step_s:
            raise ValueError(f"steps of {load.step_s} s cannot be cut into steps of {step_s} s")
        held[model] = LoadSeries(load.start_at, step_s, np.repeat(load.values, factor, axis=0))
    return held
