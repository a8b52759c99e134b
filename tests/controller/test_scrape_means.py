"""Is a mean that of the newest scrape window, and of nothing else?"""

from __future__ import annotations

import numpy as np

from controller.scrape_means import ScrapeMeans


def seen(means: ScrapeMeans, at: float, total: float, count: float, name: str = "r0") -> float:
    return float(means.update([name], np.array([at]), np.array([total]), np.array([count]))[0])


def test_the_first_scrape_has_nothing_to_be_compared_with() -> None:
    assert np.isnan(seen(ScrapeMeans(), 0.0, 10.0, 100.0))


def test_only_what_was_observed_since_the_last_scrape_counts() -> None:
    means = ScrapeMeans()
    seen(means, 0.0, 10.0, 100.0)
    assert seen(means, 15.0, 12.0, 110.0) == 0.2


def test_nothing_observed_is_no_mean() -> None:
    means = ScrapeMeans()
    seen(means, 0.0, 10.0, 100.0)
    assert np.isnan(seen(means, 15.0, 10.0, 100.0))


def test_one_scrape_looked_at_twice_says_the_same_twice() -> None:
    means = ScrapeMeans()
    seen(means, 0.0, 10.0, 100.0)
    seen(means, 15.0, 12.0, 110.0)
    assert seen(means, 15.0, 12.0, 110.0) == 0.2


def test_an_engine_that_began_anew_counts_from_there() -> None:
    means = ScrapeMeans()
    seen(means, 0.0, 10.0, 100.0)
    assert seen(means, 15.0, 1.0, 10.0) == 0.1


def test_replicas_are_told_apart_by_name_and_not_by_place() -> None:
    means = ScrapeMeans()
    at = np.array([0.0, 0.0])
    means.update(["a", "b"], at, np.array([0.0, 100.0]), np.array([0.0, 10.0]))
    found = means.update(["b", "a"], at + 15.0, np.array([130.0, 5.0]), np.array([20.0, 10.0]))
    assert found.tolist() == [3.0, 0.5]


def test_what_was_not_reported_is_nan() -> None:
    means = ScrapeMeans()
    seen(means, 0.0, 10.0, 100.0)
    assert np.isnan(seen(means, 15.0, np.nan, np.nan))
    assert np.isnan(seen(means, 30.0, 12.0, 110.0))
