"""What was an API server asked for? Counted as requests come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi


@contextmanager
def counted(api: RunningApi) -> Iterator[Counter[tuple[str, str]]]:
    """Count requests to ``api`` by verb and resource, those that a fault strikes as well."""
    asked: Counter[tuple[str, str]] = Counter()
    strike = api.faults.strike

    def noted(verb: str, resource: str) -> list[Fault]:
        asked[verb, resource] += 1
        return strike(verb, resource)

    api.faults.strike = noted  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        api.faults.strike = strike  # type: ignore[method-assign]


def lists(asked: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return how often each resource was listed."""
    return {resource: count for (verb, resource), count in sorted(asked.items()) if verb == "list"}
