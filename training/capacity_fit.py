"""Which step times make the simulated engine answer as a measured one did? A profile fitted to measurements.

Every measured time is a sum of six coefficients times amounts of work (``simulations.engine_runs``), given who was in
the batch when. So the fit alternates: replay the loads with the coefficients it has, take the amounts of work from the
replay, solve the bounded, robust regression of the measured times on them, replay again. Residuals are relative.

A fit tells how well each coefficient is known. One that the measurements do not determine is refused, unless a
starting profile says what it may be: then it is kept near that, and said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import lsq_linear

from controller.errors import BadInput
from forecasting.series import FloatArray
from policies.engine_profile import EngineProfile
from simulations.engine_runs import COEFFICIENTS, MEASURES, Replayed, coefficients_of, with_coefficients
from training.measurements import Measurement

BATCHED_TOKENS = (2048, 4096, 8192, 16384)
"""Budgets of a step that are tried when the engine's is not known: vLLM's defaults and their neighbours."""

_ROUNDS, _SCREENING_ROUNDS = 12, 4
_SETTLED = 2e-3  # largest relative change of a coefficient after which another round would not matter
_WORSE_ROUNDS = 4
_RUN_WEIGHT = 30.0  # requests of a run share steps: it counts as so many independent ones
_FEWEST_POINTS, _FEWEST_REQUESTS = 3, 20
_LEAST_SPREAD = 0.01  # measured times are not believed to be better than 1 %
_FREE_PRIOR, _LIKE_PRIOR = 3.0, 0.7  # standard deviations of a coefficient's logarithm about that of its start
_UNKNOWN = 0.08  # a coefficient is not determined when what it adds to a time is uncertain by more than this share
_SHORTEST = 1e-12

_MORE_LOADS = "measure at more concurrencies, from one request at a time to as many as the engine serves"
_REMEDIES = {
    "decode_base_s": _MORE_LOADS,
    "decode_per_sequence_s": _MORE_LOADS,
    "decode_per_kv_token_s": f"{_MORE_LOADS}, and with other prompt or output lengths",
    "prefill_per_token_s": "measure prompts of other lengths",
    "prefill_per_token2_s": "measure prompts of other lengths, several times as long",
}
_TIED = "prefill_base_s"  # steps that only prefill are rare: where they do not tell, it stays near its start

Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One coefficient of the fitted profile.

    Attributes:
        name: Field of ``EngineProfile``.
        value: In seconds.
        error_ratio: Standard error over the value.
        share: The largest part that it has in any measured time.
        determined: Whether the measurements alone tell it.
    """

    name: str
    value: float
    error_ratio: float
    share: float
    determined: bool


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A measurement, which of it was fitted (``bool[N]`` requests; all alike for a summary), and its replay."""

    measurement: Measurement
    fitted: Rows
    replayed: Replayed


@dataclass(frozen=True, slots=True, eq=False)
class CapacityFit:
    """A fitted profile with what is known about it."""

    profile: EngineProfile
    coefficients: tuple[Coefficient, ...]
    parts: tuple[Part, ...]
    rounds: int
    spread: float
    """Typical relative residual of what was fitted."""
    tried_batched_tokens: tuple[tuple[int, float], ...] = ()
    """Budgets of a step that were tried, with the mean absolute error of each."""

    @property
    def undetermined(self) -> tuple[str, ...]:
        """Names of the coefficients that are what the start said."""
        return tuple(each.name for each in self.coefficients if not each.determined)


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a fit is done.

    Attributes:
        holdout_ratio: Share of the requests of a run, or of the loads of a sweep, that is only predicted.
        prior: Standard deviation of the logarithms of the coefficients about those of the start.
        may_keep: Whether a coefficient that the measurements do not determine stays near the start's value.
    """

    holdout_ratio: float = 0.4
    prior: float = _FREE_PRIOR
    may_keep: bool = False

    @classmethod
    def near_start(cls, holdout_ratio: float) -> FitSettings:
        """Return the settings of a fit that starts from a profile which means something."""
        return cls(holdout_ratio, _LIKE_PRIOR, may_keep=True)

    @property
    def deviations(self) -> FloatArray:
        """Return ``float64[6]``, the prior of each coefficient."""
        return np.array([min(self.prior, _LIKE_PRIOR) if name == _TIED else self.prior for name in COEFFICIENTS])


@dataclass(slots=True)
class _Best:
    cost: float = np.inf
    values: FloatArray = field(default_factory=lambda: np.zeros(0))
    at: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class WorkRows:
    """Rows of the regression: ``work float64[M, 6]`` and ``weight float64[M]``; work is relative to the measured."""

    work: FloatArray
    weight: FloatArray


