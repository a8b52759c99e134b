"""What does a trace look like after a change: retimed, repeated, followed, mixed, crowded or interrupted?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from controller.errors import BadInput
from simulations.block_hashes import salt_of
from simulations.trace import LONGEST_S, Float64, RequestBatch, Trace, joined, rebatched
from simulations.trace_streams import Columns, merged, moved
from simulations.trace_views import JITTER_S, length_of

_REPEATS, _PARTNERS, _CROWD = 2, 3, 4
"""Whose sessions and block hashes are kept apart from those of others; ``trace_views`` has 1."""

_MOST_WAITING = 20_000_000
"""Most requests that wait for the end of an outage: half a gigabyte."""


class _Changed:
    """A trace made from another: named like it, with one more part in its description."""

    def __init__(self, trace: Trace, change: str) -> None:
        self.name, self.generated, self.begins_at = trace.name, trace.generated, trace.begins_at
        self._trace, self._change = trace, change

    def describe(self) -> str:
        """Return the trace's line, and what was done to it."""
        return f"{self._trace.describe()}, {self._change}"

    def batches(self) -> Iterator[RequestBatch]:
        """Yield the requests anew; raises BadInput where the change turns out not to fit."""
        for batch in rebatched(self._changed()):
            if batch.arrival_s[-1] > LONGEST_S:
                what = (
                    f"a request would arrive after {batch.arrival_s[-1]:g} s: a trace lasts at most {LONGEST_S:,.0f} s"
                )
                raise BadInput(
                    what, f"{self.name}, {self._change}", "make the trace shorter before, with slice@0:length=S"
                )
            yield batch

    def _changed(self) -> Iterator[RequestBatch]:
        raise NotImplementedError

    def _too_late(self, at_s: float, last_s: float) -> BadInput:
        what = f"the last request arrives after {last_s:g} s, so there is nothing to change at {at_s:g} s"
        return BadInput(what, f"{self.name}, {self._change}", "give an earlier instant")


class Retimed(_Changed):
    """Every request ``factor`` times as late, and then ``later_s`` later."""

    def __init__(self, trace: Trace, factor: float = 1.0, later_s: float = 0.0) -> None:
        super().__init__(trace, f"time x {factor:g}" if factor != 1 else f"{later_s:g} s later")
        self._factor, self._later_s = factor, later_s
        length_s = length_of(trace)
        self.length_s = None if length_s is None else length_s * factor + later_s
        if (self.length_s or 0.0) > LONGEST_S:
            what = f"the trace would be {self.length_s:g} s long: at most {LONGEST_S:,.0f} s"
            raise BadInput(what, f"{self.name}, {self._change}", "give a smaller factor or shift")

    def _changed(self) -> Iterator[RequestBatch]:
        for batch in self._trace.batches():
            arrival_s = batch.arrival_s * self._factor + self._later_s
            if not np.isfinite(arrival_s[-1]):
                raise BadInput("times are too large for this", f"{self.name}, {self._change}", "give a smaller factor")
            yield batch.at(arrival_s)


class Repeated(_Changed):
    """The same requests several times. Each time other users send them: sessions and prompts are not shared."""

    def __init__(self, trace: Trace, times: int, every_s: float) -> None:
        when = "" if math.isinf(every_s) else f", every {every_s:g} s"
        super().__init__(trace, f"{times} times{when}")
        self._times, self._every_s = times, every_s
        length_s = length_of(trace) if math.isinf(every_s) else every_s
        self.length_s = None if length_s is None else length_s * times
        if (self.length_s or 0.0) > LONGEST_S:
            what = f"the trace would be {self.length_s:g} s long: at most {LONGEST_S:,.0f} s"
            raise BadInput(what, f"{self.name}, {self._change}", "repeat it less often")

    def _changed(self) -> Iterator[RequestBatch]:
        every_s = self._every_s if math.isfinite(self._every_s) else None
        until_s = 0.0
        for number in range(self._times):
            last_s = 0.0
            for batch in self._trace.batches():
                last_s = float(batch.arrival_s[-1])
                if every_s is not None and last_s > every_s:
                    what = f"a request arrives after {last_s:g} s, when the next repetition has begun"
                    raise BadInput(
                        what, f"{self.name}, {self._change}", f"repeat it every {math.ceil(last_s)} s or more"
                    )
                own = batch.of_others(salt_of(number, _REPEATS))
                # The end of one and the beginning of the next are one instant, but their sums are rounded each.
                arrival_s = np.maximum(own.arrival_s + number * (every_s or 0.0), until_s)
                yield own.at(arrival_s)
                until_s = float(arrival_s[-1])
            every_s = max(last_s, length_of(self._trace) or 0.0) if every_s is None else every_s


