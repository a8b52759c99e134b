"""What was it over the last so many seconds: windows of samples, and wishes that have to last."""

from __future__ import annotations

import math
from collections import deque


class Span:
    """Samples of one figure over the latest ``length_s`` seconds."""

    __slots__ = ("_length_s", "_samples")

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, at: float, value: float) -> None:
        """Take a sample; NaN is none."""
        if not math.isnan(value):
            self._samples.append((at, value))

    def within(self, at: float, window_s: float | None = None) -> list[float]:
        """Return the samples taken less than ``window_s`` (else the whole length) before ``at``, oldest first."""
        while self._samples and self._samples[0][0] <= at - self._length_s:
            self._samples.popleft()
        if window_s is None:
            return [value for _, value in self._samples]
        return [value for taken_at, value in self._samples if taken_at > at - window_s]

    def mean(self, at: float, window_s: float | None = None) -> float:
        """Return their mean; NaN when there are none."""
        values = self.within(at, window_s)
        return math.fsum(values) / len(values) if values else math.nan


class Patience:
    """Lets a change through once it has been wished for in one direction, without a break, for long enough."""

    __slots__ = ("_since_at", "_upwards")

    def __init__(self) -> None:
        self._upwards: bool | None = None
        self._since_at = -math.inf

    def settle(self, at: float, wanted: int, current: int, up_s: float, down_s: float) -> int:
        """Return ``wanted`` once growing was wished for over ``up_s``, shrinking over ``down_s``; else ``current``."""
        if wanted == current:
            self._upwards = None
            return current
        upwards = wanted > current
        if upwards is not self._upwards:
            self._upwards, self._since_at = upwards, at
        if at - self._since_at < (up_s if upwards else down_s):
            return current
        self._upwards = None
        return wanted
