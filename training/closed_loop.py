"""What would a model have cost and kept in service? The daemon's own loop replays held-out load, asking it first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controller.champion import chain_of
from forecasting.forecaster import Forecaster
from simulations.runner import Tick, replay
from training.held_out_world import HeldOutWorld

NOBODY = "no model"
"""Who forecasts where there is no champion: what the daemon has without one."""


@dataclass(frozen=True, slots=True)
class LoopRun:
    """What became of one window under one model.

    Attributes:
        model: Version that was asked first.
        within: Requests that met both objectives, of ``requests``.
        asked: Ticks at which a forecast was made; ``answered`` of them by the model itself.
        stepped_back: The first reason why it did not answer, empty when it always did.
        violations: Invariants that were broken.
    """

    series: str
    model: str
    seed: int
    begins_s: float
    length_s: float
    scale: float
    requests: int
    within: int
    gpu_hours: float
    peak_replicas: int
    asked: int
    answered: int
    stepped_back: str
    violations: tuple[str, ...]
    decisions_digest: str

    @property
    def attainment_ratio(self) -> float:
        """Share of all requests that met both objectives."""
        return self.within / self.requests if self.requests else float("nan")


def run_in(
    world: HeldOutWorld,
    model: str,
    forecaster: Forecaster | None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> LoopRun:
    """Replay the window with ``forecaster`` asked first, then whom the daemon would ask; None for those alone."""
    chain = chain_of(forecaster, world.case.settings.forecast.company)
    first = chain.forecasters[0].name if forecaster is not None and chain.forecasters else ""
    watch = _Watch(first, world.case.model, on_progress)
    card = replay(world.case, "foresail", chain.forecasters, on_tick=watch.see).scorecard
    return LoopRun(
        series=world.series,
        model=model,
        seed=world.case.settings.seed,
        begins_s=world.begins_s,
        length_s=world.length_s,
        scale=world.scale,
        requests=card.requests,
        within=card.requests - card.missed_requests,
        gpu_hours=card.gpu_hours,
        peak_replicas=card.peak_replicas,
        asked=watch.asked,
        answered=watch.asked if forecaster is None else watch.asked - watch.stepped_back,
        stepped_back=watch.reason,
        violations=card.violations,
        decisions_digest=card.decisions_digest,
    )


class _Watch:
    """Counts the ticks at which the model ``name`` stepped back from forecasting the load of ``workload``."""

    def __init__(self, name: str, workload: str, on_progress: Callable[[float], None]) -> None:
        self._name, self._workload, self._on_progress = name, workload, on_progress
        self.asked, self.stepped_back, self.reason = 0, 0, ""

    def see(self, tick: Tick) -> None:
        self._on_progress(tick.share)
        if self._workload not in tick.record.forecast_sources:
            return
        self.asked += 1
        for name, reason in tick.record.stepped_back.get(self._workload, ()):
            if name == self._name:
                self.stepped_back += 1
                self.reason = self.reason or reason


def total(runs: Sequence[LoopRun]) -> tuple[float, float]:
    """Return the share of all requests that met the objectives, and all GPU hours."""
    requests = sum(run.requests for run in runs)
    within = sum(run.within for run in runs)
    return (within / requests if requests else float("nan")), sum(run.gpu_hours for run in runs)
