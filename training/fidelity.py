"""How far is the simulated engine from recorded ones? Each one in a folder, fitted to a part and asked for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from controller.errors import BadInput
from policies.engine_profile import EngineProfile
from policies.profile_catalogue import CATALOGUE
from simulations.engine_runs import MEASURES
from simulations.progress import Shown
from training.bench_results import read_results
from training.capacity_fit import CapacityFit, FitSettings, Part, capacity_fit, fit_budget, split
from training.fit_errors import FitError, fit_errors
from training.measurements import Measurement
from training.profile_options import told_by
from training.silicon_rows import Engine, read_silicon

FITTED = "fitted"
Lengths = tuple[float, float]
"""Shortest and longest request, in parts of what a table tells."""
AS_TOLD: Lengths = (1.0, 1.0)
LENGTHS: tuple[Lengths, ...] = (AS_TOLD, (0.9, 1.1), (0.8, 1.0))
"""What is tried where a table tells one length: exactly that, 10 % either way, and that as the longest."""

_FEWEST_LOADS = 6


@dataclass(frozen=True, slots=True)
class FidelityRow:
    """Errors of one profile on one part of what was measured of an engine; simulated over measured, minus one.

    Attributes:
        engine: What was measured.
        profile: The catalogue's name of the profile as shipped, or ``fitted``.
        part: ``all``, ``fitted`` or ``held out``.
        observations: Requests of a run, or loads.
        per_run: Whether it is a run of single requests.
        mean: By measure: error of the mean of a run; over loads, the mean error of their means.
        absolute: By measure: mean absolute error per request, or of the means of loads.
        p90, p99: By measure, where known: error of the percentile over a run's requests.
        max_batched_tokens: Budget of a step of the profile.
        lengths: How long the requests were taken to be, in parts of what is told.
    """

    engine: str
    profile: str
    part: str
    observations: int
    per_run: bool
    mean: Mapping[str, float]
    absolute: Mapping[str, float]
    p90: Mapping[str, float]
    p99: Mapping[str, float]
    max_batched_tokens: int
    lengths: Lengths

    def of(self, measure: str) -> float:
        """Return the error that counts: of the mean of a run, signed; over loads, the mean absolute one."""
        return self.mean[measure] if self.per_run else self.absolute[measure]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Recorded:
    name: str
    variants: Mapping[Lengths, Sequence[Measurement]]
    start: EngineProfile
    shipped: bool  # whether the start is the catalogue's profile of this very engine
    budget_known: bool


def measure_fidelity(folder: Path, holdout_ratio: float, only: str, show: Shown) -> list[FidelityRow]:
    """Return the errors for every recorded engine of a model and GPU in the catalogue.

    Args:
        folder: With request logs and tables of silicon runs.
        holdout_ratio: Share that is only predicted.
        only: Part of the names of the engines that are wanted.
        show: Told how far it is.

    Raises:
        BadInput: If there is nothing to measure.
    """
    if not folder.is_dir():
        raise BadInput("there is no such folder", f"--runs {folder}", "name one with recorded runs")
    recorded = [one for one in (*_runs(folder), *_silicon(folder)) if only.lower() in one.name.lower()]
    if not recorded:
        what = "it holds no run of an engine whose model is in the catalogue"
        raise BadInput(what, f"--runs {folder}", "see docs/profiles.md for the files; --only may leave all out")
    rows: list[FidelityRow] = []
    total = len(recorded)
    for number, one in enumerate(recorded):
        if one.shipped:
            for lengths, measurements in one.variants.items():
                errors = fit_errors([_whole(each, one.start) for each in measurements])
                rows += _rows(one.name, one.start, lengths, errors, one.start.name, part="all")
        chosen = _nearest(one, holdout_ratio)
        fit = _fitted(one, chosen, holdout_ratio, partial(_show, show, number, total, one.name))
        rows += _rows(one.name, fit.profile, chosen, fit_errors(fit.parts), FITTED)
    return rows


def _show(show: Shown, done: int, total: int, name: str, share: float) -> None:
    show((done + share) / total, name)


def _nearest(one: _Recorded, holdout_ratio: float) -> Lengths:
    """Return the lengths with which the start is nearest to what is to be fitted."""
    return min(one.variants, key=lambda lengths: _distance_of_fitted(one.start, one.variants[lengths], holdout_ratio))


def _fitted(one: _Recorded, lengths: Lengths, holdout_ratio: float, show: Callable[[float], None]) -> CapacityFit:
    settings = FitSettings.near_start(holdout_ratio)
    fit = capacity_fit if one.budget_known else fit_budget
    return fit(one.start, one.variants[lengths], settings, show)


def _runs(folder: Path) -> Iterator[_Recorded]:
    for path in sorted(folder.rglob("*_requests.jsonl")):
        measurements, told = read_results(path, "requests"), told_by([path])
        known = [profile for profile in CATALOGUE.values() if _same_model(profile, str(told.get("model", "")))]
        if known:
            name = path.stem.removesuffix("_requests")
            limits = {key: value for key, value in told.items() if key not in ("model", "gpu")}
            same = [one for one in known if _plain(one.gpu) in _plain(name) and one.gpus == told.get("gpus")]
            starts = [profile.model_copy(update=limits) for profile in same or known]
            start = starts[0] if same else min(starts, key=lambda start: _distance(start, measurements))
            yield _Recorded(name, {AS_TOLD: measurements}, start, bool(same), "max_batched_tokens" in told)


def _silicon(folder: Path) -> Iterator[_Recorded]:
    for path in sorted(folder.rglob("*.parquet")):
        try:
            tables = {lengths: read_silicon(path, lengths) for lengths in LENGTHS}
        except BadInput:
            continue  # another kind of table
        for engine in tables[AS_TOLD]:
            start = _shipped(engine)
            if start is None:
                continue
            variants = {
                lengths: [one for one in table[engine] if _fits(start, one)] for lengths, table in tables.items()
            }
            if min(map(len, variants.values())) >= _FEWEST_LOADS:
                yield _Recorded(engine.name, variants, start, shipped=True, budget_known=False)


def _shipped(engine: Engine) -> EngineProfile | None:
    """Return the catalogue's profile of the very engine; None where there is none, or it does not schedule as vLLM."""
    if engine.backend != "vllm":
        return None
    for profile in CATALOGUE.values():
        low_precision = "-fp8-" in profile.name
        same = _same_model(profile, engine.model) and (profile.gpu, profile.gpus) == (engine.gpu, engine.gpus)
        if same and low_precision == (engine.precision == "fp8"):
            return profile
    return None


