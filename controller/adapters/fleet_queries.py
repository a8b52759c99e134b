"""Which queries does one look at the fleet take? One per signal and engine, for all replicas and models at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.adapters import promql
from controller.adapters.metric_names import Source
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.promql import Grouping
from controller.attainment import bounds_around
from controller.signals.catalogue import signals
from policies.slo import ServiceObjective

TARGETS = "targets"
GATEWAYS = "gateways"
SAMPLED_AT = "sampled_at"

Part = Literal["", "sum", "count", "p95", "buckets"]

_PER_REPLICA = (
    "running_requests",
    "queued_requests",
    "kv_cache_ratio",
    "steps_total",
    "prompt_tokens_total",
    "output_tokens_total",
    "finished_requests_total",
    "failed_requests_total",
    "aborted_requests_total",
    "received_requests_total",
    "preemptions_total",
)
GPU_SIGNALS = ("gpu_xid", "gpu_power_ratio", "gpu_clock_ratio")
RARE = (
    "failed_requests_total",
    "aborted_requests_total",
    "failed_answers_total",
    "unreached_requests_total",
    "gpu_xid",
)
"""Of these only what is not zero is asked for."""

_PER_SUBJECT = ("received_requests_total", "retried_requests_total", "held_requests")
PER_ENDPOINT = ("in_flight_requests", "answered_requests_total", "failed_answers_total", "unreached_requests_total")
_LENGTHS = ("prompt_length_tokens", "output_length_tokens")
_CACHE = ("cached_prompt_tokens_total", "looked_up_prompt_tokens_total", "prompt_tokens_total")
_LENGTHS_FROM_TOTALS = ("prompt_tokens_total", "output_tokens_total", "finished_requests_total")
_LATENCIES = ("ttft_seconds", "tpot_seconds")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a query is for.

    Attributes:
        source: Name of the engine, gateway or exporter; empty for the targets.
        signal: Of the catalogue, or ``TARGETS``, ``GATEWAYS`` or ``SAMPLED_AT``.
        part: Of a histogram.
        window_s: Over which its growth is taken, 0 for the figure itself.
    """

    source: str
    signal: str
    part: Part = ""
    window_s: float = 0.0

    @property
    def together(self) -> tuple[str, str, float]:
        """What names the figures that are related to each other, and have to be of one instant for that."""
        if self.signal in _LENGTHS:
            return self.source, self.signal, self.window_s
        judged = self.part == "buckets" or self.signal == "failed_requests_total"
        return self.source, "attainment" if judged else "totals", self.window_s


def queries(
    sources: Sequence[Source], objectives: Sequence[ServiceObjective], settings: PrometheusSettings
) -> dict[Asked, str]:
    """Return every query of a look, by what it is for.

    Args:
        sources: Engines, gateways and exporters, with the names that matched.
        objectives: All that hold for some model; they decide which buckets are read.
        settings: Labels and windows.
    """
    asked: dict[Asked, str] = {Asked("", TARGETS): targets_query(settings)}
    for source in sources:
        if source.names.scope == "gpu":
            asked |= _of_gpus(source, settings)
            continue
        asked |= _of_replicas(source, settings) if source.names.scope == "replica" else _of_gateway(source, settings)
        asked |= _of_models(source, objectives, settings)
    return asked


def counters(sources: Sequence[Source], settings: PrometheusSettings) -> dict[Asked, str]:
    """Return only the queries that rates are made from: what is asked of the past before the first look."""
    counting = [source for source in sources if source.names.scope != "gpu"]
    windowless = {asked: query for asked, query in queries(counting, (), settings).items() if not asked.window_s}
    return {asked: query for asked, query in windowless.items() if asked.part != "p95"}


def targets_query(settings: PrometheusSettings) -> str:
    """Return which replicas are scraped where, and whether the last scrape succeeded."""
    by = (settings.replica_label, settings.pool_label, settings.model_label, settings.target_label)
    matchers = ",".join(Grouping((), (), settings.match, (settings.replica_label,)).matchers())
    return f"max by ({','.join(by)}) (up{{{matchers}}})"


def gateways_query(addresses: Collection[str], settings: PrometheusSettings) -> str:
    """Return which of the gateways at ``addresses`` are still scraped."""
    matchers = Grouping((), (), settings.match).matchers()
    matchers.append(f"{settings.target_label}=~{promql.one_of(sorted(addresses))}")
    return f"max by ({settings.target_label}) (up{{{','.join(matchers)}}})"


def subject_labels(source: Source, settings: PrometheusSettings) -> tuple[str, ...]:
    """Return the labels by which figures of a source belong to a model."""
    if source.names.subject is not None:
        return (source.names.subject.label,)
    return (settings.model_label, settings.pool_label)


def history_grouping(source: Source, settings: PrometheusSettings) -> Grouping:
    """Return the grouping of figures per model: of engines by model and pool, of a gateway by its subject."""
    return _grouping(source, settings, subject_labels(source, settings))


