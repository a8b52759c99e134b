"""What does the demo replay: a generated day with a burst, a crash and a hang, after a fortnight to learn from.

Days are squeezed, so that one passes in an hour of simulated time; the engines, their start-up and the control loop
are not. Two pools of the same engine differ in price: a few replicas are reserved, the others are rented on demand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from controller.ports import AuditLog
from forecasting.forecaster import Forecaster
from forecasting.series import LoadSeries
from policies.engine_profile import EngineProfile
from policies.fleet import PoolKey
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from simulations.case import Case, SimulationSettings, prepare
from simulations.fleet import SimulatedFleet
from simulations.generator import DAY_S, ClientClass, FlashCrowd, GeneratedTrace, GeneratorSettings
from simulations.live_state import BandPoint, LoadPoint, Staged, Tally, ViewState, advance
from simulations.runner import SimulationResult, Tick, replay
from simulations.settings import FleetSettings
from simulations.trace import Trace
from simulations.trace_load import load_before
from simulations.trace_views import sliced

PROFILE = "llama-3.1-70b-a100-tp4"
RESERVED, ON_DEMAND = "reserved", "on-demand"


class DemoSettings(BaseModel):
    """The demo's world. Durations are simulated seconds unless they are hours of the squeezed day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(
        7, ge=0, lt=2**32, description="Decides load, lead times and the first weights of the forecaster."
    )
    history_days: int = Field(14, ge=2, le=60, description="Days before the one that is replayed.")
    day_s: float = Field(3600.0, ge=600, le=DAY_S, description="Simulated seconds in which a day passes; whole ticks.")
    requests_per_s: float = Field(14.0, gt=0, description="Mean load; the day's plateau then takes some ten replicas.")
    burst_hour: float = Field(13.0, ge=0, lt=24, description="When the burst begins, on the day's clock.")
    burst_ratio: float = Field(0.5, ge=0, description="Extra load at its height, over the load without it.")
    burst_rise_s: float = Field(480.0, gt=0, description="From its beginning to its height; four lead times.")
    burst_fall_s: float = Field(300.0, gt=0, description="From its height until a third is left.")
    crash_hour: float = Field(8.0, ge=0, lt=24, description="When a reserved replica crashes, on the day's clock.")
    hang_hour: float = Field(20.0, ge=0, lt=24, description="When an on-demand replica hangs, on the day's clock.")
    lead_time_s: float = Field(120.0, gt=0, description="Median time from asking for a replica to READY.")
    reserved_replicas: int = Field(5, ge=1, description="Most replicas of the reserved pool.")
    on_demand_replicas: int = Field(16, ge=1, description="Most replicas of the pool on demand.")
    reserved_usd_per_gpu_hour: float = Field(1.2, gt=0, description="Price of a reserved GPU; 60 % of one on demand.")

    @property
    def compression(self) -> float:
        """Seconds of the squeezed day's own clock per simulated second."""
        return DAY_S / self.day_s

    def at_s(self, hour: float) -> float:
        """Return the simulated second of the replayed day at ``hour`` of its clock."""
        return hour / 24.0 * self.day_s


@dataclass(frozen=True, slots=True, eq=False)
class DemoWorld:
    """All that the demo begins with.

    Attributes:
        day: The requests to replay.
        before: Load of the days before in steps of a tick, ending when the day begins.
        simulation: Pools, faults and everything else that decides the outcome.
        staged: The faults in words, for the audience.
    """

    day: Trace
    before: LoadSeries
    simulation: SimulationSettings
    staged: tuple[Staged, ...]


@dataclass(frozen=True, slots=True, eq=False)
class DemoRun:
    """The day as Foresail lived through it.

    Attributes:
        load: Offered load at every tick, as the loop saw it.
        foreseen: What had been forecast for it a lead time before.
        view: The last state of the view.
    """

    result: SimulationResult
    load: tuple[LoadPoint, ...]
    foreseen: tuple[BandPoint, ...]
    view: ViewState

    @property
    def within_band_ratio(self) -> float:
        """Share of the day in which load came inside the band; NaN when nothing was forecast."""
        seen = {point.at: point.requests_per_s for point in self.load}
        # A band point stands in the middle of a step of a minute, a load point at the end of the minute it averages.
        pairs = [(band, seen[band.at + 30.0]) for band in self.foreseen if band.at + 30.0 in seen]
        inside = [band.low <= rate <= band.high for band, rate in pairs if math.isfinite(rate)]
        return float(np.mean(inside)) if inside else math.nan


def demo_world(settings: DemoSettings) -> DemoWorld:
    """Return the world of ``settings``: the same settings make the same world."""
    generator = _generator(settings)
    whole = GeneratedTrace(generator, settings.seed)
    starts_s = generator.replay_start_s
    simulation = _simulation(settings, starts_s)
    before = load_before(whole, starts_s, simulation.policy.tick_s, starts_s)
    staged = tuple(
        Staged(starts_s + at_s, f"an engine of {pool} {what}", name)
        for at_s, pool, what, name in (
            (_just_before_tick(settings.at_s(settings.crash_hour), simulation), RESERVED, "crashes", "crash"),
            (
                _just_before_tick(settings.at_s(settings.hang_hour), simulation),
                ON_DEMAND,
                "hangs, process alive",
                "hang",
            ),
        )
    )
    return DemoWorld(sliced(whole, starts_s), before, simulation, staged)


