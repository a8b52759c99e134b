"""Is what arrives neither over- nor underestimated by counters that start, stop, restart and vanish?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from controller.offered_load import ArrivalRates, Arrivals, Counted


class Watched:
    """Counters of engines (or of a gateway, if ``received``), looked at every 15 s."""

    def __init__(self, stale_after_s: float = 45.0, coverage: float = 0.7) -> None:
        self.rates = ArrivalRates(stale_after_s, coverage)

    def look(
        self,
        at: float,
        ended: Sequence[float] = (),
        inside: Sequence[float] | None = None,
        *,
        received: Sequence[float] | None = None,
        retried: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        sampled_at: Sequence[float] | None = None,
        gone: Sequence[str] = (),
        models: Sequence[str] | None = None,
    ) -> Arrivals:
        counts = received if received is not None else ended
        size = len(counts)
        none = np.full(size, np.nan)
        keys = list(names) if names is not None else [f"r{number}" for number in range(size)]
        counted = Counted(
            keys,
            list(models) if models is not None else ["m"] * size,
            np.full(size, at - 1.0) if sampled_at is None else np.array(sampled_at),
            none if received is None else np.array(received, dtype=float),
            none if retried is None else np.array(retried, dtype=float),
            none if received is not None else np.array(ended, dtype=float),
            none if inside is None else np.array(inside, dtype=float),
        )
        return self.rates.update(counted, at, lambda key: key not in gone)


def test_the_first_look_knows_no_rate() -> None:
    seen = Watched().look(0.0, [100.0])
    assert seen.requests_per_s == {}
    assert "0 of 1" in seen.unknown["m"]


def test_what_queues_up_has_arrived_as_well() -> None:
    watched = Watched()
    watched.look(0.0, [100.0, 200.0], [2.0, 3.0])
    seen = watched.look(15.0, [160.0, 260.0], [17.0, 18.0])
    assert seen.requests_per_s["m"] == pytest.approx((120 + 30) / 15)


def test_a_queue_that_is_worked_off_did_not_arrive_again() -> None:
    watched = Watched()
    watched.look(0.0, [100.0], [30.0])
    assert watched.look(15.0, [130.0], [0.0]).requests_per_s["m"] == 0.0


def test_arrivals_that_are_counted_are_believed_and_retries_taken_off() -> None:
    watched = Watched()
    watched.look(0.0, received=[100.0], retried=[10.0])
    assert watched.look(15.0, received=[190.0], retried=[40.0]).requests_per_s["m"] == pytest.approx(60 / 15)


def test_an_idle_fleet_is_observed_as_zero() -> None:
    watched = Watched()
    watched.look(0.0, [100.0], [0.0])
    assert watched.look(15.0, [100.0], [0.0]).requests_per_s == {"m": 0.0}


def test_an_engine_that_began_anew_arrives_with_what_it_has_done_since() -> None:
    watched = Watched()
    watched.look(0.0, [10_000.0], [5.0])
    seen = watched.look(15.0, [30.0], [3.0])
    assert seen.requests_per_s["m"] == pytest.approx(33 / 15)


def test_a_sum_that_loses_a_part_is_no_reset() -> None:
    watched = Watched()
    watched.look(0.0, [10_000.0], [5.0])
    seen = watched.look(15.0, [9_000.0], [5.0])
    assert "m" not in seen.requests_per_s


def test_an_engine_that_is_new_does_not_arrive_with_its_whole_past() -> None:
    watched = Watched()
    watched.look(0.0, [100.0], [0.0])
    seen = watched.look(15.0, [250.0, 1_000_000.0], [0.0, 15.0])
    assert seen.requests_per_s["m"] == pytest.approx(150 / 15 + 15 / 15)


def test_one_scrape_looked_at_twice_keeps_its_rate_until_it_is_stale() -> None:
    watched = Watched()
    watched.look(0.0, [100.0], [0.0])
    watched.look(15.0, [250.0], [0.0])
    again = watched.look(30.0, [250.0], [0.0], sampled_at=[14.0])
    assert again.requests_per_s["m"] == pytest.approx(10.0)
    stale = watched.look(75.0, [250.0], [0.0], sampled_at=[14.0])
    assert "m" not in stale.requests_per_s
    back = watched.look(90.0, [1010.0], [0.0])
    assert back.requests_per_s["m"] == pytest.approx(760 / 75)


def test_a_silent_engine_goes_on_at_its_last_rate_and_then_the_sum_is_not_believed() -> None:
    watched = Watched()
    watched.look(0.0, [100.0, 100.0], [0.0, 0.0])
    watched.look(15.0, [250.0, 250.0], [0.0, 0.0])
    assert watched.look(30.0, [400.0], [0.0]).requests_per_s["m"] == pytest.approx(20.0)
    assert watched.rates.silent == ["r1"]
    lost = watched.look(75.0, [850.0], [0.0])
    assert lost.requests_per_s == {}
    assert "1 of 2" in lost.unknown["m"]


def test_an_engine_that_is_gone_is_not_waited_for() -> None:
    watched = Watched()
    watched.look(0.0, [100.0, 100.0], [0.0, 0.0])
    watched.look(15.0, [250.0, 250.0], [0.0, 0.0])
    assert watched.look(30.0, [400.0], [0.0], gone=["r1"]).requests_per_s["m"] == pytest.approx(10.0)


def test_an_engine_that_has_been_silent_for_long_is_forgotten() -> None:
    watched = Watched()
    watched.look(0.0, [100.0, 100.0], [0.0, 0.0])
    watched.look(15.0, [250.0, 250.0], [0.0, 0.0])
    watched.look(690.0, [250.0], [0.0])
    assert watched.look(705.0, [400.0], [0.0]).requests_per_s["m"] == pytest.approx(10.0)


def test_models_are_counted_apart() -> None:
    watched = Watched()
    watched.look(0.0, [0.0, 0.0, 0.0], [0.0] * 3, models=["a", "b", "a"])
    seen = watched.look(15.0, [15.0, 30.0, 45.0], [0.0] * 3, models=["a", "b", "a"])
    assert seen.requests_per_s == pytest.approx({"a": 4.0, "b": 2.0})


def test_all_gone_at_once_is_unknown_and_not_idle() -> None:
    watched = Watched()
    watched.look(0.0, [100.0], [0.0])
    watched.look(15.0, [250.0], [0.0])
    seen = watched.look(75.0)
    assert seen.requests_per_s == {}
    assert "m" in seen.unknown


def test_a_count_without_a_time_is_no_rate_and_no_warning() -> None:
    watched = Watched()
    for at in (0.0, 15.0):
        assert watched.look(at, received=[100.0 + at], sampled_at=[-math.inf]).requests_per_s == {}
    assert watched.look(30.0, received=[130.0, 5.0], sampled_at=[-math.inf, -math.inf]).requests_per_s == {}