def capacity_fit(
    start: EngineProfile,
    measurements: Sequence[Measurement],
    settings: FitSettings,
    show: Callable[[float], None] = lambda _share: None,
    rounds: int = _ROUNDS,
) -> CapacityFit:
    """Return the profile that answers the measured loads as measured.

    Args:
        start: First guess, with the engine's true limits (KV tokens, batch sizes).
        measurements: What was measured.
        settings: How.
        show: Told the share of the work that is done.
        rounds: Most replays of all loads.

    Raises:
        BadInput: If there is too little, or a coefficient cannot be told from it.
    """
    _check_enough(measurements)
    parts = split(measurements, settings.holdout_ratio)
    prior = np.maximum(coefficients_of(start), _SHORTEST)
    values, best = prior, _Best()
    for number in range(1, rounds + 1):
        rows = _regression(with_coefficients(start, values), parts)
        cost = _cost(rows, values)
        if cost < best.cost:
            best = _Best(cost, values, number)
        elif number - best.at >= _WORSE_ROUNDS:
            break
        solved = solve(rows, values, prior, settings.deviations)
        change = float(np.abs(solved / np.maximum(values, _SHORTEST) - 1.0).max())
        values = solved
        show(number / rounds)
        if change < _SETTLED:
            break
    profile = with_coefficients(start, best.values)
    rows = _regression(profile, parts)
    coefficients = coefficients_from(rows, best.values, settings.deviations)
    if not settings.may_keep:
        _check_determined(coefficients)
    done = tuple(Part(one, fitted, one.replay(profile)) for one, fitted in parts)
    show(1.0)
    return CapacityFit(profile, coefficients, done, number, _spread(rows.work @ best.values - 1.0))


def fit_budget(
    start: EngineProfile,
    measurements: Sequence[Measurement],
    settings: FitSettings,
    show: Callable[[float], None] = lambda _share: None,
) -> CapacityFit:
    """Return the best of the fits with each of ``BATCHED_TOKENS`` as the budget of a step.

    Raises:
        BadInput: As ``capacity_fit``.
    """
    screened = []
    for done, budget in enumerate(BATCHED_TOKENS):
        limits = {"max_batched_tokens": budget, "max_running": min(start.max_running, budget)}
        tried = start.model_copy(update=limits)
        lenient = FitSettings(settings.holdout_ratio, settings.prior, may_keep=True)
        fit = capacity_fit(tried, measurements, lenient, rounds=_SCREENING_ROUNDS)
        screened.append((_error(fit), tried))
        show(0.6 * (done + 1) / len(BATCHED_TOKENS))
    best = min(screened, key=lambda pair: pair[0])[1]
    fit = capacity_fit(best, measurements, settings, lambda share: show(0.6 + 0.4 * share))
    return replace(fit, tried_batched_tokens=tuple((tried.max_batched_tokens, error) for error, tried in screened))


def rough_start(limits: EngineProfile, measurements: Sequence[Measurement]) -> EngineProfile:
    """Return ``limits`` with step times guessed from the lightest load measured."""
    figures = [one.measured() for one in measurements]
    tpot_s = min((each.get(("tpot_s", "mean"), np.inf) for each in figures), default=np.inf)
    lightest = min(
        (one for one in measurements if ("ttft_s", "mean") in one.measured()),
        key=lambda one: one.measured()["ttft_s", "mean"],
        default=None,
    )
    if lightest is None or not np.isfinite(tpot_s):
        raise BadInput("no TTFT or no TPOT was measured", "--input", "give results that have both")
    tokens = float(np.mean([one.prompt_tokens.mean() for one in measurements]))
    ttft_s = lightest.measured()["ttft_s", "mean"] / float(lightest.prompt_tokens.mean())
    guess = (0.7 * tpot_s, 0.7 * tpot_s, 2e-3 * tpot_s, 2e-3 * tpot_s / tokens, 0.5 * ttft_s, 0.1 * ttft_s / tokens)
    return with_coefficients(limits, np.maximum(guess, _SHORTEST))


def split(measurements: Sequence[Measurement], holdout_ratio: float) -> list[tuple[Measurement, Rows]]:
    """Return the measurements with what is to be fitted of each.

    Of a run of single requests that is the part that arrived first; of a sweep of summaries every load but some inner
    ones, so that what is held out lies between what is fitted, and all lengths at one load go the same way.
    """
    loads = sorted({_load(one) for one in measurements if one.times is None})
    inner = loads[1:-1:2] if holdout_ratio > 0 and len(loads) >= 3 else []
    parts = []
    for one in measurements:
        if one.times is None:
            fitted = np.full(len(one), _load(one) not in inner)
        else:
            fitted = np.arange(len(one)) < round(len(one) * (1.0 - holdout_ratio))
        parts.append((one, fitted))
    return parts


def _load(one: Measurement) -> float:
    if one.arrived_at is None:
        return float(one.concurrency)
    span_s = float(one.arrived_at[-1] - one.arrived_at[0])
    return len(one) / span_s if span_s > 0 else float(len(one))