def demo_case(world: DemoWorld) -> Case:
    """Return the world with its pools load-tested, which takes some seconds."""
    return prepare(world.day, world.simulation, world.before)


def first_view(settings: DemoSettings, world: DemoWorld, forecaster: str) -> ViewState:
    """Return the view before the first tick; ``forecaster`` says who forecasts."""
    begins_at = world.simulation.fleet.epoch_at
    return ViewState(
        title="foresail demo",
        policy="foresail",
        forecaster=forecaster,
        begins_at=begins_at,
        ends_at=begins_at + settings.day_s,
        compression=settings.compression,
        lead_time_s=settings.lead_time_s,
        look_back_s=settings.day_s * 2 / 3,
        staged=world.staged,
    )


def replay_day(
    case: Case,
    view: ViewState,
    forecasters: Sequence[Forecaster],
    audit: AuditLog | None,
    show: Callable[[ViewState, float], None],
) -> DemoRun:
    """Replay the day under Foresail.

    Args:
        case: From ``demo_case``.
        view: From ``first_view``.
        forecasters: In order of preference.
        audit: Where records go; nowhere when None.
        show: Called after each tick with the view and the share of the day that is behind it.
    """
    load: list[LoadPoint] = []
    foreseen: list[BandPoint] = []

    def watch(tick: Tick) -> None:
        nonlocal view
        view = advance(view, tick.record, tick.record.forecasts, tally_of(tick.fleet))
        load.append(view.load[-1])
        if view.foreseen and (not foreseen or view.foreseen[-1].at > foreseen[-1].at):
            foreseen.append(view.foreseen[-1])
        show(view, tick.share)

    result = replay(case, "foresail", forecasters, audit, watch)
    return DemoRun(result, tuple(load), tuple(foreseen), view)


def tally_of(fleet: SimulatedFleet) -> Tally:
    """Return the count so far."""
    counted = fleet.tallies
    return Tally(
        requests=counted.ended,
        dropped=counted.dropped,
        attainment_ratio=counted.within / counted.ended if counted.ended else math.nan,
        gpu_hours=fleet.gpu_seconds() / 3600.0,
    )


def _generator(settings: DemoSettings) -> GeneratorSettings:
    """Return the service: durations are given to the generator on the day's own clock."""
    clock = settings.compression
    return GeneratorSettings(
        days=settings.history_days + 1,
        step_s=15.0,
        time_compression=clock,
        requests_per_s=settings.requests_per_s,
        # Every day is a working day: a fortnight is too short to learn from what a week's end does to Monday.
        clients=(
            ClientClass(name="assistants", share=0.65, peak_hour=15.0, day_peak_to_trough=3.0, weekend_ratio=1.0),
            ClientClass(
                name="offices",
                share=0.35,
                peak_hour=13.0,
                day_peak_to_trough=30.0,
                weekend_ratio=1.0,
                arrival_cv=1.5,
            ),
        ),
        noise_memory_s=600.0 * clock,
        bursts_per_day=1.0,
        burst_magnitude=0.3,
        burst_duration_s=450.0 * clock,
        flash_crowd=FlashCrowd(
            at_hour=settings.burst_hour,
            magnitude=settings.burst_ratio,
            ramp_s=settings.burst_rise_s * clock,
            fall_s=settings.burst_fall_s * clock,
        )
        if settings.burst_ratio > 0
        else None,
        deploy_drop=None,
    )


def _simulation(settings: DemoSettings, starts_s: float) -> SimulationSettings:
    on_demand = profile_named(PROFILE)
    reserved = on_demand.model_copy(update={"usd_per_gpu_hour": settings.reserved_usd_per_gpu_hour})
    base = SimulationSettings(
        pools={
            _pool_key(reserved, RESERVED): PoolSettings(
                profile=reserved, min_replicas=1, max_replicas=settings.reserved_replicas
            ),
            _pool_key(on_demand, ON_DEMAND): PoolSettings(
                profile=on_demand, min_replicas=1, max_replicas=settings.on_demand_replicas
            ),
        },
        lead_time_s=settings.lead_time_s,
        seed=settings.seed,
        fleet=FleetSettings(epoch_at=starts_s),
    )
    crash_s, hang_s = (
        _just_before_tick(settings.at_s(hour), base) for hour in (settings.crash_hour, settings.hang_hour)
    )
    faults = (f"crash@{crash_s:g}:pool={RESERVED},replica=1", f"hang@{hang_s:g}:pool={ON_DEMAND}")
    return base.model_copy(update={"faults": faults})


def _pool_key(profile: EngineProfile, pool: str) -> str:
    return str(PoolKey(profile.model, pool))


def _just_before_tick(at_s: float, simulation: SimulationSettings) -> float:
    """Return an instant at about ``at_s`` from which the next tick still sees a crashed engine that is down.

    The platform starts it again after a back-off that is shorter than a tick.
    """
    tick_s = simulation.policy.tick_s
    return tick_s * max(1, round(at_s / tick_s)) - 0.5 * min(tick_s, simulation.fleet.restart_backoff_s)
