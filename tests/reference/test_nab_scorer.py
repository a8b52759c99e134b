"""Does our copy of NAB's scoring give what can be worked out by hand?"""

from __future__ import annotations

from math import exp

import numpy as np
import pytest

from tests.reference.nab_scorer import (
    OUTSIDE,
    PROBATION,
    PROFILES,
    Labelled,
    best_sweep,
    probation_rows,
    row_worths,
    scaled_sigmoid,
    score_at,
    sweep,
)

STANDARD = PROFILES["standard"]
ONE = Labelled("one", 100, ((40, 49),))


def sigmoid(position: float) -> float:
    """Return the benchmark's scaled sigmoid, the plain way."""
    return 2.0 / (1.0 + exp(5.0 * position)) - 1.0


def scores(rows: int, **fired: float) -> np.ndarray:
    """Return zeros with some rows' scores, as ``r40=0.9``."""
    values = np.zeros(rows)
    for name, score in fired.items():
        values[int(name[1:])] = score
    return values


def test_the_sigmoid_has_the_published_values() -> None:
    assert scaled_sigmoid(np.array([-1.0, -0.5, 0.0, 1.0])) == pytest.approx(
        [0.98661, 0.84828, 0.0, -0.98661], abs=1e-5
    )
    assert float(scaled_sigmoid(3.0)) == float(scaled_sigmoid(50.0)) == -1.0


def test_the_probation_is_15_percent_and_at_most_750_rows() -> None:
    assert [probation_rows(rows) for rows in (10, 99, 4032, 5000, 20_000)] == [1, 14, 604, 750, 750]
    _, window = row_worths(ONE, STANDARD)
    assert list(np.flatnonzero(window == PROBATION)) == list(range(15))
    assert list(np.flatnonzero(window == 0)) == list(range(40, 50))
    assert int((window == OUTSIDE).sum()) == 75


def test_worths_depend_on_the_place_in_and_behind_a_window() -> None:
    worth, _ = row_worths(ONE, STANDARD)
    assert worth[40] == pytest.approx(1.0)
    assert worth[49] == pytest.approx(sigmoid(-0.1) / sigmoid(-1.0))
    assert worth[30] == -0.11
    # Nine rows make one width behind: (55 - 49) / 9.
    assert worth[55] == pytest.approx(0.11 * sigmoid(6 / 9))
    assert worth[49 + 27] == -0.11


def test_only_the_earliest_detection_in_a_window_counts() -> None:
    late = best_sweep([ONE], [scores(100, r47=0.9)], STANDARD)
    both = score_at([ONE], [scores(100, r44=0.8, r47=0.9)], STANDARD, 0.8)
    assert late.score == pytest.approx(100 * (1 + sigmoid(-0.3) / sigmoid(-1.0)) / 2)
    assert both == pytest.approx(100 * (1 + sigmoid(-0.6) / sigmoid(-1.0)) / 2)
    assert score_at([ONE], [scores(100, r44=0.9, r47=0.8)], STANDARD, 0.8) == pytest.approx(both)


def test_null_gets_0_perfect_100_and_a_miss_with_false_alarms_less() -> None:
    assert best_sweep([ONE], [np.zeros(100)], STANDARD).score == 0.0
    assert best_sweep([ONE], [scores(100, r40=1.0)], STANDARD).score == pytest.approx(100.0)
    # Two false alarms far behind cost 0.11 each, of the 2 between null and perfect.
    assert score_at([ONE], [scores(100, r20=1.0, r90=1.0)], STANDARD, 1.0) == pytest.approx(-11.0)


def test_detections_in_probation_are_not_looked_at() -> None:
    assert score_at([ONE], [scores(100, r3=1.0, r40=1.0)], STANDARD, 1.0) == pytest.approx(100.0)


def test_one_threshold_is_best_for_the_whole_corpus() -> None:
    other = Labelled("other", 100, ((60, 69),))
    corpus, found = [ONE, other], [scores(100, r40=0.4), scores(100, r20=0.6, r60=0.3)]
    best = best_sweep(corpus, found, STANDARD)
    assert best.threshold == 0.3
    assert best.score == pytest.approx(100 * (4.0 - 0.11) / 4.0)
    thresholds, raw = sweep(corpus, found, STANDARD)
    assert list(thresholds[:4]) == [np.inf, 0.6, 0.4, 0.3]
    assert list(raw[:4]) == pytest.approx([-2.0, -2.11, -0.11, 1.89])


def test_rows_with_one_score_fire_together() -> None:
    found = scores(100, r20=0.5, r40=0.5)
    assert best_sweep([ONE], [found], STANDARD).score == pytest.approx(100 - 5.5)


def test_profiles_weigh_false_alarms_and_misses() -> None:
    missed = [scores(100, r90=1.0)]
    assert score_at([ONE], missed, PROFILES["low_fp"], 1.0) == pytest.approx(-11.0)
    assert score_at([ONE], missed, PROFILES["low_fn"], 1.0) == pytest.approx(100 * -0.11 / 3)


def test_a_corpus_without_windows_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="no series has a labelled window"):
        best_sweep([Labelled("none", 100, ())], [np.zeros(100)], STANDARD)


def test_scores_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one: 99 scores for 100 rows"):
        best_sweep([ONE], [np.zeros(99)], STANDARD)
