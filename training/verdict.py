"""What do two models' scores and runs say about which is to serve? A verdict, with its reasons in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from training.backtest import Score
from training.closed_loop import LoopRun, total
from training.held_out_world import WorldSettings

_LEAST_ANSWERED = 0.5


class GateSettings(BaseModel):
    """How a challenger is judged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lead_s: tuple[float, ...] = Field(
        (120.0, 300.0), min_length=1, description="Leads judged, in seconds: around a start-up and a slow one."
    )
    held_out_ratio: float = Field(
        0.15, gt=0, lt=1, description="Newest share of each history that is judged on; what training left out too."
    )
    tolerance: float = Field(
        0.02,
        ge=0,
        le=1,
        description="By how much the challenger's mean pinball loss may exceed the champion's, as a share; fits on the "
        "same history with another seed differ by about that.",
    )
    max_origins: int = Field(
        500, ge=10, le=1_000_000, description="Most origins per history; more sharpen the verdict and take longer."
    )
    attainment_tolerance: float = Field(
        0.005,
        ge=0,
        le=1,
        description="By how much the share of requests within the objective may be lower in the closed loop, both "
        "counted up to the objective only.",
    )
    gpu_tolerance: float = Field(
        0.05,
        ge=0,
        le=1,
        description="By how much GPU hours may exceed the champion's in the closed loop, as a share (fits with another "
        "seed differ by 2 to 4 % on a window),",
    )
    gpu_tolerance_if_better: float = Field(
        0.25, ge=0, le=10, description="and by how much where the objective is kept better by more than the tolerance."
    )
    seeds: int = Field(
        2, ge=1, le=100, description="Times that each window is replayed, each with other requests at the same rates."
    )
    world: WorldSettings = Field(default_factory=WorldSettings, description="What the closed loop replays.")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of both models over all series, less being better.

    Pinball losses are normalised by the mean load of their series, and means over leads too.
    """

    measure: str
    challenger: float
    champion: float

    @property
    def ratio(self) -> float:
        """Challenger over champion; below 1 the challenger is better."""
        if self.champion:
            return self.challenger / self.champion
        return float("inf") if self.challenger else 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger may be promoted, and why or why not, in sentences.

    Attributes:
        champion: Version it was compared with; empty when there is none yet: then the last value stood in for it, and
            in the closed loop whom the daemon asks without a model.
        scores: Scores of both, per series and lead.
        runs: Closed-loop runs of both, per window and seed.
    """

    passed: bool
    reasons: tuple[str, ...]
    challenger: str
    champion: str
    comparisons: tuple[Comparison, ...]
    scores: tuple[Score, ...]
    runs: tuple[LoopRun, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one model showed: scores of its forecasts, and runs with them in the closed loop."""

    scores: Sequence[Score]
    runs: Sequence[LoopRun]


@dataclass(frozen=True, slots=True)
class _Finding:
    comparison: Comparison | None
    passed: bool
    reason: str


def verdict_of(
    challenger: str, champion: str, new: Evidence, old: Evidence, objective_ratio: float, settings: GateSettings
) -> Verdict:
    """Return the verdict on ``new`` against ``old``; ``champion`` is empty where there is none.

    ``objective_ratio`` is the share of requests that has to be within the objective: more of them are no merit.
    """
    against = f"version {champion}" if champion else "the last value (there is no champion yet)"
    pinballs: tuple[tuple[str, Callable[[Score], float]], ...] = (
        ("pinball", lambda row: row.pinball_normalised),
        ("peak pinball", lambda row: row.peak_pinball_normalised),
    )
    findings = [
        _pinball(Comparison(name, _mean(new.scores, of), _mean(old.scores, of)), against, settings)
        for name, of in pinballs
    ]
    in_service = f"version {champion}" if champion else "forecasts without a trained model"
    findings += [
        *_in_service(new.runs, old.runs, objective_ratio, in_service, settings),
        *_silent(new),
        *_broken(new.runs),
    ]
    return Verdict(
        passed=all(finding.passed for finding in findings),
        reasons=tuple(finding.reason for finding in findings),
        challenger=challenger,
        champion=champion,
        comparisons=tuple(finding.comparison for finding in findings if finding.comparison is not None),
        scores=(*new.scores, *old.scores),
        runs=(*new.runs, *old.runs),
    )


def _pinball(compared: Comparison, against: str, settings: GateSettings) -> _Finding:
    reason = (
        f"{compared.measure} {compared.challenger:.4f} against {compared.champion:.4f} of {against} "
        f"({compared.ratio - 1:+.1%})"
    )
    if compared.ratio <= 1.0 + settings.tolerance:
        return _Finding(compared, True, reason)
    return _Finding(compared, False, f"{reason}, more than the tolerance of {settings.tolerance:.0%}")


def _in_service(
    new: Sequence[LoopRun], old: Sequence[LoopRun], objective_ratio: float, against: str, settings: GateSettings
) -> list[_Finding]:
    (kept, hours), (kept_before, hours_before) = total(new), total(old)
    gained = min(kept, objective_ratio) - min(kept_before, objective_ratio)
    worse = gained < -settings.attainment_tolerance
    reason = f"closed loop: {kept:.2%} of the requests within the objective against {kept_before:.2%} with {against}"
    if worse:
        reason += f", less by more than the tolerance of {settings.attainment_tolerance:.1%}"
    missed = _Finding(Comparison("missed requests", 1.0 - kept, 1.0 - kept_before), not worse, reason)
    better = gained > settings.attainment_tolerance
    allowed = settings.gpu_tolerance_if_better if better else settings.gpu_tolerance
    compared = Comparison("GPU hours", hours, hours_before)
    reason = f"closed loop: {hours:.1f} GPU hours against {hours_before:.1f} ({compared.ratio - 1:+.1%})"
    dear = compared.ratio > 1.0 + allowed
    if dear:
        reason += f", more than the tolerance of {allowed:.0%}"
        reason += " where the objective is kept better" if better else ""
    elif compared.ratio > 1.0 + settings.gpu_tolerance:
        reason += ", for which the objective is kept better"
    return [missed, _Finding(compared, not dear, reason)]


def _silent(new: Evidence) -> list[_Finding]:
    """Return a finding against a model that mostly left the answer to others."""
    row = next((row for row in new.scores if row.answered_ratio < _LEAST_ANSWERED), None)
    findings = []
    if row is not None:
        reason = f"it answered at only {row.answered_ratio:.0%} of the origins of {row.series}, the last value had to "
        findings.append(_Finding(None, False, f"{reason}stand in"))
    run = next((run for run in new.runs if run.answered < _LEAST_ANSWERED * run.asked), None)
    if run is not None:
        reason = f"closed loop: it answered at only {run.answered / run.asked:.0%} of the ticks on {run.series}"
        findings.append(_Finding(None, False, f"{reason}: {run.stepped_back}"))
    return findings


def _broken(new: Sequence[LoopRun]) -> list[_Finding]:
    broken = [f"{run.series}: {run.violations[0]}" for run in new if run.violations]
    return [_Finding(None, False, f"closed loop: an invariant was broken on {broken[0]}")] if broken else []


def _mean(rows: Sequence[Score], measure: Callable[[Score], float]) -> float:
    return sum(measure(row) for row in rows) / len(rows)
