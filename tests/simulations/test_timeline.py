"""Is the course of a run kept as it was, to the last digit, in little memory?"""

from __future__ import annotations

import copy
import math
import tracemalloc
from dataclasses import replace

from pydantic import TypeAdapter

from simulations.scorecard import TimelinePoint
from simulations.timeline import Timeline

POINTS = (
    TimelinePoint(0.0, 3, 2, 1, 3, "ets", (("m/p/unified", 2),), 1.5, 0.0, 0.1),
    TimelinePoint(15.0, 3, 3, 0, 3, "", (("m/p/unified", 3),)),
    TimelinePoint(30.25, 4, 3, 1, 4, "ets", (("m/p/unified", 3),), 2.0, 1.0, 1 / 3),
)


def test_points_come_back_as_they_were() -> None:
    kept = Timeline(POINTS)
    assert repr(list(kept)) == repr(list(POINTS))  # NaN is not equal to itself
    assert (len(kept), kept[0], kept[-1]) == (3, POINTS[0], POINTS[2])
    assert kept[::2] == (POINTS[0], POINTS[2])
    assert math.isnan(kept[1].queued_requests)
    assert list(Timeline()) == []


def test_timelines_of_equal_points_are_equal() -> None:
    assert Timeline(POINTS) == Timeline(list(POINTS)) == copy.deepcopy(Timeline(POINTS))
    for change in ({"ready": 1}, {"source": "lstm"}, {"ready_in": ()}, {"kv_cache_ratio": 0.2}):
        assert Timeline(POINTS) != Timeline((replace(POINTS[0], **change), *POINTS[1:]))  # type: ignore[arg-type]
    assert Timeline(POINTS) != POINTS


def test_it_is_written_as_its_points_are() -> None:
    whole, plain = TypeAdapter(Timeline), TypeAdapter(tuple[TimelinePoint, ...])
    assert repr(whole.dump_python(Timeline(POINTS))) == repr(plain.dump_python(POINTS))
    assert whole.validate_python(plain.dump_python(POINTS)) == Timeline(POINTS)


def test_a_day_of_ticks_takes_a_third_of_a_megabyte() -> None:
    day = [replace(POINTS[0], at_s=15.0 * tick) for tick in range(5_760)]
    tracemalloc.start()
    kept = Timeline(day)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 5_760
    assert taken < 350_000
