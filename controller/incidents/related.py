"""Which incidents began together, in one place? They may be one failure with many faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from controller.incidents.incident import Incident

TOGETHER_S = 60.0
"""Incidents that were suspected within this many seconds of the one before began together."""


@dataclass(frozen=True, slots=True)
class Related:
    """Other incidents that began together with one, and where."""

    place: str
    ids: tuple[str, ...]


def related_in(incidents: Sequence[Incident]) -> Mapping[str, Related]:
    """Return, by id, what is related to each incident that is related to any: by its node first, else its revision."""
    found: dict[str, Related] = {}
    for place_of in (_node, _revision):
        for place, group in _groups(incidents, place_of):
            ids = tuple(incident.id for incident in group)
            for incident in group:
                others = tuple(name for name in ids if name != incident.id)
                known = found.get(incident.id)
                if known is None or len(others) > len(known.ids):
                    found[incident.id] = Related(place, others)
    return found


def _groups(
    incidents: Sequence[Incident], place_of: Callable[[Incident], str]
) -> Iterator[tuple[str, Sequence[Incident]]]:
    """Yield each place with the incidents, two or more, that began together there."""
    at_place: dict[str, list[Incident]] = {}
    for incident in sorted(incidents, key=lambda each: each.suspected_at):
        place = place_of(incident)
        group = at_place.get(place, [])
        if group and incident.suspected_at - group[-1].suspected_at > TOGETHER_S:
            if len(group) > 1:
                yield place, group
            group = []
        if place:
            at_place[place] = [*group, incident]
    yield from ((place, group) for place, group in at_place.items() if len(group) > 1)


def _node(incident: Incident) -> str:
    return f"node {incident.node}" if incident.node else ""


def _revision(incident: Incident) -> str:
    return f"revision {incident.revision} of {incident.subject.pool}" if incident.revision else ""
