"""Which traces does a process keep open, so that a hundred runs on one trace read it once?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from simulations.case import SimulationSettings
from simulations.job import OpenTrace, TraceChoice
from simulations.trace import RequestBatch, Trace
from simulations.workload import DrawnTrace

MOST_REQUESTS = 4_000_000
"""Most requests held by one process: 64 MB. A trace with more is read anew by each run, in flat memory."""

MOST_TRACES = 32
"""Most traces held, however small: a few files times a few seeds, for search and validation."""


class HeldTrace:
    """A recorded trace whose requests are in memory."""

    def __init__(self, trace: Trace, batches: Sequence[RequestBatch]) -> None:
        self.name, self.generated, self.begins_at = trace.name, trace.generated, trace.begins_at
        self._trace, self._batches = trace, batches

    def describe(self) -> str:
        """Return the trace's own line."""
        return self._trace.describe()

    def batches(self) -> Iterator[RequestBatch]:
        """Yield all requests anew."""
        yield from self._batches


class HeldTraces:
    """Traces by everything that decides what is in them; those that were not asked for lately go first."""

    def __init__(self, most_requests: int = MOST_REQUESTS) -> None:
        self._most = most_requests
        self._open: OrderedDict[object, tuple[OpenTrace, int]] = OrderedDict()

    def open(self, choice: TraceChoice, settings: SimulationSettings) -> OpenTrace:
        """Return what ``choice.open(settings)`` does.

        Raises:
            BadInput: As ``TraceChoice.open``.
        """
        # The history before the trace depends on the last three.
        world = settings.fleet.epoch_at if "epoch_at" in settings.fleet.model_fields_set else None
        key = (choice, settings.seed, settings.policy.tick_s, settings.forecast.kept_s, world)
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key][0]
        opened = choice.open(settings)
        trace, count = self._held(opened.trace)
        opened = opened._replace(trace=trace)
        if count is not None:
            self._open[key] = opened, count
            while sum(held for _, held in self._open.values()) > self._most or len(self._open) > MOST_TRACES:
                self._open.popitem(last=False)
        return opened

    def _held(self, trace: Trace) -> tuple[Trace, int | None]:
        """Return the trace to use, and how many requests are held for it; None when it is not to be kept."""
        if isinstance(trace, DrawnTrace):
            return trace, 0  # its rates are in memory, and what is drawn from them is drawn as quickly again
        batches: list[RequestBatch] = []
        count = 0
        for batch in trace.batches():
            count += len(batch)
            if count > self._most or batch.block_hashes is not None:  # hundreds of integers a request
                return trace, None
            batches.append(batch)
        return HeldTrace(trace, tuple(batches)), count


_HELD = HeldTraces()


def held(choice: TraceChoice, settings: SimulationSettings) -> OpenTrace:
    """Return the trace as opened for an earlier run of this process, if it is the same."""
    return _HELD.open(choice, settings)
