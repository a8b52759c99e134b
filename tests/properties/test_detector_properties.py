"""Which laws hold for any metric, however odd?"""

from __future__ import annotations

import json
from math import isfinite

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.detection.detector import Detector

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(-5, 5).map(float), st.floats(-100.0, 100.0)
)
GAPS = st.one_of(st.sampled_from([60.0, 300.0]), st.floats(-1e6, 1e9))


def rows_of(seed: int, odd: list[tuple[int, float, float]]) -> list[tuple[float, float]]:
    """Return 400 rows of noise with some odd times and values."""
    rng = np.random.default_rng(seed)
    rows = [(300.0 * row, float(value)) for row, value in enumerate(rng.normal(10.0, 1.0, 400))]
    for row, gap, value in odd:
        rows[row] = (rows[row][0] + gap, value)
    return rows


ODD_ROWS = st.builds(rows_of, st.integers(0, 5), st.lists(st.tuples(st.integers(0, 399), GAPS, NUMBERS), max_size=40))


@given(ODD_ROWS)
@settings(max_examples=60)
def test_scores_lie_between_0_and_1_whatever_comes(rows: list[tuple[float, float]]) -> None:
    detector, seen_any = Detector(), False
    for at, value in rows:
        low, high = detector.band(at)
        verdict = detector.step(at, value)
        assert 0.0 <= verdict.score <= 1.0
        assert low <= high
        seen_any = seen_any or isfinite(value)
        assert isfinite(verdict.expected) or not seen_any


@given(ODD_ROWS, st.integers(0, 399))
@settings(max_examples=40)
def test_a_restart_changes_nothing(rows: list[tuple[float, float]], stop: int) -> None:
    detector = Detector()
    for row in rows[:stop]:
        detector.step(*row)
    other = Detector.from_json(json.loads(json.dumps(detector.to_json(), allow_nan=False)))
    for row in rows[stop:]:
        mine, theirs = detector.step(*row), other.step(*row)
        assert mine.score == theirs.score
        assert mine.since == theirs.since
    assert detector.to_json() == other.to_json()


@given(st.integers(0, 50), st.integers(-60, 60))
@settings(max_examples=30)
def test_the_unit_of_a_metric_does_not_matter(seed: int, exponent: int) -> None:
    unit = 2.0**exponent
    one, other = Detector(), Detector()
    for at, value in rows_of(seed, [(300, 0.0, 30.0), (350, 0.0, -5.0)]):
        assert one.step(at, value).score == other.step(at, value * unit).score