def _grouping(source: Source, settings: PrometheusSettings, by: tuple[str, ...]) -> Grouping:
    present = (settings.replica_label,) if source.names.scope == "replica" else ()
    return Grouping(by, source.repeated_labels, settings.match, present)


def _of_replicas(source: Source, settings: PrometheusSettings) -> Iterator[tuple[Asked, str]]:
    whole = _grouping(source, settings, (settings.replica_label, settings.pool_label, settings.model_label))
    yield _sampled_at(source, whole)
    each = _grouping(source, settings, (settings.replica_label,))
    yield from _figures(source, _PER_REPLICA, each, settings)
    if "tpot_seconds" in source.matched:
        yield from _parts(source, "tpot_seconds", each)
    if "ttft_seconds" in source.matched and source.series <= settings.replica_ttft_up_to:
        query = promql.quantile(0.95, source.matched["ttft_seconds"], each, settings.latency_window_s)
        yield Asked(source.name, "ttft_seconds", "p95"), query


def _of_gateway(source: Source, settings: PrometheusSettings) -> Iterator[tuple[Asked, str]]:
    targets = _grouping(source, settings, (settings.target_label,))
    yield _sampled_at(source, targets)
    subject = _grouping(source, settings, (settings.target_label, *subject_labels(source, settings)))
    yield from _figures(source, _PER_SUBJECT, subject, settings)
    if source.names.endpoint is not None:
        endpoint = _grouping(source, settings, (settings.target_label, source.names.endpoint.label))
        yield from _figures(source, PER_ENDPOINT, endpoint, settings)


def _of_gpus(source: Source, settings: PrometheusSettings) -> Iterator[tuple[Asked, str]]:
    holders = _grouping(source, settings, (*source.names.replica_labels, *source.names.node_labels))
    yield _sampled_at(source, holders)
    yield from _figures(source, GPU_SIGNALS, holders, settings)


def _of_models(
    source: Source, objectives: Sequence[ServiceObjective], settings: PrometheusSettings
) -> Iterator[tuple[Asked, str]]:
    """Yield what is summed per model by the store: means over a window, and attainment."""
    grouping, window_s = history_grouping(source, settings), settings.means_window_s
    for signal in _LENGTHS:
        if signal in source.matched:
            yield from _parts(source, signal, grouping, window_s)
    if source.names.scope == "replica":
        lengths_known = all(signal in source.matched for signal in _LENGTHS)
        for signal in dict.fromkeys((*_CACHE, *(() if lengths_known else _LENGTHS_FROM_TOTALS))):
            if signal in source.matched:
                query = promql.figure(source.matched[signal], grouping, "sum", over_s=window_s)
                yield Asked(source.name, signal, "", window_s), query
    for judged_s in sorted({objective.window_s for objective in objectives}):
        within = [objective for objective in objectives if objective.window_s == judged_s]
        yield from _attainment(source, within, grouping, judged_s)


def _attainment(
    source: Source, objectives: Sequence[ServiceObjective], grouping: Grouping, window_s: float
) -> Iterator[tuple[Asked, str]]:
    for signal in _LATENCIES:
        found = source.matched.get(signal)
        if not found or not source.bounds.get(signal):
            continue
        limits = {limit_of(signal, objective) / found[0].times for objective in objectives}
        wanted = {bound for limit in limits for bound in bounds_around(limit, source.bounds[signal])}
        yield Asked(source.name, signal, "buckets", window_s), promql.buckets(found, grouping, wanted, window_s)
    if "failed_requests_total" in source.matched:
        query = promql.figure(source.matched["failed_requests_total"], grouping, "sum", over_s=window_s)
        yield Asked(source.name, "failed_requests_total", "", window_s), query


def limit_of(signal: str, objective: ServiceObjective) -> float:
    """Return what ``objective`` allows of a latency signal, in seconds."""
    return objective.ttft_s if signal == "ttft_seconds" else objective.tpot_s


def _sampled_at(source: Source, grouping: Grouping) -> tuple[Asked, str]:
    signal = source.heartbeat
    part = "_count" if signals()[signal].kind == "histogram" else ""
    return Asked(source.name, SAMPLED_AT), promql.sampled_at(source.matched[signal], grouping, part)


def _figures(
    source: Source, wanted: Sequence[str], grouping: Grouping, settings: PrometheusSettings
) -> Iterator[tuple[Asked, str]]:
    for signal in wanted:
        if signal in source.matched:
            found, about = source.matched[signal], signals()[signal]
            if about.kind == "last":
                query = promql.changed(found, grouping, about.across, settings.event_window_s)
            else:
                query = promql.figure(found, grouping, about.across)
            yield Asked(source.name, signal), f"({query}) > 0" if signal in RARE else query


def _parts(source: Source, signal: str, grouping: Grouping, window_s: float = 0.0) -> Iterator[tuple[Asked, str]]:
    parts: Mapping[Part, str] = {"sum": "_sum", "count": "_count"}
    for part, suffix in parts.items():
        query = promql.figure(source.matched[signal], grouping, "sum", suffix, window_s or None)
        yield Asked(source.name, signal, part, window_s), query
