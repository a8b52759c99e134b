"""Do the words say who won, by how much, and how sure that is; also when it is not Foresail?"""

from __future__ import annotations

import doctest
import math

import pytest

from policies.slo import ServiceObjective
from simulations import report_words, tables
from simulations.comparison import summarised
from simulations.job import RunReport
from simulations.ranking import judged, ranked
from simulations.report_words import TraceWords, trace_words
from tests.builders_report import a_run

OBJECTIVE = ServiceObjective()  # 99 %


def runs_of(policy: str, attained: float, hours: float, seeds: int = 3, wobble: float = 0.1) -> list[RunReport]:
    """Runs that all attain as much, with GPU hours that differ a little from seed to seed."""
    return [
        a_run(policy, seed, slo_attainment_ratio=attained, gpu_hours=hours + wobble * seed, cost_usd=2 * hours)
        for seed in range(seeds)
    ]


def said(*runs: RunReport) -> TraceWords:
    return trace_words(ranked(summarised(runs), 0.99), runs, OBJECTIVE)


def test_the_cheapest_that_attains_wins_whatever_is_cheaper_and_misses() -> None:
    runs = [*runs_of("foresail", 0.995, 80.0), *runs_of("hpa", 0.992, 90.0), *runs_of("keda", 0.97, 50.0)]
    words = said(*runs)
    assert words.headline.startswith("Foresail met the objective of 99% with the fewest GPU hours: 99.50%")
    assert "80.1 GPU hours (US$ 160)" in words.headline
    assert "against it, foresail took 11.1% fewer GPU hours (95% interval" in " ".join(words.sentences)


def test_it_says_so_when_foresail_does_not_win() -> None:
    runs = [*runs_of("foresail", 0.995, 95.0), *runs_of("hpa", 0.992, 90.0)]
    words = said(*runs)
    assert words.headline.startswith("Foresail did not win here. Hpa met the objective")
    assert "foresail met it too, 99.50% for 95.1 GPU hours" in words.headline


def test_it_says_so_when_foresail_misses_and_another_does_not() -> None:
    words = said(*runs_of("foresail", 0.985, 70.0), *runs_of("hpa", 0.992, 90.0))
    assert words.headline.startswith("Foresail did not win here.")
    assert "foresail missed it, 98.50%" in words.headline


def test_nobody_wins_when_nobody_attains() -> None:
    words = said(*runs_of("foresail", 0.985, 70.0), *runs_of("hpa", 0.98, 90.0))
    assert words.headline.startswith("No policy met the objective of 99%: foresail came closest, 98.50%")


def test_an_attainment_that_rounds_to_the_objective_shows_on_which_side_it_is() -> None:
    assert "98.996%" in said(*runs_of("foresail", 0.98996, 70.0), *runs_of("hpa", 0.98, 90.0)).headline


def test_a_difference_that_may_be_chance_is_not_called_one() -> None:
    foresail = [a_run("foresail", s, slo_attainment_ratio=0.995, gpu_hours=h) for s, h in enumerate((80.0, 99.0, 85.0))]
    words = said(*foresail, *runs_of("hpa", 0.995, 90.0))
    assert "on average, which is not settled" in words.headline
    assert "GPU hours that do not differ beyond doubt" in " ".join(words.sentences)
    assert " fewer GPU hours (" not in " ".join(words.sentences)


def test_one_run_is_never_beyond_doubt() -> None:
    words = said(a_run("foresail", gpu_hours=50.0, slo_attainment_ratio=0.999), a_run("hpa", gpu_hours=99.0))
    assert "with the fewest GPU hours in this one run" in words.headline
    assert "One run of each policy, no interval" in words.sentences[0]
    assert "(one run, no interval)" in " ".join(words.sentences)
    assert "95%" not in " ".join(words.sentences)


def test_the_verdict_is_settled_only_by_an_interval_on_the_winners_side() -> None:
    sure = [*runs_of("foresail", 0.995, 80.0), *runs_of("hpa", 0.995, 90.0)]
    once = [run for run in sure if run.seed == 0]
    for runs, settled in ((sure, True), (once, False)):
        verdict = judged(summarised(runs), runs, 0.99)
        assert verdict is not None
        assert (verdict.winner.policy, verdict.settled) == ("foresail", settled)


def test_the_bound_does_not_compete_and_its_regret_is_told() -> None:
    runs = [*runs_of("foresail", 0.995, 80.0), *runs_of("clairvoyant", 0.999, 60.0)]
    words = said(*runs)
    assert words.headline.startswith("Foresail met")
    assert "Nobody else ran" in words.headline
    assert "the regret of foresail is +20.0 GPU hours" in " ".join(words.sentences)
    assert said(*runs_of("clairvoyant", 0.999, 60.0)).headline.startswith("Only the clairvoyant bound ran")


def test_seeds_that_miss_are_counted() -> None:
    attained = (0.999, 0.985, 0.992)
    runs = [a_run("foresail", seed, slo_attainment_ratio=each) for seed, each in enumerate(attained)]
    assert "met the objective in 2 of 3 seeds" in said(*runs, *runs_of("hpa", 0.99, 90.0)).sentences[0]


def test_without_foresail_the_winner_is_spoken_of() -> None:
    words = said(*runs_of("hpa", 0.995, 90.0), *runs_of("keda", 0.995, 99.0))
    assert words.headline.startswith("Hpa met the objective")
    assert "foresail" not in words.headline.lower() + " ".join(words.sentences).lower()


def test_recovery_drops_and_violations_are_told() -> None:
    runs = [
        a_run("foresail", time_to_recover_longest_s=180.0, fault_to_recover_longest_s=120.0, dropped_in_flight=4),
        a_run("hpa", time_to_recover_longest_s=8400.0, recovered=False, dropped_in_flight=9, violations=("broken",)),
    ]
    text = " ".join(said(*runs).sentences)
    assert (
        "foresail 3 min at the longest, 2 min after a fault; hpa 2.3 h at the longest and not over at the end" in text
    )
    assert "Requests dropped in flight: foresail 4, hpa 9." in text
    assert "Invariants were violated: hpa (1)" in text


def test_a_run_without_requests_can_be_spoken_of() -> None:
    words = said(a_run("foresail", slo_attainment_ratio=math.nan), a_run("hpa", slo_attainment_ratio=math.nan))
    assert words.headline.startswith("No policy met")


def test_those_that_attain_come_first_by_cost_and_the_rest_by_attainment() -> None:
    runs = [
        a_run("poor", slo_attainment_ratio=0.5, gpu_hours=1.0),
        a_run("dear", slo_attainment_ratio=0.999, gpu_hours=9.0),
        a_run("none", slo_attainment_ratio=math.nan), a_run("cheap", slo_attainment_ratio=0.99, gpu_hours=8.0),
        a_run("near", slo_attainment_ratio=0.98, gpu_hours=99.0),
    ]  # fmt: skip
    assert [row.policy for row in ranked(summarised(runs), 0.99)] == ["cheap", "dear", "near", "poor", "none"]


@pytest.mark.parametrize("module", [report_words, tables], ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module: object) -> None:
    tried = doctest.testmod(module)  # type: ignore[arg-type]  # a module
    assert tried.attempted > 0
    assert tried.failed == 0
