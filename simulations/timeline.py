"""How is the course of a run kept, tick by tick, in a third of the memory that an object per tick takes?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from simulations.scorecard import TimelinePoint

_NUMBERS = (
    ("at_s", "f8"),
    ("desired", "i4"),
    ("ready", "i4"),
    ("starting", "i4"),
    ("existing", "i4"),
    ("queued_requests", "f8"),
    ("held_requests", "f8"),
    ("kv_cache_ratio", "f8"),
)
_POINT = np.dtype([*_NUMBERS, ("source", "i4"), ("ready_in", "i4")])


class Timeline(Sequence[TimelinePoint]):
    """The points of a run in order. They are made when they are asked for: whoever wants all of them asks once.

    A comparison keeps those of all its runs: 120 runs of three days are two million points.
    """

    def __init__(self, points: Iterable[TimelinePoint] = ()) -> None:
        listed = tuple(points)
        sources = {source: place for place, source in enumerate(dict.fromkeys(point.source for point in listed))}
        ready_in = {ready: place for place, ready in enumerate(dict.fromkeys(point.ready_in for point in listed))}
        self._sources, self._ready_in = tuple(sources), tuple(ready_in)
        self._points = np.empty(len(listed), _POINT)
        for name, _ in _NUMBERS:
            self._points[name] = [getattr(point, name) for point in listed]
        self._points["source"] = [sources[point.source] for point in listed]
        self._points["ready_in"] = [ready_in[point.ready_in] for point in listed]

    def __len__(self) -> int:
        return len(self._points)

    @overload
    def __getitem__(self, place: int) -> TimelinePoint: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[TimelinePoint, ...]: ...

    def __getitem__(self, place: int | slice) -> TimelinePoint | tuple[TimelinePoint, ...]:
        if isinstance(place, slice):
            return tuple(self._made(values) for values in self._points[place].tolist())
        return self._made(self._points[place].item())

    def __iter__(self) -> Iterator[TimelinePoint]:
        return iter(self[:])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented
        same = self._sources == other._sources and self._ready_in == other._ready_in and len(self) == len(other)
        return same and all(
            np.array_equal(self._points[name], other._points[name], equal_nan=True) for name in _POINT.names or ()
        )

    def __repr__(self) -> str:
        return f"Timeline({list(self)!r})"

    __hash__ = None  # type: ignore[assignment]  # as of any list

    def _made(self, values: tuple[Any, ...]) -> TimelinePoint:
        at_s, desired, ready, starting, existing, queued, held, kv_cache_ratio, source, ready_in = values
        return TimelinePoint(
            at_s,
            desired,
            ready,
            starting,
            existing,
            self._sources[source],
            self._ready_in[ready_in],
            queued,
            held,
            kv_cache_ratio,
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let kept runs have the points one by one, as they always had."""
        points = handler.generate_schema(tuple[TimelinePoint, ...])
        return core_schema.no_info_after_validator_function(
            cls, points, serialization=core_schema.plain_serializer_function_ser_schema(tuple, return_schema=points)
        )
