"""Is the advice what the later part of the trace confirms, and nothing that noise could have said?"""

from __future__ import annotations

import pytest

from simulations.tuning.advice import KeepBudget, KeepObjective, advise, candidates
from simulations.tuning.outcome import Outcome, SeedOutcome
from simulations.tuning.search import Trial, front

AIM = KeepObjective(0.99, 0.2, "gpu_hours")
NOISE = (-0.1, 0.0, 0.1)


def outcome(hours: float, attained: float, spread: float = 0.0, violations: int = 0) -> Outcome:
    """Three seeds around means; all outcomes share the noise of a seed, but for ``spread``."""
    return Outcome(
        tuple(
            SeedOutcome(seed, attained, hours + noise + spread * (seed - 1), 2.0 * hours, violations)
            for seed, noise in enumerate(NOISE)
        )
    )


def trial(number: int, hours: float, attained: float, violations: int = 0) -> Trial:
    return Trial(number, {"x": float(number)}, outcome(hours, attained, violations=violations))


BASE = trial(0, 10.0, 0.995)


def test_the_front_is_what_nothing_beats_and_no_rule_was_broken_by() -> None:
    tried = [
        BASE,
        trial(1, 8.0, 0.993),
        trial(2, 9.0, 0.992),  # dearer and worse than 1
        trial(3, 12.0, 0.999),
        trial(4, 10.0, 0.995),  # as the baseline, which came first
        trial(5, 5.0, 0.999, violations=1),
    ]
    assert [point.number for point in front(tried, "gpu_hours")] == [1, 0, 3]


def test_candidates_keep_a_margin_and_are_cheaper_than_what_is_there() -> None:
    tried = [BASE, trial(1, 7.0, 0.9915), trial(2, 8.0, 0.9925), trial(3, 12.0, 0.999)]
    assert AIM.wanted_ratio == pytest.approx(0.992)
    assert [one.number for one in candidates(tried, AIM)] == [2]
    poor = [trial(0, 10.0, 0.98), *tried[1:]]
    assert [one.number for one in candidates(poor, AIM)] == [2, 3]


def test_the_cheapest_that_holds_later_is_taken() -> None:
    tried = [BASE, trial(1, 8.0, 0.993), trial(2, 9.0, 0.994)]
    later = {0: outcome(10.0, 0.996), 1: outcome(8.0, 0.985), 2: outcome(9.0, 0.991)}
    advice = advise(tried, AIM, later)
    assert advice.taken is not None
    assert advice.taken.trial.number == 2
    assert [one.taken for one in advice.judged] == [False, True]
    assert "does not hold: 98.50 %".replace(" %", "%") in advice.judged[0].why
    assert "-1 ± " in advice.why


def test_a_saving_within_noise_is_none() -> None:
    tried = [BASE, trial(1, 9.5, 0.994)]
    noisy = advise(tried, AIM, {0: outcome(10.0, 0.996), 1: outcome(9.5, 0.995, spread=1.0)})
    assert noisy.taken is None
    assert "within noise" in noisy.judged[0].why
    clear = advise(tried, AIM, {0: outcome(10.0, 0.996), 1: outcome(9.5, 0.995, spread=0.05)})
    assert clear.taken is not None


def test_what_saves_on_the_part_searched_and_costs_later_is_not_taken() -> None:
    advice = advise([BASE, trial(1, 8.0, 0.993)], AIM, {0: outcome(10.0, 0.996), 1: outcome(11.0, 0.996)})
    assert advice.taken is None
    assert "costs more" in advice.judged[0].why


def test_a_dearer_trial_is_taken_where_the_baseline_breaks_the_promise() -> None:
    tried = [trial(0, 10.0, 0.98), trial(1, 12.0, 0.994)]
    advice = advise(tried, AIM, {0: outcome(10.0, 0.97), 1: outcome(12.0, 0.993)})
    assert advice.taken is not None
    assert "where the baseline does not (97.00%)" in advice.why


def test_a_broken_rule_later_is_not_taken() -> None:
    advice = advise([BASE, trial(1, 8.0, 0.993)], AIM, {0: outcome(10.0, 0.996), 1: outcome(8.0, 0.996, violations=2)})
    assert advice.taken is None
    assert "invariants" in advice.judged[0].why


def test_when_nothing_reaches_the_objective_it_is_said() -> None:
    advice = advise([trial(0, 10.0, 0.9), trial(1, 12.0, 0.95)], AIM, {0: outcome(10.0, 0.9)})
    assert advice.taken is None
    assert advice.judged == ()
    assert "no trial reaches 99.20%" in advice.why
    assert "baseline itself attains 90.00%" in advice.why


def test_a_budget_buys_the_best_attainment_that_fits_both_parts() -> None:
    aim = KeepBudget(20.0, 0.6, "gpu_hours")
    tried = [BASE, trial(1, 11.0, 0.997), trial(2, 11.5, 0.998), trial(3, 14.0, 0.999)]
    assert [one.number for one in candidates(tried, aim)] == [2, 1]
    later = {0: outcome(8.0, 0.99), 1: outcome(8.5, 0.996), 2: outcome(9.0, 0.999)}
    advice = advise(tried, aim, later)
    assert advice.taken is not None
    assert advice.taken.trial.number == 1
    assert "20.5 GPU hours on both parts" in advice.judged[0].why
    assert "attainment +0.60%" in advice.why


def test_a_budget_that_the_baseline_breaks_is_kept_at_the_price_of_attainment() -> None:
    aim = KeepBudget(16.0, 0.6, "gpu_hours")
    advice = advise([BASE, trial(1, 8.0, 0.98)], aim, {0: outcome(8.0, 0.99), 1: outcome(6.0, 0.97)})
    assert advice.taken is not None
    assert "where the baseline takes 18" in advice.why
