"""Which series tell whether what is known of a cluster is fresh, what its API answered, and who leads?

Made at each scrape of what the watches and the lease say then: a thread that hangs cannot keep its age from growing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.cluster_figures import ClusterFigures


@dataclass(frozen=True, slots=True)
class LeaseFigures:
    """How this process does with the lease.

    Attributes:
        age_s: Seconds since its newest try for the lease ended.
        turn_s: Seconds since it began to lead, or to stand by.
        transitions: How often the lease went from one holder to another; None as long as it was not seen.
        tries: Counts of tries by what came of them, see ``controller.leadership``.
    """

    age_s: float
    turn_s: float
    transitions: int | None
    tries: dict[str, int]


class ClusterSeries(Collector):
    """Makes the series; ``figures`` and ``lease`` are called by whoever scrapes."""

    def __init__(
        self, figures: Callable[[], ClusterFigures], lease: Callable[[], LeaseFigures | None] = lambda: None
    ) -> None:
        self._figures, self._lease = figures, lease

    def describe(self) -> list[Metric]:
        """Return nothing: what there is depends on the platform."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what there is to say now."""
        yield from _of_cluster(self._figures())
        lease = self._lease()
        if lease is not None:
            yield from _of_lease(lease)


def _of_cluster(figures: ClusterFigures) -> Iterator[Metric]:
    of_watch = ("cluster", "resource")
    age = GaugeMetricFamily("foresail_watch_age_seconds", "Seconds since a watch said anything.", labels=of_watch)
    lists = CounterMetricFamily("foresail_watch_lists", "Lists that were taken over.", labels=of_watch)
    failures = CounterMetricFamily("foresail_watch_failures", "Lists and watches that an error ended.", labels=of_watch)
    for watch in figures.watches:
        labels = (watch.cluster, watch.resource)
        age.add_metric(labels, watch.age_s)
        lists.add_metric(labels, watch.lists)
        failures.add_metric(labels, watch.failures)
    answers = CounterMetricFamily(
        "foresail_api_answers", "Answers of API servers, the lease aside.", labels=("cluster", "verb", "code")
    )
    for answer, count in sorted(figures.answers.items()):
        answers.add_metric(answer, count)
    events = CounterMetricFamily("foresail_events", "Events by what became of them.", labels=("result",))
    for result, count in sorted(figures.events.items()):
        events.add_metric((result,), count)
    yield from (age, lists, failures, answers, events)


def _of_lease(lease: LeaseFigures) -> Iterator[Metric]:
    yield GaugeMetricFamily("foresail_lease_age_seconds", "Seconds since the last try for the lease.", lease.age_s)
    yield GaugeMetricFamily("foresail_turn_seconds", "Seconds of leading, or of standing by, so far.", lease.turn_s)
    if lease.transitions is not None:
        yield GaugeMetricFamily("foresail_lease_transitions", "Times that the lease changed hands.", lease.transitions)
    tries = CounterMetricFamily("foresail_lease_tries", "Tries for the lease by what came of them.", labels=("result",))
    for result, count in sorted(lease.tries.items()):
        tries.add_metric((result,), count)
    yield tries
