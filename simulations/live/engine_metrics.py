"""What do all flavours of native engine metrics have in common: what they are shown, and how families are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from simulations.live.histogram import Histogram
from simulations.live.timed_engine import EngineListener, TimedEngine


@dataclass(frozen=True, slots=True)
class HttpCount:
    """Key of answered HTTP requests: the path's template, the method, and the class of the status, as ``2xx``."""

    handler: str
    method: str
    status: str


class EngineMetrics(EngineListener, Protocol):
    """Counts what an engine does, and says it in one flavour's names."""

    def families(self, engine: TimedEngine, answered: Mapping[HttpCount, int]) -> Iterator[Metric]:
        """Yield all metrics as they stand."""
        ...


def gauge(name: str, text: str, labels: Mapping[str, str], value: float) -> Metric:
    """Return a gauge with one series."""
    return gauges(name, text, [(labels, value)])


def gauges(name: str, text: str, series: Iterable[tuple[Mapping[str, str], float]]) -> Metric:
    """Return a gauge with several series, all with the same label names."""
    told = [(dict(labels), value) for labels, value in series]
    family = GaugeMetricFamily(name, text, labels=list(told[0][0]) if told else None)
    for labels, value in told:
        family.add_metric(list(labels.values()), value)
    return family


def counter(name: str, text: str, series: Iterable[tuple[Mapping[str, str], float]]) -> Metric:
    """Return a counter; ``name`` without ``_total``, which the exposition adds."""
    told = [(dict(labels), value) for labels, value in series]
    family = CounterMetricFamily(name, text, labels=list(told[0][0]) if told else None)
    for labels, value in told:
        family.add_metric(list(labels.values()), value)
    return family


def histogram(name: str, text: str, series: Iterable[tuple[Mapping[str, str], Histogram]]) -> Metric:
    """Return a histogram."""
    told = [(dict(labels), values) for labels, values in series]
    family = HistogramMetricFamily(name, text, labels=list(told[0][0]) if told else None)
    for labels, values in told:
        family.add_metric(list(labels.values()), values.cumulative(), values.sum)
    return family
