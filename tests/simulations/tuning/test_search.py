"""Are trials the same whoever runs them and however often it is stopped, and better for what was learnt?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from controller.errors import BadInput
from simulations.tuning.outcome import Outcome, SeedOutcome
from simulations.tuning.search import Baseline, Trial, search
from simulations.tuning.space import Knob, Values

KNOBS = (
    Knob("width", 0.0, 1.0),
    Knob("wait", 1.0, 1000.0, log=True),
    Knob("count", 1, 9, whole=True),
    Knob("kind", choices=("a", "b")),
)
BASE = Baseline({"width": 0.5, "wait": 60.0, "count": 4, "kind": "a"})


def made_of(values: Values) -> Outcome:
    """A world in which width costs, patience and kind b are free, and all of them attain."""
    said = {**BASE.values, **values}
    width, wait = float(said["width"]), float(said["wait"])
    missed = 0.2 * (1.0 - width) ** 2 + 0.001 * abs(wait - 100.0) + (0.0 if said["kind"] == "b" else 0.02) + 1e-3
    violations = 1 if said["count"] == 9 else 0
    return Outcome(tuple(SeedOutcome(n, max(0.0, 1.0 - missed), 10.0 + 10.0 * width, 1.0, violations) for n in (0, 1)))


def any_values(_values: Values) -> bool:
    return True


def trials_of(count: int, batch: int = 8, seed: int = 0, base: Baseline = BASE) -> list[Trial]:
    def tried(wanted: Sequence[Values]) -> list[Outcome]:
        return [made_of(values) for values in wanted]

    *_, found = search(KNOBS, base, count, batch, seed, "gpu_hours", tried, any_values)
    return found


def test_trial_0_is_the_baseline_and_all_are_numbered_and_within_their_ranges() -> None:
    found = trials_of(30)
    assert [trial.number for trial in found] == list(range(30))
    assert found[0].values == {}
    for trial in found[1:]:
        assert all(knob.holds(trial.values[knob.key]) for knob in KNOBS)


def test_equal_searches_have_equal_trials_and_others_do_not() -> None:
    assert trials_of(40) == trials_of(40)
    assert trials_of(40) != trials_of(40, seed=1)
    assert trials_of(40) != trials_of(40, batch=4)


@pytest.mark.parametrize("stopped", [2, 8, 11, 27])
def test_more_trials_go_on_where_fewer_ended(stopped: int) -> None:
    assert trials_of(40)[:stopped] == trials_of(stopped)


def test_batches_are_asked_for_as_a_whole_and_told_in_order() -> None:
    sizes: list[int] = []

    def tried(wanted: Sequence[Values]) -> list[Outcome]:
        sizes.append(len(wanted))
        return [made_of(values) for values in wanted]

    lengths = [len(found) for found in search(KNOBS, BASE, 20, 8, 0, "gpu_hours", tried, any_values)]
    assert sizes == [8, 8, 4]
    assert lengths == [8, 16, 20]


def test_values_that_do_not_go_together_are_never_tried() -> None:
    def apart(values: Values) -> bool:
        return float(values["width"]) * 9 < float(values["count"])

    def tried(wanted: Sequence[Values]) -> list[Outcome]:
        return [made_of(values) for values in wanted]

    *_, found = search(KNOBS, BASE, 40, 8, 0, "gpu_hours", tried, apart)
    *_, again = search(KNOBS, BASE, 40, 8, 0, "gpu_hours", tried, apart)
    assert found == again
    assert [trial.number for trial in found] == list(range(40))
    assert all(apart(trial.values) for trial in found[1:])
    assert not all(apart(trial.values) for trial in trials_of(40)[1:])
    with pytest.raises(BadInput, match="contradict each other: width = 0 to 1"):
        list(search(KNOBS, BASE, 40, 8, 0, "gpu_hours", tried, lambda _values: False))


def test_a_batch_of_one_goes_from_trial_to_trial() -> None:
    assert len(trials_of(5, batch=1)) == 5


def test_later_trials_are_better_than_those_drawn_at_random() -> None:
    """By what both aims come to: over four seeds, so that one lucky draw decides nothing."""

    def missed(trials: Sequence[Trial]) -> float:
        return sum(1.0 - trial.outcome.attainment_ratio for trial in trials) / len(trials)

    runs = [trials_of(96, seed=seed) for seed in range(4)]
    assert sum(missed(run[64:]) for run in runs) < 0.7 * sum(missed(run[1:16]) for run in runs)


def test_a_baseline_outside_the_ranges_is_still_trial_0() -> None:
    found = trials_of(20, base=Baseline({**BASE.values, "width": 3.0}))
    assert found[0].values == {}
    assert len(found) == 20
