"""Which of the known names does this metrics store hold? Found out by asking, since engines rename with releases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from controller.adapters import promql
from controller.adapters.prometheus_http import PrometheusHttp
from controller.adapters.promql import Grouping
from controller.adapters.series_rows import labels_of, values_of
from controller.signals.catalogue import Candidate, MetricNames, Scope, catalogue, signals

# An address of a few thousand characters passes every proxy.
_NAMES_PER_QUERY = 40
_HEARTBEATS = ("running_requests", "queued_requests", "received_requests_total", "steps_total", "output_tokens_total")


@dataclass(frozen=True, slots=True)
class Source:
    """An engine, gateway or exporter that reports to this store.

    Attributes:
        name: Of its file in the catalogue.
        names: That file.
        matched: Per signal the candidates that exist, best first; only signals that have one.
        bounds: Per histogram signal the ``le`` of the best candidate as they are written, ascending.
        ranked: Whether any series has one of the labels of ranks that repeat a figure.
        series: Series of its heartbeat: about as many as there are replicas.
    """

    name: str
    names: MetricNames
    matched: Mapping[str, tuple[Candidate, ...]]
    bounds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranked: bool = True
    series: int = 0

    @property
    def repeated_labels(self) -> tuple[str, ...]:
        """Labels of ranks that repeat a figure, if there are any: to look for them costs the store some time."""
        return self.names.repeated_labels if self.ranked else ()

    @property
    def heartbeat(self) -> str:
        """Signal that tells when a replica or gateway was scraped: all series of a target are from the same scrape."""
        return next(signal for signal in (*_HEARTBEATS, *self.matched) if signal in self.matched)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Signals that this engine or gateway has names for, none of which exists."""
        return tuple(signal for signal in self.names.signals if signal not in self.matched)


def probe(client: PrometheusHttp, at: float | None, match: Mapping[str, str]) -> tuple[Source, ...]:
    """Return engines, gateways and exporters of which the store has at least one signal; raises ObservationError."""
    grouping = Grouping((), match=match)
    existing: set[str] = set()
    wanted = sorted({name for names in catalogue().values() for name in _spellings(names)})
    for first in range(0, len(wanted), _NAMES_PER_QUERY):
        query = promql.present_names(wanted[first : first + _NAMES_PER_QUERY], grouping)
        existing |= set(labels_of(client.instant(query, at), "__name__"))
    sources = []
    for name, names in catalogue().items():
        matched = {signal: found for signal in names.signals if (found := _existing(names, signal, existing))}
        if matched:
            source = Source(name, names, matched, _bounds(client, at, matched, grouping))
            sources.append(_counted(client, at, source, grouping))
    return tuple(sources)


def of_scope(sources: Sequence[Source], scope: Scope) -> tuple[Source, ...]:
    """Return those that report about replicas, about requests, or about GPUs."""
    return tuple(source for source in sources if source.names.scope == scope)


def _spellings(names: MetricNames) -> Iterator[str]:
    for signal in names.signals:
        for candidate in names.candidates(signal):
            yield from _told_by(signal, candidate)


def _told_by(signal: str, candidate: Candidate) -> tuple[str, ...]:
    """Return the names that show that a candidate exists: the first is its own."""
    if signals()[signal].kind == "histogram":
        return (f"{candidate.name}_count",)
    return (candidate.name, candidate.over) if candidate.over else (candidate.name,)


def _existing(names: MetricNames, signal: str, existing: set[str]) -> tuple[Candidate, ...]:
    return tuple(c for c in names.candidates(signal) if existing.issuperset(_told_by(signal, c)))


def _bounds(
    client: PrometheusHttp, at: float | None, matched: Mapping[str, tuple[Candidate, ...]], grouping: Grouping
) -> dict[str, tuple[str, ...]]:
    """Return the bucket bounds of latency histograms; those of lengths are not needed."""
    bounds = {}
    for signal in ("ttft_seconds", "tpot_seconds"):
        if signal in matched:
            best = matched[signal][0]
            named = f"{best.name}_bucket"
            query = f"count by (le) ({promql.selector(best, grouping, named)})"
            found = labels_of(client.instant(query, at), "le")
            bounds[signal] = tuple(sorted((le for le in found if _is_number(le)), key=float))
    return bounds


def _counted(client: PrometheusHttp, at: float | None, source: Source, grouping: Grouping) -> Source:
    """Return ``source`` with how many series it has, and whether ranks repeat them."""
    best = source.matched[source.heartbeat][0]
    shown = _told_by(source.heartbeat, best)[0]
    series = client.instant(f"count({promql.selector(best, grouping, shown)})", at)
    ranked = [
        label
        for label in source.names.repeated_labels
        if client.instant(f"count({promql.selector(best, grouping, shown, [promql.present(label)])})", at)
    ]
    return replace(source, ranked=bool(ranked), series=int(np.nan_to_num(values_of(series).sum())))


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False
