"""Is a jump of the load seen at once, and noise not?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.present import present_load

STEP_S, WINDOW_S = 15.0, 60.0


def rows(*rates: float, before: int = 40, calm: float = 10.0) -> np.ndarray:
    return np.repeat(np.array([calm] * before + list(rates))[:, None], 3, axis=1)


def requests_per_s(values: np.ndarray) -> float:
    present = present_load(values, STEP_S, WINDOW_S)
    assert present is not None
    return float(present[0])


def test_noise_is_averaged_over_the_window() -> None:
    assert requests_per_s(rows(11.0, 9.0, 12.0, 10.0)) == pytest.approx(10.5)


def test_a_jump_counts_from_its_first_step() -> None:
    # Poisson error of 40/s over 15 s is 1.63/s; three of them leave 35.1, the mean of the minute would be 17.5.
    assert requests_per_s(rows(40.0)) == pytest.approx(40.0 - 3 * np.sqrt(40.0 / 15.0))


def test_the_longer_a_jump_lasts_the_surer_it_is() -> None:
    answers = [requests_per_s(rows(*[40.0] * steps)) for steps in (1, 2, 3, 4)]
    assert answers == sorted(answers)
    assert answers[-1] == pytest.approx(40.0)


def test_a_fall_waits_for_the_mean_of_the_window() -> None:
    assert requests_per_s(rows(0.0)) == pytest.approx(7.5)


def test_load_that_always_jumps_about_is_not_taken_for_a_jump() -> None:
    rng = np.random.default_rng(3)
    noisy = np.repeat(rng.gamma(2.0, 10.0, size=(400, 1)), 3, axis=1)
    answers = [requests_per_s(noisy[:end]) for end in range(60, 400)]
    means = [float(noisy[end - 4 : end, 0].mean()) for end in range(60, 400)]
    assert np.mean(answers) < 1.02 * np.mean(means)


def test_all_channels_jump_together() -> None:
    values = rows(40.0) * np.array([1.0, 300.0, 200.0])
    present = present_load(values, STEP_S, WINDOW_S)
    assert present is not None
    np.testing.assert_allclose(present / present[0], [1.0, 300.0, 200.0])


def test_steps_that_were_not_observed_make_no_jump_surer() -> None:
    once = 40.0 - 3 * np.sqrt(40.0 / 15.0)
    assert requests_per_s(rows(np.nan, np.nan, 40.0)) == pytest.approx(once)


def test_a_wild_scrape_is_forgotten_with_the_next_one() -> None:
    # The mean of the minute keeps a quarter of it; the two newest steps together would say 505.
    assert requests_per_s(rows(1000.0, 10.0)) == pytest.approx((10.0 + 10.0 + 1000.0 + 10.0) / 4)


def test_a_jump_of_short_requests_takes_no_tokens_away() -> None:
    calm, short = [[10.0, 10_000.0, 2_000.0]] * 40, [[40.0, 400.0, 8_000.0]]
    values = np.array(calm + short)
    present = present_load(values, STEP_S, WINDOW_S)
    assert present is not None
    assert present[0] == pytest.approx(40.0 - 3 * np.sqrt(40.0 / 15.0))
    assert (present >= values[-4:].mean(axis=0)).all()


@pytest.mark.parametrize("values", [np.empty((0, 3)), rows(np.nan)])
def test_load_that_is_not_observed_now_is_unknown(values: np.ndarray) -> None:
    assert present_load(values, STEP_S, WINDOW_S) is None


def test_gaps_before_now_are_left_out() -> None:
    assert requests_per_s(rows(np.nan, np.nan, 12.0)) == pytest.approx(11.0)
