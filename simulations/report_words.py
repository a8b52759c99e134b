"""What does a comparison come down to, in plain words and with its figures?

Nothing is called better than something else unless the interval of the difference excludes 0: one run of each has no
interval, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from policies.slo import ServiceObjective
from simulations.comparison import BOUND, SummaryRow
from simulations.intervals import Interval
from simulations.job import RunReport
from simulations.ranking import Verdict, attains, between, judged
from simulations.tables import gpu_hours, number, percent
from simulations.versus import Versus

OURS = "foresail"


@dataclass(frozen=True, slots=True)
class TraceWords:
    """What is said of one trace: who won, then the figures behind it."""

    headline: str
    sentences: tuple[str, ...]


def trace_words(rows: Sequence[SummaryRow], runs: Sequence[RunReport], objective: ServiceObjective) -> TraceWords:
    """Return the words on the rows and runs of one trace."""
    target = objective.attainment_ratio
    verdict = judged(rows, runs, target)
    if verdict is None:
        return TraceWords(f"Only the {BOUND} bound ran: there is nothing to compare.", ())
    ours = next((row for row in rows if row.policy == OURS and not row.variant), None)
    sentences = [_doubt(ours or verdict.winner, runs, target), _lead(verdict)]
    if ours is not None:
        if verdict.winner.policy != OURS:
            sentences.append(_behind(ours, verdict, runs))
        if ours.to_hpa is not None and "hpa" not in (verdict.winner.name, _name(verdict.runner_up)):
            sentences.append(f"Against hpa, foresail took {_cost(ours.to_hpa)}, {_gain(ours.to_hpa)}.")
    subject = ours or verdict.winner
    if subject.regret is not None:
        sentences.append(_regret(subject, rows))
    sentences.append(_recovery(subject, rows))
    sentences.append(_losses(subject, rows))
    return TraceWords(_headline(verdict, ours, target), tuple(each for each in sentences if each))


def _headline(verdict: Verdict, ours: SummaryRow | None, target: float) -> str:
    winner, name = verdict.winner, _title(verdict.winner.name)
    figures = f"{share(_mean(winner, 'slo_attainment_ratio'), target)} of the requests in time for {_hours(winner)}"
    if not verdict.attained:
        best = f"No policy met the objective of {_target(target)}: {winner.name} came closest, {figures}."
        return best if ours is None or ours is winner else f"{best} Foresail: {_stand(ours, target)}."
    if verdict.runner_up is None:
        return f"{name} met the objective of {_target(target)}: {figures}. Nobody else ran."
    said = f"met the objective of {_target(target)} with the fewest GPU hours"
    if winner.runs == 1:
        said += " in this one run"
    elif not verdict.settled:
        said += " on average, which is not settled"
    if ours is None or ours is winner:
        return f"{name} {said}: {figures}."
    how = "met it too" if attains(ours, target) else "missed it"
    return f"Foresail did not win here. {name} {said}: {figures}; foresail {how}, {_stand(ours, target)}."


def _doubt(row: SummaryRow, runs: Sequence[RunReport], target: float) -> str:
    """Return in how many seeds a policy met the objective, where that is not all or none beyond doubt."""
    known = row.intervals["slo_attainment_ratio"]
    if row.runs == 1:
        return "One run of each policy, no interval: with another seed the order may be another."
    if not known.low < target <= known.high:
        return ""
    mine = [run.scorecard.slo_attainment_ratio for run in runs if _is(run, row)]
    met = sum(attained >= target for attained in mine)
    reach = f"{share(known.low, target)} to {share(min(known.high, 1.0), target)}"
    return (
        f"{_title(row.name)} met the objective in {met} of {len(mine)} seeds; the 95% interval of its mean is {reach}."
    )


def _is(run: RunReport, row: SummaryRow) -> bool:
    return (run.scorecard.policy, run.variant) == (row.policy, row.variant)


def _lead(verdict: Verdict) -> str:
    second, lead = verdict.runner_up, verdict.lead
    if second is None or lead is None:
        return ""
    return f"The next is {second.name}: against it, {verdict.winner.name} took {_cost(lead)}, {_gain(lead)}."


def _behind(ours: SummaryRow, verdict: Verdict, runs: Sequence[RunReport]) -> str:
    """Return what Foresail lacks to the winner, unless it is the next and that has been said."""
    if verdict.runner_up is ours:
        return ""
    apart = between(ours, verdict.winner, runs)
    if apart is None:
        return ""
    return f"Against {verdict.winner.name}, foresail took {_cost(apart)}, {_gain(apart)}."


def _cost(apart: Versus) -> str:
    """Return how GPU hours differ: what is said before ``GPU hours`` depends on how sure it is."""
    share = apart.gpu_hours_ratio
    if math.isnan(share.mean):
        return "GPU hours that cannot be compared"
    more = "more" if share.mean > 0 else "fewer"
    if not share.known:
        return f"{abs(share.mean):.1%} {more} GPU hours (one run, no interval)"
    if share.above_zero or share.below_zero:
        low, high = sorted((abs(share.low), abs(share.high)))
        return f"{abs(share.mean):.1%} {more} GPU hours (95% interval {low:.1%} to {high:.1%})"
    reach = f"95% interval {share.low:+.1%} to {share.high:+.1%}"
    return f"GPU hours that do not differ beyond doubt ({share.mean:+.1%}, {reach})"


def _gain(apart: Versus) -> str:
    """Return how attainments differ, in points."""
    points = apart.slo_attainment_ratio
    mean, low, high = (100.0 * each for each in (points.mean, points.low, points.high))
    if math.isnan(mean):
        return "attainments cannot be compared"
    kept = f"with {abs(mean):.2f} points {'more' if mean > 0 else 'less'} attainment"
    if not points.known:
        return kept if apart.gpu_hours_ratio.runs == 1 else f"{kept} (one run, no interval)"
    if points.above_zero or points.below_zero:
        near, far = sorted((abs(low), abs(high)))
        return f"{kept} ({near:.2f} to {far:.2f})"
    return f"at an attainment that does not differ beyond doubt ({mean:+.2f} points, {low:+.2f} to {high:+.2f})"


def _regret(row: SummaryRow, rows: Sequence[SummaryRow]) -> str:
    bound = next(each for each in rows if each.policy == BOUND and not each.variant)
    regret = row.regret
    if regret is None:
        return ""
    knew = f"A policy that knows the load to come would have taken {_hours(bound)} at {_attained(bound)}"
    extra = (
        f"{gpu_hours(regret.gpu_hours.mean, '+')} GPU hours and {number(regret.missed_requests.mean, '+,.0f')} misses"
    )
    return f"{knew}: the regret of {row.name} is {extra}{_over(regret.gpu_hours)}."


def _over(known: Interval) -> str:
    return (
        f" (GPU hours: 95% interval {gpu_hours(known.low, '+')} to {gpu_hours(known.high, '+')})" if known.known else ""
    )


def _recovery(row: SummaryRow, rows: Sequence[SummaryRow]) -> str:
    """Return how long misses lasted for the policy that is spoken of, and for HPA."""
    said = []
    for each in (row, *(other for other in rows if other.name == "hpa" and other is not row)):
        longest_s = _mean(each, "time_to_recover_longest_s")
        words = "never missed it for a while" if math.isnan(longest_s) else f"{_minutes(longest_s)} at the longest"
        if _mean(each, "recovered") < 1.0:
            words += " and not over at the end"
        fault_s = _mean(each, "fault_to_recover_longest_s")
        if not math.isnan(fault_s):
            words += f", {_minutes(fault_s)} after a fault" if fault_s > 0 else ", none after a fault"
        said.append(f"{each.name} {words}")
    return "Time to be back within the objective: " + "; ".join(said) + "."


def _losses(row: SummaryRow, rows: Sequence[SummaryRow]) -> str:
    """Return who lost requests that were being served, and who broke a rule; of many only the worst is named."""
    lost = {each.name: _mean(each, "dropped_in_flight") for each in rows}
    named = [name for name in dict.fromkeys((row.name, "hpa", BOUND)) if name in lost]
    others = [name for name in lost if name not in named]
    if len(others) > 2:
        worst = max(others, key=lambda name: lost[name])
        rest = f"; of {len(others)} others at most {lost[worst]:,.0f} ({worst})"
    else:
        named, rest = [*named, *others], ""
    words = "Requests dropped in flight: " + ", ".join(f"{name} {lost[name]:,.0f}" for name in named) + rest + "."
    broken = [f"{each.name} ({each.violations})" for each in rows if each.violations]
    return words + (f" Invariants were violated: {', '.join(broken)}." if broken else "")


def share(ratio: float, target_ratio: float) -> str:
    """Return a share with as many digits as it takes to see on which side of the target it is.

    >>> share(0.9916, 0.99), share(0.98996, 0.99), share(0.99, 0.99)
    ('99.16%', '98.996%', '99.00%')
    """
    for digits in (2, 3, 4):
        text = f"{ratio:.{digits}%}"
        if ratio == target_ratio or float(text[:-1]) != round(target_ratio * 100, 6):
            return text
    return text


def _stand(row: SummaryRow, target: float) -> str:
    return f"{share(_mean(row, 'slo_attainment_ratio'), target)} for {_hours(row)}"


def _attained(row: SummaryRow) -> str:
    return percent(_mean(row, "slo_attainment_ratio"))


def _hours(row: SummaryRow) -> str:
    return f"{gpu_hours(_mean(row, 'gpu_hours'))} GPU hours (US$ {number(_mean(row, 'cost_usd'), ',.0f')})"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60.0:.2g} min" if seconds < 7200 else f"{seconds / 3600.0:.2g} h"


def _target(target_ratio: float) -> str:
    return f"{target_ratio * 100:g}%"


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _name(row: SummaryRow | None) -> str:
    return "" if row is None else row.name


def _mean(row: SummaryRow, name: str) -> float:
    return row.figures[name].mean
