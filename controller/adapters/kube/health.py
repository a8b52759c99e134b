"""How do the watches of clusters do, and what did their API servers answer: all parts of a platform put together?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.adapters.kube.answers import AnswerCounts
from controller.adapters.kube.reflector import Reflector
from controller.cluster_figures import ClusterFigures, WatchFigures


@dataclass(frozen=True, slots=True)
class Health:
    """Of one part that asks a cluster: what it was answered, and what it watches."""

    answers: AnswerCounts
    reflectors: tuple[Reflector[Any], ...]


def figures_of(parts: Iterable[tuple[str, Health]], events: Mapping[str, int]) -> ClusterFigures:
    """Return the figures of ``parts``, each with the name of its cluster; safe to call while they work.

    Namespaces are not told apart: there may be many, and one that is silent makes the whole kind of object old.
    """
    answers: Counter[tuple[str, str, str]] = Counter()
    watched: dict[tuple[str, str], list[Reflector[Any]]] = {}
    for cluster, health in parts:
        for (verb, code), count in health.answers.told().items():
            answers[cluster, verb, code] += count
        for reflector in health.reflectors:
            watched.setdefault((cluster, reflector.resource.title), []).append(reflector)
    watches = tuple(
        WatchFigures(
            cluster,
            resource,
            max(one.store.age_s for one in several),
            sum(one.lists for one in several),
            sum(one.failures for one in several),
        )
        for (cluster, resource), several in sorted(watched.items())
    )
    return ClusterFigures(watches, dict(answers), dict(events))
