"""Which settings are tried next: batches of one size, asked and told in order, so that who runs them changes nothing.

The study is not stored to be resumed: it is replayed. Each batch has a sampler of its own, seeded by the number of the
batch, and sees what all batches before it gave. With finished runs kept (``kept_runs``), the same command asks for the
same trials again, finds their runs, and goes on where it was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.errors import BadInput
from simulations.tuning.outcome import Cost, Outcome
from simulations.tuning.space import Knob, Values

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

STARTUP_TRIALS = 16
"""Trials drawn at random before any is inferred from others; of a dozen settings, fewer say nothing."""

_LEAST_MISSED_RATIO = 1e-4
"""Share of missed requests below which less is no better: below one in ten thousand, luck decides."""

_MOST_ASKED = 1000
"""Values drawn for one trial before it is said that they never go together."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that were tried; trial 0 is the settings that the search starts from, without any other value."""

    number: int
    values: Values
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the settings that the search starts from have in the place of each knob."""

    values: Values


def search(
    knobs: Sequence[Knob],
    baseline: Baseline,
    trials: int,
    batch: int,
    seed: int,
    cost: Cost,
    tried: Callable[[Sequence[Values]], Sequence[Outcome]],
    possible: Callable[[Values], bool],
) -> Iterator[list[Trial]]:
    """Yield all trials so far after each batch, until there are ``trials`` of them.

    Both aims count alike: ``cost``, and requests outside the objective in logs, so that 99.9 % against 99 % is as far
    as 99 % against 90 %. A trial that breaks an invariant counts as missing every request.

    Args:
        knobs: What is searched.
        baseline: Where it starts; told to the sampler when it lies within all ranges.
        trials: How many, trial 0 included.
        batch: How many are asked for before any of them is told.
        seed: Of the search; that of the runs is in ``tried``.
        cost: What is to be saved.
        tried: Runs settings and returns their outcomes in the same order.
        possible: Whether values go together; others are drawn in the place of those that do not.

    Raises:
        BadInput: If hardly any values of the ranges go together.
    """
    distributions = {knob.key: _distribution(knob) for knob in knobs}
    study = _study()
    done: list[Trial] = []
    number = 0
    while len(done) < trials:
        study.sampler = _sampler(seed, number)
        first = number == 0
        asked = [_asked(study, knobs, distributions, possible) for _ in range(batch - first)]
        wanted: list[Values] = [{}] if first else []
        wanted += [_values(knobs, one) for one in asked]
        wanted = wanted[: trials - len(done)]
        outcomes = tried(wanted)
        made = [Trial(len(done) + n, values, outcomes[n]) for n, values in enumerate(wanted)]
        if first and all(knob.holds(baseline.values[knob.key]) for knob in knobs):
            _add(study, baseline.values, distributions, _aims(made[0].outcome, cost))
        for one, trial in zip(asked, made[1:] if first else made, strict=False):
            study.tell(one, _aims(trial.outcome, cost))
        done += made
        number += 1
        yield list(done)


def front(trials: Sequence[Trial], cost: Cost) -> list[Trial]:
    """Return the trials that no other beats: none is as cheap and attains as much, and better in one. Cheapest first.

    Of equal ones the first counts. Trials that broke an invariant are on no front.
    """
    sound = [trial for trial in trials if not trial.outcome.violations]
    ordered = sorted(sound, key=lambda one: (one.outcome.cost(cost), -one.outcome.attainment_ratio, one.number))
    best, found = -math.inf, []
    for trial in ordered:
        if trial.outcome.attainment_ratio > best:
            best = trial.outcome.attainment_ratio
            found.append(trial)
    return found


def _asked(
    study: Study,
    knobs: Sequence[Knob],
    distributions: Mapping[str, BaseDistribution],
    possible: Callable[[Values], bool],
) -> Any:
    from optuna.trial import TrialState

    for _ in range(_MOST_ASKED):
        one = study.ask(dict(distributions))
        if possible(_values(knobs, one)):
            return one
        study.tell(one, state=TrialState.FAIL)
    listed = ", ".join(str(knob) for knob in knobs)
    raise BadInput(f"these ranges contradict each other: {listed}", "--tune", "give ranges whose values go together")


def _values(knobs: Sequence[Knob], one: Any) -> Values:
    return {knob.key: _shown(knob, one.params[knob.key]) for knob in knobs}


def _aims(outcome: Outcome, cost: Cost) -> list[float]:
    missed = 1.0 if outcome.violations else 1.0 - outcome.attainment_ratio
    return [outcome.cost(cost), math.log10(max(missed, _LEAST_MISSED_RATIO))]


def _shown(knob: Knob, value: Any) -> float | int | str | bool:
    chosen: float | int | str | bool = value if knob.choices else knob.shown(value)
    return chosen


def _distribution(knob: Knob) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if knob.choices:
        return CategoricalDistribution(knob.choices)
    if knob.whole:
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log)


def _study() -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=["minimize", "minimize"])


def _sampler(seed: int, batch: int) -> Any:
    from optuna.samplers import TPESampler

    own = int(np.random.SeedSequence([seed, batch]).generate_state(1)[0])
    return TPESampler(seed=own, multivariate=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS)


def _add(
    study: Study, values: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], aims: Sequence[float]
) -> None:
    from optuna.trial import create_trial

    params = {key: float(value) if isinstance(value, float) else value for key, value in values.items()}
    study.add_trial(create_trial(params=params, distributions=dict(distributions), values=list(aims)))
