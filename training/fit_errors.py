"""How far is a fitted engine from the measured one: errors of means and tails, on what was fitted and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simulations.engine_runs import MEASURES
from training.capacity_fit import Part
from training.measurements import Measurement, statistics

FITTED, HELD_OUT = "fitted", "held out"


@dataclass(frozen=True, slots=True)
class FitError:
    """Errors of one measure; all are simulated over measured, minus one.

    Attributes:
        source: Name of the run; or how many loads of summaries.
        part: ``fitted`` or ``held out``.
        measure: ``ttft_s``, ``tpot_s`` or ``e2e_s``.
        observations: Requests of a run, or loads.
        mean: Of the mean over a run's requests; over loads, the mean of the errors of their means.
        p90, p99: Of the percentiles of a run's requests; over loads, the mean error of those told; None if none is.
        absolute: Mean absolute error of the requests of a run, or of the means of loads.
        worst: Largest absolute error of the mean of a load; None for a run.
    """

    source: str
    part: str
    measure: str
    observations: int
    mean: float
    p90: float | None
    p99: float | None
    absolute: float
    worst: float | None


def fit_errors(parts: Sequence[Part]) -> list[FitError]:
    """Return the errors of every run and of all loads together."""
    errors: list[FitError] = []
    for part in parts:
        if part.measurement.times is not None:
            errors += _of_run(part)
    return errors + list(_of_loads([part for part in parts if part.measurement.times is None]))


def _of_run(part: Part) -> Iterator[FitError]:
    one, ours, recorded = part.measurement, part.replayed.run.times, part.measurement.times
    if recorded is None:
        return
    for name, rows in ((FITTED, part.fitted), (HELD_OUT, ~part.fitted)):
        if not rows.any():
            continue
        theirs_figures, our_figures = one.measured(rows), statistics(ours, rows)
        for measure in MEASURES:
            if (measure, "mean") in theirs_figures:
                counted = rows & (one.output_tokens > 1) if measure == "tpot_s" else rows
                theirs = recorded.of(measure)[counted]
                known = theirs > 0
                errors = ours.of(measure)[counted][known] / theirs[known] - 1.0
                of = {
                    statistic: our_figures[measure, statistic] / theirs_figures[measure, statistic] - 1.0
                    for statistic in ("mean", "p90", "p99")
                }
                absolute = float(np.abs(errors).mean())
                yield FitError(one.name, name, measure, len(errors), of["mean"], of["p90"], of["p99"], absolute, None)


def _of_loads(parts: Sequence[Part]) -> Iterator[FitError]:
    for name, chosen in (
        (FITTED, [part for part in parts if part.fitted.all()]),
        (HELD_OUT, [part for part in parts if not part.fitted.any()]),
    ):
        for measure in MEASURES:
            means = [error for part in chosen if (error := error_of(part, measure, "mean")) is not None]
            if means:
                tails = [
                    [error for part in chosen if (error := error_of(part, measure, level)) is not None]
                    for level in ("p90", "p99")
                ]
                p90, p99 = (float(np.mean(tail)) if tail else None for tail in tails)
                absolute = np.abs(means)
                yield FitError(
                    f"{len(chosen)} loads",
                    name,
                    measure,
                    len(means),
                    float(np.mean(means)),
                    p90,
                    p99,
                    float(absolute.mean()),
                    float(absolute.max()),
                )


def error_of(part: Part, measure: str, statistic: str) -> float | None:
    """Return the error of one statistic of a load; None when it was not measured."""
    theirs = part.measurement.measured().get((measure, statistic))
    if theirs is None and statistic == "mean":
        statistic = "p50"
        theirs = part.measurement.measured().get((measure, statistic))
    ours = simulated(part.measurement, part)
    if not theirs or (measure, statistic) not in ours:
        return None
    return ours[measure, statistic] / theirs - 1.0


def simulated(one: Measurement, part: Part) -> dict[tuple[str, str], float]:
    """Return the statistics of a part's replay over all requests."""
    return dict(statistics(part.replayed.run.times, np.ones(len(one), dtype=np.bool_)))