class Followed(_Changed):
    """Another trace from ``at_s`` on (infinite: at the end), and then what the first one has left."""

    def __init__(self, trace: Trace, other: Trace, at_s: float) -> None:
        where = "followed by" if math.isinf(at_s) else f"at {at_s:g} s"
        super().__init__(trace, f"{where} {other.name}")
        self.generated = trace.generated or other.generated
        self._other, self._at_s = other, at_s
        lengths = (length_of(trace), length_of(other))
        self.length_s = None if lengths[0] is None or lengths[1] is None else lengths[0] + lengths[1]

    def _changed(self) -> Iterator[RequestBatch]:
        columns = Columns.of((self._trace, self._other))
        last_s, left = 0.0, None
        batches = self._trace.batches()
        for batch in batches:
            last_s = float(batch.arrival_s[-1])
            own = columns.filled(batch)
            cut = int(np.searchsorted(own.arrival_s, self._at_s))
            if cut:
                yield own.between(0, cut)
            if cut < len(own):
                left = own.between(cut, len(own))
                break
        if left is None and math.isfinite(self._at_s):
            raise self._too_late(self._at_s, last_s)
        length_s = length_of(self._trace)
        from_s = self._at_s if left is not None else max(last_s, length_s or 0.0)
        put_in_s = 0.0
        for batch in self._other.batches():
            put_in_s = float(batch.arrival_s[-1])
            yield columns.filled(batch.of_others(salt_of(1, _PARTNERS)).between(0, len(batch), from_s))
        if left is not None:
            later_s = max(put_in_s, length_of(self._other) or 0.0)
            yield left.between(0, len(left), later_s)
            yield from (columns.filled(batch) for batch in moved(batches, later_s))


class Mixed(_Changed):
    """The requests of two traces."""

    def __init__(self, trace: Trace, other: Trace) -> None:
        super().__init__(trace, f"with {other.name}")
        self.generated = trace.generated or other.generated
        self._other = other
        lengths = (length_of(trace), length_of(other))
        self.length_s = None if lengths[0] is None or lengths[1] is None else max(lengths[0], lengths[1])

    def _changed(self) -> Iterator[RequestBatch]:
        columns = Columns.of((self._trace, self._other))
        own = (columns.filled(batch) for batch in self._trace.batches())
        others = (columns.filled(batch.of_others(salt_of(1, _PARTNERS))) for batch in self._other.batches())
        return merged(own, others)


class Crowded(_Changed):
    """A flash crowd: jittered copies of the requests that arrive in it, by other users.

    Args:
        trace: The load.
        corners_s: ``float64[4]``: when it begins, is at its height, begins to fall, is over; straight lines between.
        peak: How many times the load at the height.
        seed: Which requests are copied.
    """

    def __init__(self, trace: Trace, corners_s: Float64, peak: float, seed: int) -> None:
        super().__init__(trace, f"crowd x {peak:g} from {corners_s[0]:g} to {corners_s[3]:g} s (seed {seed})")
        self._corners_s, self._peak, self._seed = corners_s, peak, seed
        self.length_s = length_of(trace)

    def _changed(self) -> Iterator[RequestBatch]:
        copies = [_CrowdCopy(number, self._seed) for number in range(math.ceil(self._peak - 1))]
        begins_s, over_s = float(self._corners_s[0]), float(self._corners_s[3])
        last_s, held = 0.0, None
        for batch in self._trace.batches():
            last_s = float(batch.arrival_s[-1])
            sources = batch.between(*(int(row) for row in np.searchsorted(batch.arrival_s, (begins_s, over_s))))
            if not len(sources) and held is None:
                yield batch
                continue
            parts = [batch] if held is None else [held, batch]
            extra = np.interp(sources.arrival_s, self._corners_s, (0.0, self._peak - 1, self._peak - 1, 0.0))
            parts += [part for copy in copies for part in copy.of(sources, extra, begins_s)]
            order = np.argsort(np.concatenate([part.arrival_s for part in parts]), kind="stable")
            whole = joined(parts, order)
            # A copy of a request still to come is at most a jitter earlier than that.
            settled_s = last_s - JITTER_S if last_s < over_s else last_s
            settled = int(np.searchsorted(whole.arrival_s, settled_s))
            yield whole.between(0, settled)
            held = whole.between(settled, len(whole)) if settled < len(whole) else None
        if last_s < begins_s:
            raise self._too_late(begins_s, last_s)
        if held is not None:
            yield held