def _same_model(profile: EngineProfile, model: str) -> bool:
    ours, theirs = (name.rpartition("/")[2].lower().removeprefix("meta-") for name in (profile.model, model))
    return ours.removesuffix("-instruct") == theirs.removesuffix("-instruct").removesuffix("-fp8")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _fits(profile: EngineProfile, one: Measurement) -> bool:
    return int((one.prompt_tokens + one.output_tokens).max()) < profile.kv_cache_tokens


def _distance(start: EngineProfile, measurements: Sequence[Measurement]) -> float:
    try:
        errors = fit_errors([_whole(one, start) for one in measurements])
    except BadInput:
        return np.inf
    return float(np.mean([error.absolute for error in errors]))


def _distance_of_fitted(start: EngineProfile, measurements: Sequence[Measurement], holdout_ratio: float) -> float:
    """Return how far a start is from what is to be fitted: what is held out is not looked at."""
    parts = split(measurements, holdout_ratio)
    return 0.0 if len(parts) == 1 else _distance(start, [one for one, fitted in parts if fitted.all()])


def _whole(one: Measurement, profile: EngineProfile) -> Part:
    return Part(one, np.ones(len(one), dtype=np.bool_), one.replay(profile))


def _rows(
    engine: str, profile: EngineProfile, lengths: Lengths, errors: Sequence[FitError], name: str, part: str = ""
) -> Iterator[FidelityRow]:
    keys = dict.fromkeys((error.source, error.part) for error in errors)
    for key in keys:
        of = {error.measure: error for error in errors if (error.source, error.part) == key}
        if set(of) == set(MEASURES):
            yield FidelityRow(
                engine,
                name,
                part or key[1],
                of["e2e_s"].observations,
                of["e2e_s"].worst is None,
                {measure: error.mean for measure, error in of.items()},
                {measure: error.absolute for measure, error in of.items()},
                {measure: error.p90 for measure, error in of.items() if error.p90 is not None},
                {measure: error.p99 for measure, error in of.items() if error.p99 is not None},
                profile.max_batched_tokens,
                lengths,
            )
