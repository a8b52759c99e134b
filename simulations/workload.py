"""Which requests does a load series stand for: drawn with a seed, block by block, any window on its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from controller.errors import BadInput
from forecasting.series import LoadSeries
from simulations.arrivals import ArrivalProcess
from simulations.client_workload import RecordedClients
from simulations.rate_curve import RateCurve
from simulations.token_shapes import Lengths, covariance, whole_tokens
from simulations.trace import Float64, Int32, Int64, RequestBatch, joined, rebatched
from simulations.trace_counts import counted

_BLOCK_REQUESTS = 32_768
_SHORTEST_BLOCK_S, _LONGEST_BLOCK_S = 1.0, 3600.0
_MOST_AT_ONCE = 20_000_000
"""Most requests of a block: two gigabytes while they are drawn."""
_COUNTED_REQUESTS = 2_000_000
_DRAWS, _OBSERVATIONS, _SAMPLES, _WINDOWS = range(4)

Source: TypeAlias = "Client | RecordedClients"
"""Whoever sends requests: at a rate, made up or recorded as a sum; or recorded clients with counts and burstiness."""


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """Requests of one kind.

    Attributes:
        curve: How fast they arrive.
        arrivals: How evenly.
        shape: How long they are.
        prompt_mean, output_mean: ``float64[T]`` mean tokens per request in each step of the curve, to which the shape
            is stretched; None where the shape's own mean holds.
    """

    curve: RateCurve
    arrivals: ArrivalProcess
    shape: Lengths
    prompt_mean: Float64 | None = None
    output_mean: Float64 | None = None

    def drawn(self, rng: np.random.Generator, first_s: float, last_s: float) -> RequestBatch:
        """Return the requests that arrive from ``first_s`` to ``last_s``."""
        begin, end = self.curve.expected(np.array([first_s, last_s]))
        at_s, step = self.curve.instants(begin + self.arrivals.events(rng, end - begin))
        return RequestBatch(np.clip(at_s, first_s, last_s), *self.lengths(rng, step))

    def scaled(self, factor: float) -> Client:
        """Return ``factor`` times the rate, with clumps as large as before."""
        return replace(self, curve=self.curve.scaled(factor))

    def lengths(self, rng: np.random.Generator, step: Int64) -> tuple[Int32, Int32]:
        """Return prompt and output tokens of one request in each of the steps ``step`` of the curve."""
        prompt, output = self.shape.draw(rng, len(step))
        if self.prompt_mean is not None:
            prompt *= self.prompt_mean[step] / self.shape.prompt_mean
        if self.output_mean is not None:
            output *= self.output_mean[step] / self.shape.output_mean
        return whole_tokens(prompt), whole_tokens(output)

    def expected_sums(self, edges_s: Float64) -> Float64:
        """Return ``float64[T, 3]``: expected requests, prompt and output tokens between consecutive edges."""
        per_step = np.ones(len(self.curve.rates))
        prompt = self.shape.prompt_mean * per_step if self.prompt_mean is None else self.prompt_mean
        output = self.shape.output_mean * per_step if self.output_mean is None else self.output_mean
        return np.stack([np.diff(self.curve.weighted(each, edges_s)) for each in (per_step, prompt, output)], axis=1)

    def observed_sums(self, rng: np.random.Generator, edges_s: Float64) -> Float64:
        """Return such sums as somebody who counts requests would see them, without drawing the requests.

        The number of requests is drawn from its distribution; the tokens of n requests from a bivariate normal with n
        times the shape's mean and covariance (central limit), never below one token per request.
        """
        expected = self.expected_sums(edges_s)
        count = self.arrivals.counts(rng, expected[:, 0])
        some = expected[:, 0] > 0
        prompt_mean, output_mean = (
            np.divide(expected[:, channel], expected[:, 0], out=np.ones(len(count)), where=some) for channel in (1, 2)
        )
        prompt_var, output_var, cov = covariance(self.shape)
        correlation = cov / math.sqrt(prompt_var * output_var) if prompt_var * output_var > 0 else 0.0
        first, second = rng.standard_normal((2, len(count)))
        second = correlation * first + math.sqrt(1 - correlation**2) * second
        prompt_sd = prompt_mean / self.shape.prompt_mean * math.sqrt(prompt_var)
        output_sd = output_mean / self.shape.output_mean * math.sqrt(output_var)
        prompt = np.maximum(count * prompt_mean + np.sqrt(count) * prompt_sd * first, count)
        output = np.maximum(count * output_mean + np.sqrt(count) * output_sd * second, count)
        return np.stack([count, prompt, output], axis=1)


class DrawnTrace:
    """Requests drawn from rates. A window costs only what is in it.

    Time is cut into blocks. Each client's requests in a block come from a counter-based generator (Philox) keyed by
    seed and client and set to the block's number, so they are the same whatever was drawn before and however the
    result is batched. A renewal process starts each block in equilibrium, so clumps do not reach across blocks.

    Args:
        name: Short name for tables.
        origin: What ``describe`` says about where it comes from.
        generated: Whether the rates themselves were made up.
        clients: All on curves of one length. Recorded clients are one source, and alone: their windows are the blocks.
        seed: Not negative.
        window_s: Where to begin and end; None for all.
        curves_begin_at: Instant of the curves' second 0, seconds since the Unix epoch.
    """

    def __init__(
        self,
        name: str,
        origin: str,
        generated: bool,
        clients: Sequence[Source],
        seed: int,
        window_s: tuple[float, float] | None = None,
        curves_begin_at: float = 0.0,
    ) -> None:
        self.name, self.origin, self.generated = name, origin, generated
        self.clients, self.seed = tuple(clients), seed
        self.end_s = max(client.curve.end_s for client in self.clients)
        self.window_s = (0.0, self.end_s) if window_s is None else window_s
        self._curves_begin_at = curves_begin_at
        self._key = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        # By the peak of the whole curve and not of the window: every window has to see the same blocks.
        fill_s = _BLOCK_REQUESTS / max(self.peak_requests_per_s, 1e-9)
        self._block_s = min(max(fill_s, _SHORTEST_BLOCK_S), _LONGEST_BLOCK_S)
        for client in self.clients:
            if isinstance(client, RecordedClients):
                self._block_s = client.step_s / client.parts

    @property
    def begins_at(self) -> float:
        """Instant at which the window begins."""
        return self._curves_begin_at + self.window_s[0]

    @property
    def duration_s(self) -> float:
        """Length of the window."""
        return self.window_s[1] - self.window_s[0]

    @property
    def peak_requests_per_s(self) -> float:
        """The largest rate of the curves, in the window or not, if all clients had theirs at once."""
        return sum(client.curve.peak for client in self.clients)

    def expected_requests(self, start_s: float, stop_s: float) -> float:
        """Return how many requests are expected between two instants of the window."""
        return self._expected_between(self.window_s[0] + start_s, self.window_s[0] + stop_s)

    def describe(self) -> str:
        """Return one line on where it comes from."""
        start, stop = self.window_s
        window = "" if (start, stop) == (0.0, self.end_s) else f", seconds {start:g} to {stop:g}"
        return f"{self.name}: {self.origin}, requests drawn with seed {self.seed}{window}"

    def batches(self) -> Iterator[RequestBatch]:
        """Yield all requests of the window anew; its start is second 0."""
        return rebatched(self._blocks())

    def sliced(self, start_s: float, duration_s: float) -> DrawnTrace:
        """Return the part of this window that begins ``start_s`` into it.

        Raises:
            BadInput: If nothing of the trace is left there.
        """
        first = self.window_s[0] + start_s
        last = min(first + duration_s, self.window_s[1])
        if last <= first:
            what = f"the slice from {start_s:g} s is empty: the trace is {self.duration_s:g} s long"
            raise BadInput(what, self.name, "start the slice before the end")
        if not self._expected_between(first, last):
            what = f"no request arrives between {start_s:g} s and {start_s + last - first:g} s"
            raise BadInput(what, self.name, "choose another slice: the series has a gap or no load there")
        return self._like(self.clients, (first, last))

    def scaled(self, factor: float) -> DrawnTrace:
        """Return the trace of ``factor`` times the rates, with the clumps of each client as large as before."""
        clients = [each.scaled(factor) for each in self.clients]
        return self._like(clients, self.window_s, f", rates x {factor:g}")

    def expected(self, start_s: float, stop_s: float, step_s: float) -> LoadSeries:
        """Return the mean rates per step from ``start_s`` on, whole steps up to ``stop_s``, free of arrival noise."""
        edges_s = self._edges(start_s, stop_s, step_s)
        sums = np.sum([client.expected_sums(edges_s) for client in self.clients], axis=0)
        return self._series(start_s, step_s, sums)

    def observed(self, start_s: float, stop_s: float, step_s: float) -> LoadSeries:
        """Return what an observer of the requests would have counted per step, whole steps up to ``stop_s``.

        Up to two million expected requests are drawn and counted: the very ones that ``batches`` yields. More are
        not: their counts are drawn from the distribution that such counts have (see ``Client.observed_sums``).
        Seconds are those of this window. A step that lies in a gap is NaN; one partly in a gap is the rate outside it.
        """
        edges_s = self._edges(start_s, stop_s, step_s)
        steps = len(edges_s) - 1
        if not steps:
            return LoadSeries(start_s, step_s, np.zeros((0, 3)))
        if self._expected_between(float(edges_s[0]), float(edges_s[-1])) <= _COUNTED_REQUESTS:
            requests = self._like(self.clients, (float(edges_s[0]), float(edges_s[-1]))).batches()
            return self._series(start_s, step_s, counted(requests, step_s, steps) * step_s)
        first = round(edges_s[0] * 1e3)
        sums = [
            client.observed_sums(self._rng(number, first, _OBSERVATIONS), edges_s)
            for number, client in enumerate(self.clients)
        ]
        return self._series(start_s, step_s, np.sum(sums, axis=0))

    def sample(self, count: int) -> tuple[Int32, Int32]:
        """Return prompt and output tokens of ``count`` requests spread evenly over the requests of the window."""
        ends = np.array(self.window_s)
        spans = [client.curve.expected(ends) for client in self.clients]
        share = np.array([last - first for first, last in spans])
        number = np.diff(np.rint(np.concatenate(([0.0], np.cumsum(share / share.sum()))) * count)).astype(np.int64)
        lengths = []
        for index, (client, (first, last)) in enumerate(zip(self.clients, spans, strict=True)):
            even = first + (np.arange(number[index]) + 0.5) * (last - first) / max(number[index], 1)
            lengths.append(client.lengths(self._rng(index, 0, _SAMPLES), client.curve.instants(even)[1]))
        prompt, output = (np.concatenate(each) for each in zip(*lengths, strict=True))
        return prompt, output

    def _expected_between(self, first_s: float, last_s: float) -> float:
        """Return how many requests are expected between two instants of the curves."""
        ends_s = np.array([first_s, last_s])
        return float(sum(np.diff(client.curve.expected(ends_s))[0] for client in self.clients))

    def _like(self, clients: Sequence[Source], window_s: tuple[float, float], more: str = "") -> DrawnTrace:
        origin = self.origin + more
        return DrawnTrace(self.name, origin, self.generated, clients, self.seed, window_s, self._curves_begin_at)

    def _rng(self, client: int, counter: int, purpose: int) -> np.random.Generator:
        words = np.array([0, purpose, counter, 0], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=np.array([self._key, client], np.uint64), counter=words))

    def _blocks(self) -> Iterator[RequestBatch]:
        if self.peak_requests_per_s * self._block_s > _MOST_AT_ONCE:
            what = f"{self.peak_requests_per_s:g} requests/s are too many to be drawn"
            raise BadInput(what, self.name, f"at most {_MOST_AT_ONCE:,} in {self._block_s:g} s: check the rates")
        start, stop = self.window_s
        for block in range(math.floor(start / self._block_s), math.ceil(stop / self._block_s)):
            parts = [self._drawn(number, client, block) for number, client in enumerate(self.clients)]
            parts = [part for part in parts if len(part)] or parts[:1]
            whole = parts[0]
            if len(parts) > 1:
                arrivals = np.concatenate([part.arrival_s for part in parts])
                whole = joined(parts, np.argsort(arrivals, kind="stable"))
            inside = np.searchsorted(whole.arrival_s, (start, stop))
            yield whole.between(int(inside[0]), int(inside[1]), -start)

    def _drawn(self, number: int, client: Source, block: int) -> RequestBatch:
        """Return a client's requests in a block."""
        if isinstance(client, Client):
            first_s, last_s = block * self._block_s, (block + 1) * self._block_s
            return client.drawn(self._rng(number, block, _DRAWS), first_s, last_s)
        draws, windows = (partial(self._rng, number, purpose=purpose) for purpose in (_DRAWS, _WINDOWS))
        return client.drawn(draws, windows, block)

    def _edges(self, start_s: float, stop_s: float, step_s: float) -> Float64:
        """Return the edges of the whole steps between two instants of the window, in seconds of the curves."""
        steps = max(math.floor((min(stop_s, self.duration_s) - start_s) / step_s + 1e-9), 0)
        return np.asarray(self.window_s[0] + start_s + np.arange(steps + 1) * step_s)

    def _series(self, start_s: float, step_s: float, sums: Float64) -> LoadSeries:
        edges_s = self.window_s[0] + start_s + np.arange(len(sums) + 1) * step_s
        covered = np.max([np.diff(client.curve.covered_s(np.asarray(edges_s))) for client in self.clients], axis=0)
        rates = np.full_like(sums, np.nan)
        seen = covered > 1e-9 * step_s
        rates[seen] = sums[seen] / covered[seen, None]
        return LoadSeries(start_s, step_s, rates)
