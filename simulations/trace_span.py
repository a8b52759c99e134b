"""From which second to which is the part of a trace that is asked for?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from controller.errors import BadInput
from simulations.case import SimulationSettings
from simulations.job import TraceChoice
from simulations.trace_views import between
from simulations.workload import DrawnTrace


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of the trace."""

    start_s: float
    stop_s: float

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return self.stop_s - self.start_s


def span_of(choice: TraceChoice, settings: SimulationSettings) -> Span:
    """Return the part that ``choice`` asks for, ending at the latest where the trace does; recorded rows are read once.

    It lasts for a tick at least, as a run does, even if all requests come at its first instant.

    Raises:
        BadInput: If there is no such trace, a row of it is wrong, or nothing arrives in the part.
    """
    trace = choice.opened(settings.seed)
    start_s, duration_s = choice.part_of(trace)
    stop_s = math.inf if duration_s is None else start_s + duration_s
    if isinstance(trace, DrawnTrace):
        stop_s = min(stop_s, trace.duration_s)
    else:
        ends_s = start_s
        for batch in between(trace, start_s, stop_s):
            ends_s = start_s + max(float(batch.arrival_s[-1]), settings.policy.tick_s)
        stop_s = min(stop_s, ends_s)
    if stop_s <= start_s:
        what = f"nothing arrives from second {start_s:g} on that could be replayed"
        raise BadInput(what, str(choice.path), "choose another --start and --duration")
    return Span(start_s, stop_s)