class _CrowdCopy:
    """One further copy of the requests in a crowd."""

    def __init__(self, number: int, seed: int) -> None:
        self._number = number
        self._random = np.random.default_rng(np.random.SeedSequence([seed, number]))

    def of(self, sources: RequestBatch, extra: Float64, begins_s: float) -> Iterator[RequestBatch]:
        """Yield the copies, in order of arrival, maybe none; ``extra`` is how many copies each request should have."""
        # Two uniforms per request, in order, so that batch borders do not matter.
        uniforms = self._random.random((len(sources), 2))
        kept = np.flatnonzero(uniforms[:, 0] < extra - self._number)
        if len(kept):
            at_s = sources.arrival_s[kept] + (uniforms[kept, 1] - 0.5) * (2 * JITTER_S)
            at_s = begins_s + np.abs(at_s - begins_s)
            order = np.argsort(at_s, kind="stable")
            yield sources.taken(kept[order], at_s[order]).of_others(salt_of(self._number + 1, _CROWD))


class Interrupted(_Changed):
    """An outage: what would arrive in it is missing, and a share of it comes after its end, all at about once.

    Args:
        trace: The load.
        begins_s, over_s: The outage.
        retry_ratio: Share of the missing requests that come again.
        spread_s: How long after the end, exponentially distributed with this mean.
        seed: Which requests, and when.
    """

    def __init__(
        self, trace: Trace, begins_s: float, over_s: float, retry_ratio: float, spread_s: float, seed: int
    ) -> None:
        retried = f", {retry_ratio:.0%} of it retried" if retry_ratio else ""
        super().__init__(trace, f"outage from {begins_s:g} to {over_s:g} s{retried} (seed {seed})")
        self._begins_s, self._over_s = begins_s, over_s
        self._retry_ratio, self._spread_s, self._seed = retry_ratio, spread_s, seed
        self.length_s = length_of(trace)

    def _changed(self) -> Iterator[RequestBatch]:
        random = np.random.default_rng(np.random.SeedSequence([self._seed]))
        missed: list[RequestBatch] = []
        waiting, last_s, some = 0, 0.0, False
        batches = self._trace.batches()
        for batch in batches:
            last_s = float(batch.arrival_s[-1])
            first, last = (int(row) for row in np.searchsorted(batch.arrival_s, (self._begins_s, self._over_s)))
            if first:
                yield batch.between(0, first)
            if last > first:
                some = True
                out = batch.between(first, last)
                uniforms = random.random(len(out))
                missed.append(out.taken(uniforms < self._retry_ratio))
                waiting += len(missed[-1])
                if waiting > _MOST_WAITING:
                    what = f"more than {_MOST_WAITING:,} requests would be retried"
                    raise BadInput(what, f"{self.name}, {self._change}", "make the outage shorter, or retry fewer")
            if last < len(batch):
                after = batch.between(last, len(batch))
                yield from merged(_chained(after, batches), iter(self._retries(missed, random)))
                return
        if last_s < self._begins_s or not some:
            raise self._too_late(self._begins_s, last_s)
        yield from self._retries(missed, random)

    def _retries(self, missed: list[RequestBatch], random: np.random.Generator) -> list[RequestBatch]:
        """Return the requests that come again, in order of arrival."""
        if not sum(len(part) for part in missed):
            return []
        whole = joined(missed)
        at_s = self._over_s + random.standard_exponential(len(whole)) * self._spread_s
        order = np.argsort(at_s, kind="stable")
        return [whole.taken(order, at_s[order])]


def _chained(first: RequestBatch, rest: Iterator[RequestBatch]) -> Iterator[RequestBatch]:
    yield first
    yield from rest
