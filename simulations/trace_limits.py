"""Is what is asked of a trace too much to be replayed, or nothing at all?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from controller.errors import BadInput
from simulations.trace import LONGEST_S, Trace
from simulations.trace_views import MOST_COPIES, between
from simulations.workload import DrawnTrace

MOST_REQUESTS = 50_000_000
"""Most requests of one run: a week of one of the largest recorded services. The fleet alone takes half a minute."""

MOST_TICKS = 2_500_000
"""Most decisions of one run: more than a year at the default tick."""


@dataclass(frozen=True, slots=True)
class Part:
    """What of a trace is replayed, and how much of it.

    Attributes:
        start_s, stop_s: Seconds of the trace; ``stop_s`` may be infinite.
        history_s: How much before the start is read too.
        factor: By what the load is multiplied.
        tick_s: Time between decisions.
    """

    start_s: float
    stop_s: float
    history_s: float
    factor: float
    tick_s: float


def check_amount(trace: Trace, part: Part) -> None:
    """Make sure that the part of ``trace``, which is not scaled yet, can be replayed; recorded rows of it are read.

    Raises:
        BadInput: If it has too many requests or lasts too long, with the number and the limit; if nothing arrives in
            it; if a row is wrong.
    """
    requests, lasts_s = _drawn(trace, part) if isinstance(trace, DrawnTrace) else _recorded(trace, part)
    wanted = requests * part.factor
    if not wanted <= MOST_REQUESTS:
        times = "" if part.factor == 1 else f" ({_count(requests)} times {part.factor:g})"
        what = f"{_count(wanted)} requests{times} are too many for a run: at most {MOST_REQUESTS:,}"
        raise BadInput(what, trace.name, "give a smaller --scale or a shorter --duration")
    if part.factor > MOST_COPIES and not isinstance(trace, DrawnTrace):
        what = f"recorded requests can be copied at most {MOST_COPIES:,} times, not {part.factor:g} times"
        raise BadInput(what, trace.name, "give a smaller --scale, or a load series in the place of requests")
    ticks = lasts_s / part.tick_s
    if not (lasts_s <= LONGEST_S and ticks <= MOST_TICKS):
        what = f"{_count(lasts_s)} s are too long for a run: {_count(ticks)} ticks of {part.tick_s:g} s, at most "
        what += f"{MOST_TICKS:,} ticks and {LONGEST_S:,.0f} s"
        raise BadInput(what, trace.name, "give a shorter --duration, or a longer tick with --set policy.tick_s=S")


def check_left(trace: Trace, factor: float) -> None:
    """Make sure that a request is left to replay; the load has been multiplied by ``factor``.

    Raises:
        BadInput: If there is none.
    """
    try:
        some = any(len(batch) for batch in trace.batches())
    except BadInput:
        if factor >= 1:
            raise
        some = False  # there were requests before they were thinned: ``check_amount`` has seen them
    if not some:
        scaled = "" if factor == 1 else f" of the load times {factor:g}"
        raise BadInput(f"no request is left{scaled}", trace.name, "give a larger --scale or a longer --duration")


def _recorded(trace: Trace, part: Part) -> tuple[float, float]:
    """Return the requests that are copied, and when the last arrives."""
    # The history is copied too; as it is, it is read and nothing more.
    first_s = max(0.0, part.start_s - part.history_s) if part.factor > 1 else part.start_s
    requests, last_s, arrives = 0, 0.0, False
    for batch in between(trace, first_s, part.stop_s):
        requests += len(batch)
        last_s = first_s + float(batch.arrival_s[-1])
        arrives = arrives or last_s >= part.start_s
    if not arrives:
        end = "the end" if math.isinf(part.stop_s) else f"{part.stop_s:g}"
        what = f"no request arrives in the slice from second {part.start_s:g} to {end}"
        raise BadInput(what, trace.name, "choose another slice: the trace ends before it, or has a gap there")
    return requests, last_s - part.start_s


def _drawn(trace: DrawnTrace, part: Part) -> tuple[float, float]:
    """Return the requests that are to be expected, and how long the part lasts."""
    stop_s = min(part.stop_s, trace.duration_s)
    # Nothing shorter than a second is drawn.
    expected = max(trace.expected_requests(part.start_s, stop_s), trace.peak_requests_per_s)
    return expected, stop_s - part.start_s


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e15 else f"{number:.3g}"
