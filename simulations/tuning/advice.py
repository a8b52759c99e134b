"""Which settings should be taken, going by the part of the trace that no trial has seen; or none of them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

from simulations.tuning.outcome import Cost, Difference, Outcome, difference
from simulations.tuning.search import Trial, front

MOST_VALIDATED = 5
"""Candidates that are looked at on the later part. Each look is a chance to be lucky: many would be a search."""

UNITS: Mapping[Cost, str] = {"gpu_hours": "GPU hours", "cost_usd": "US dollars"}


@dataclass(frozen=True, slots=True)
class KeepObjective:
    """The cheapest settings that keep the objective.

    Attributes:
        attainment_ratio: Share of requests that the objective promises.
        margin_ratio: Share of the allowed misses that a search leaves unused, since the later part is another one.
    """

    attainment_ratio: float
    margin_ratio: float
    cost: Cost

    @property
    def wanted_ratio(self) -> float:
        """Attainment that the search asks for."""
        return 1.0 - (1.0 - self.attainment_ratio) * (1.0 - self.margin_ratio)

    def __str__(self) -> str:
        return (
            f"the fewest {UNITS[self.cost]} that keep {self.attainment_ratio:.5g} of all requests within the objective"
        )


@dataclass(frozen=True, slots=True)
class KeepBudget:
    """The best attainment for a budget.

    Attributes:
        most: For the whole part of the trace that was asked for.
        search_share: Share of its time that is searched: so much of the budget is for that part.
    """

    most: float
    search_share: float
    cost: Cost

    def __str__(self) -> str:
        return f"the best attainment for {self.most:g} {UNITS[self.cost]}"


Aim: TypeAlias = KeepObjective | KeepBudget


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the later part says of a candidate, in words and figures.

    Attributes:
        taken: Whether it is better than the baseline there, beyond noise.
        saved: Its cost there minus that of the baseline.
        gained: Its attainment minus that of the baseline.
    """

    trial: Trial
    validation: Outcome
    taken: bool
    why: str
    saved: Difference
    gained: Difference

    def as_json(self) -> dict[str, Any]:
        """Return it ready for ``json.dumps``."""
        return {
            "trial": self.trial.number,
            "values": dict(self.trial.values),
            "search": self.trial.outcome.as_json(),
            "validation": self.validation.as_json(),
            "taken": self.taken,
            "why": self.why,
            "cost_difference": self.saved.as_json(),
            "attainment_difference": self.gained.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Advice:
    """What to take: ``taken``, or the baseline when it is None, and what was made of each candidate."""

    taken: Judgement | None
    judged: tuple[Judgement, ...]
    baseline: Trial
    validation: Outcome
    why: str


def candidates(trials: Sequence[Trial], aim: Aim) -> list[Trial]:
    """Return the points of the front worth a look on the later part, the best by ``aim`` first.

    None that is worse than the baseline on the part searched in what the aim is about.
    """
    base, cost = trials[0], aim.cost
    points = [trial for trial in front(trials, cost) if trial.number]
    if isinstance(aim, KeepObjective):
        kept = [trial for trial in points if trial.outcome.attainment_ratio >= aim.wanted_ratio]
        if base.outcome.attainment_ratio >= aim.wanted_ratio and not base.outcome.violations:
            kept = [trial for trial in kept if trial.outcome.cost(cost) < base.outcome.cost(cost)]
        return kept[:MOST_VALIDATED]  # a front is ordered by cost
    most = aim.most * aim.search_share
    within = [trial for trial in points if trial.outcome.cost(cost) <= most]
    if base.outcome.cost(cost) <= most and not base.outcome.violations:
        within = [trial for trial in within if trial.outcome.attainment_ratio > base.outcome.attainment_ratio]
    return within[::-1][:MOST_VALIDATED]


def advise(trials: Sequence[Trial], aim: Aim, validated: Mapping[int, Outcome]) -> Advice:
    """Return the first candidate that the later part confirms, or the baseline.

    Args:
        trials: All, trial 0 first.
        aim: What for.
        validated: Outcomes on the later part by number of the trial: of trial 0 and of ``candidates``.
    """
    base, judged = trials[0], []
    for trial in candidates(trials, aim):
        found = _judged(trial, base, aim, validated)
        judged.append(found)
        if found.taken:
            return Advice(found, tuple(judged), base, validated[0], found.why)
    return Advice(None, tuple(judged), base, validated[0], _why_nothing(trials, aim, judged, validated[0]))


def _judged(trial: Trial, base: Trial, aim: Aim, validated: Mapping[int, Outcome]) -> Judgement:
    mine, theirs = validated[trial.number], validated[0]
    saved = difference(mine, theirs, attrgetter(aim.cost))
    gained = difference(mine, theirs, attrgetter("attainment_ratio"))
    judge = _by_objective if isinstance(aim, KeepObjective) else _by_budget
    taken, why = judge(trial, base, aim, mine, theirs, saved, gained)  # type: ignore[arg-type]  # the aim decides
    if mine.violations:
        taken, why = False, f"broke {mine.violations} invariants on the later part"
    return Judgement(trial, mine, taken, why, saved, gained)


def _by_objective(
    _trial: Trial,
    _base: Trial,
    aim: KeepObjective,
    mine: Outcome,
    theirs: Outcome,
    saved: Difference,
    _gained: Difference,
) -> tuple[bool, str]:
    goal = f"{aim.attainment_ratio:.2%}"
    if mine.attainment_ratio < aim.attainment_ratio:
        return False, f"does not hold: {mine.attainment_ratio:.2%} on the later part, {goal} is promised"
    change = _change(saved, theirs.cost(aim.cost), UNITS[aim.cost])
    if theirs.attainment_ratio < aim.attainment_ratio:
        what = f"keeps {goal} on the later part ({mine.attainment_ratio:.2%}), where the baseline does not "
        return True, f"{what}({theirs.attainment_ratio:.2%}); {change}"
    if not saved.certain:
        return False, f"holds, but what it changes in cost is within noise: {change}"
    if saved.mean > 0:
        return False, f"holds, but costs more than the baseline, which holds too: {change}"
    return True, f"holds on the later part ({mine.attainment_ratio:.2%}): {change}"


def _by_budget(
    trial: Trial, base: Trial, aim: KeepBudget, mine: Outcome, theirs: Outcome, _saved: Difference, gained: Difference
) -> tuple[bool, str]:
    unit = UNITS[aim.cost]
    whole = trial.outcome.cost(aim.cost) + mine.cost(aim.cost)
    if whole > aim.most:
        return False, f"does not hold: {whole:.4g} {unit} on both parts, {aim.most:.4g} is the budget"
    change = f"attainment {gained.mean:+.2%} (± {gained.half_width:.2%}) on the later part"
    spent = base.outcome.cost(aim.cost) + theirs.cost(aim.cost)
    if spent > aim.most:
        return True, f"keeps the budget with {whole:.4g} {unit}, where the baseline takes {spent:.4g}; {change}"
    if not gained.certain or gained.mean <= 0:
        return False, f"within the budget, but no better beyond noise: {change}"
    return True, f"within the budget ({whole:.4g} {unit}): {change}"


def _change(saved: Difference, base: float, unit: str) -> str:
    share = f" ({saved.mean / base:+.1%})" if base else ""
    return f"{saved.mean:+.3g} ± {saved.half_width:.2g} {unit}{share} against the baseline"


def _why_nothing(trials: Sequence[Trial], aim: Aim, judged: Sequence[Judgement], theirs: Outcome) -> str:
    keeps = ""
    if isinstance(aim, KeepObjective) and theirs.attainment_ratio < aim.attainment_ratio:
        keeps = (
            f". The baseline itself attains {theirs.attainment_ratio:.2%} there, {aim.attainment_ratio:.2%} is promised"
        )
    if judged:
        return f"none of {len(judged)} candidates is better on the later part beyond noise{keeps}"
    if isinstance(aim, KeepBudget):
        return f"no trial keeps the budget and attains more on the part searched than the baseline{keeps}"
    best = max(trials, key=lambda trial: (not trial.outcome.violations, trial.outcome.attainment_ratio)).outcome
    if best.attainment_ratio < aim.wanted_ratio:
        what = f"no trial reaches {aim.wanted_ratio:.2%} on the part searched"
        return f"{what}; the best attains {best.attainment_ratio:.2%}{keeps}"
    return f"no trial is cheaper on the part searched than the baseline{keeps}"