def _regression(profile: EngineProfile, parts: Sequence[tuple[Measurement, Rows]]) -> WorkRows:
    works, weights = [], []
    for one, fitted in parts:
        if fitted.any():
            work = _observed(one, one.replay(profile), fitted)
            works.append(work)
            weights.append(np.full(len(work), min(1.0, (3 * _RUN_WEIGHT / max(1, len(work))) ** 0.5)))
    return WorkRows(np.concatenate(works), np.concatenate(weights))


def _observed(one: Measurement, replayed: Replayed, rows: Rows) -> FloatArray:
    """Return ``float64[M, 6]``: the work in each measured time of ``rows``, divided by that time."""
    found = []
    for number, measure in enumerate(MEASURES):
        works = replayed.work[number]
        several = rows & (one.output_tokens > 1) if measure == "tpot_s" else rows
        if one.times is not None:
            found.append(works[several] / one.times.of(measure)[several, np.newaxis])
            continue
        figures = one.measured()
        measured = figures.get((measure, "mean"), figures.get((measure, "p50")))
        if measured and several.any():
            found.append(works[several].mean(axis=0, keepdims=True) / measured)
    return np.concatenate(found)


def solve(rows: WorkRows, values: FloatArray, prior: FloatArray, deviations: FloatArray) -> FloatArray:
    """Return the coefficients that fit the rows best, no more than a factor of three from ``values``."""
    residuals = rows.work @ values - 1.0
    spread = _spread(residuals)
    robust = np.sqrt(np.minimum(1.0, 1.5 * spread / np.maximum(np.abs(residuals), _SHORTEST)))
    scale = rows.weight * robust / spread
    # The unknowns are multiples m of ``values``; log(m) is m - 1 near enough for the pull towards the prior.
    pull = 1.0 / deviations
    matrix = np.vstack([rows.work * values * scale[:, np.newaxis], np.diag(pull)])
    target = np.concatenate([scale, pull * (1.0 - np.log(values / prior))])
    solved = lsq_linear(matrix, target, bounds=(1.0 / 3.0, 3.0))
    return np.asarray(np.maximum(solved.x * values, _SHORTEST))


def coefficients_from(
    rows: WorkRows, values: FloatArray, deviations: FloatArray, names: Sequence[str] = COEFFICIENTS
) -> tuple[Coefficient, ...]:
    """Return what the rows say of each coefficient, near ``values`` that fit them."""
    shares = rows.work * values
    most = np.maximum(shares.max(axis=0), _SHORTEST)
    scaled = rows.work * (rows.weight / _spread(rows.work @ values - 1.0))[:, np.newaxis]
    reach = np.maximum(rows.work.max(axis=0), _SHORTEST)
    seen = (scaled / reach).T @ (scaled / reach)
    alone = np.sqrt(np.diag(np.linalg.inv(seen + 1e-6 * np.eye(len(values)))))  # of what each adds to a time
    pull = 1.0 / (deviations * most) ** 2
    both = np.sqrt(np.diag(np.linalg.inv(seen + np.diag(pull))))
    return tuple(
        Coefficient(
            name=name,
            value=float(values[column]),
            error_ratio=float(both[column] / most[column]),
            share=float(most[column]) if rows.work[:, column].any() else 0.0,
            determined=bool(alone[column] <= _UNKNOWN and rows.work[:, column].any()),
        )
        for column, name in enumerate(names)
    )


def _check_enough(measurements: Sequence[Measurement]) -> None:
    requests = sum(len(one) for one in measurements if one.times is not None)
    points = sum(one.times is None for one in measurements)
    if points < _FEWEST_POINTS and requests < _FEWEST_REQUESTS:
        what = f"{points} loads in summary and {requests} single requests are too few to fit six coefficients"
        remedy = f"give {_FEWEST_POINTS} loads or more, or a run of {_FEWEST_REQUESTS} requests or more"
        raise BadInput(what, "--input", remedy)


def _check_determined(coefficients: Sequence[Coefficient]) -> None:
    unknown = [each.name for each in coefficients if not each.determined and each.name != _TIED]
    if unknown:
        what = f"these measurements do not determine {', '.join(unknown)}"
        help_ = "; ".join(dict.fromkeys(_REMEDIES[name] for name in unknown))
        raise BadInput(what, "--input", f"{help_}; or give --like PROFILE, whose values are then kept")


def _cost(rows: WorkRows, values: FloatArray) -> float:
    return float(np.average(np.abs(rows.work @ values - 1.0), weights=rows.weight**2))


def _error(fit: CapacityFit) -> float:
    pairs = [(part.measurement, part.fitted) for part in fit.parts]
    rows = _regression(fit.profile, pairs)
    return _cost(rows, coefficients_of(fit.profile))


def _spread(residuals: FloatArray) -> float:
    return max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(residuals))))
