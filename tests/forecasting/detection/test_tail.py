"""Is a deviation said to be as rare as it is?"""

from __future__ import annotations

import json

import numpy as np
import pytest

from forecasting.detection.tail import LEAST, RAREST, TAIL, Tail


def filled(deviations: np.ndarray, memory: float = 4000.0) -> Tail:
    tail = Tail(memory)
    for deviation in deviations.tolist():
        tail.add(deviation)
    return tail


def test_nothing_is_rare_before_enough_is_known() -> None:
    tail = filled(np.ones(LEAST - 1))
    assert tail.add(1e6) == 0.0
    assert tail.add(1e12) > 3.0


def test_within_what_was_seen_rarity_is_the_share_that_was_larger() -> None:
    deviations = np.random.default_rng(0).exponential(3.0, 3000)
    for share in (0.5, 0.1, 0.01):
        asked = float(np.quantile(deviations, 1.0 - share))
        # Bins are a sixteenth to an eighth of a value wide; counts fade, the oldest of 3,000 by half.
        assert filled(deviations).add(asked) == pytest.approx(-np.log10(share), abs=0.08)


def test_beyond_what_was_seen_rarity_follows_the_tail_and_stays_finite() -> None:
    rng = np.random.default_rng(1)
    # Of an exponential law, exp(-14) = 10**-6.1; what five excesses know of their mean makes it more careful.
    light = filled(rng.exponential(1.0, 4000)).add(14.0)
    heavy = filled(rng.pareto(1.5, 4000)).add(14.0)
    assert 3.5 < light < 6.1
    assert heavy < 2.5
    assert filled(rng.exponential(1.0, 4000)).add(1e300) == RAREST


def test_rarity_does_not_know_the_unit() -> None:
    deviations = np.random.default_rng(2).exponential(1.0, 2000)
    for unit in (2.0**-200, 2.0**40):
        assert filled(deviations * unit).add(9.0 * unit) == pytest.approx(filled(deviations).add(9.0), abs=1e-9)


def test_a_first_deviation_after_none_at_all_is_as_rare_as_can_be() -> None:
    assert filled(np.zeros(500)).add(0.01) == RAREST
    assert filled(np.zeros(500)).add(0.0) == 0.0


def test_old_deviations_are_forgotten() -> None:
    tail = filled(np.concatenate([np.full(500, 100.0), np.random.default_rng(3).exponential(1.0, 6000)]), memory=500.0)
    assert tail.add(100.0) > 3.0


def test_a_deviation_of_given_rarity_is_that_rare() -> None:
    tail = filled(np.random.default_rng(4).exponential(2.0, 4000))
    for rarity in (1.0, 2.0, 3.0, 5.0):
        deviation = tail.at_rarity(rarity)
        assert tail.copy().add(deviation) == pytest.approx(rarity, abs=0.02)
    assert Tail(100.0).at_rarity(3.0) == float("inf")


def test_the_state_stays_small_whatever_comes() -> None:
    tail = filled(10.0 ** np.random.default_rng(5).uniform(-140, 140, 60_000), memory=200.0)
    # 280 decades are 930 octaves; of the 200 values in effect none is older than some ten times that.
    assert len(json.dumps(tail.to_json())) < 100_000


def test_json_and_copies_are_equal_and_apart() -> None:
    tail = filled(np.random.default_rng(6).exponential(1.0, 1500))
    kept = Tail.from_json(json.loads(json.dumps(tail.to_json())), tail.memory)
    copied = tail.copy()
    assert [t.add(7.0) for t in (kept, copied, tail)] == [pytest.approx(tail.copy().add(7.0), abs=0.5)] * 3
    assert kept.to_json() == copied.to_json() == tail.to_json()
    copied.add(3.0)
    assert copied.to_json() != tail.to_json()


def test_the_tail_is_that_of_the_largest_few() -> None:
    tail = filled(np.arange(1.0, 101.0))
    assert tail._tail()[0] == pytest.approx(100.0 - TAIL, rel=0.05)
