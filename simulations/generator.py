"""What load does a service have that nobody recorded: seeded days, weeks, bursts and accidents."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.series import LoadSeries
from simulations.arrivals import ArrivalProcess
from simulations.rate_curve import RateCurve
from simulations.token_shapes import TOKEN_SHAPES, token_shape_named
from simulations.trace import Float64
from simulations.workload import Client, DrawnTrace

DAY_S = 86_400.0
_NOISE, _LEVELS, _BURSTS = range(3)
_MOST_STEPS = 10_000_000
_PLATEAU_RATIO = 0.5
"""Share of bursts that are jobs of constant rate. Production clients show both: spikes, and blocks of even load."""


class ClientClass(BaseModel):
    """Requests of one kind of user."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What it is called.")
    share: float = Field(gt=0, description="Its part of the mean load, relative to the other classes.")
    peak_hour: float = Field(ge=0, lt=24, description="Hour of its daily peak; classes in other regions peak apart.")
    day_peak_to_trough: float = Field(
        3.0, ge=1, description="Rate at the peak over rate at the trough of a day; 1 is flat. Chat sees 2 to 4."
    )
    weekend_ratio: float = Field(
        0.7, gt=0, description="Rate at the weekend over rate on a working day; coding falls to a third, chat hardly."
    )
    arrival_cv: float = Field(
        1.0, ge=0.05, le=30, description="Coefficient of variation of gaps: 1 is Poisson; agents come in clumps."
    )
    token_shape: str = Field("chat", description="How long its requests are: a name of TOKEN_SHAPES.")

    @model_validator(mode="after")
    def _known_shape(self) -> ClientClass:
        if self.token_shape not in TOKEN_SHAPES:
            raise ValueError(f"no token shape is called {self.token_shape!r}; known: {', '.join(TOKEN_SHAPES)}")
        return self


class FlashCrowd(BaseModel):
    """Everybody comes at once, and nothing before told so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_hour: float = Field(14.0, ge=0, lt=24, description="When it starts, in hours of the last day.")
    magnitude: float = Field(1.5, gt=0, description="Extra load at its height, over the load without it.")
    ramp_s: float = Field(300.0, gt=0, description="Seconds from start to height; news and launches take minutes.")
    fall_s: float = Field(1800.0, gt=0, description="Seconds after the height until a third is left.")


class DeployDrop(BaseModel):
    """A client is redeployed and for a while sends less."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_hour: float = Field(18.5, ge=0, lt=24, description="When it starts, in hours of the last day.")
    depth_ratio: float = Field(0.6, gt=0, le=1, description="Share of the load that is gone.")
    duration_s: float = Field(480.0, gt=0, description="Seconds until the load is back.")


DEFAULT_CLIENTS = (
    ClientClass(name="chat", share=0.6, peak_hour=15, day_peak_to_trough=2.6, weekend_ratio=0.85, arrival_cv=1.3),
    ClientClass(
        name="code",
        share=0.3,
        peak_hour=11,
        day_peak_to_trough=7.0,
        weekend_ratio=0.4,
        arrival_cv=2.0,
        token_shape="code",  # noqa: S106  (no password)
    ),
    ClientClass(
        name="agents",
        share=0.1,
        peak_hour=3,
        day_peak_to_trough=1.8,
        weekend_ratio=0.9,
        arrival_cv=5.0,
        token_shape="balanced",  # noqa: S106  (no password)
    ),
)


class GeneratorSettings(BaseModel):
    """A made-up service. All durations are calendar time, which ``time_compression`` squeezes; ``step_s`` is not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int = Field(15, ge=1, le=366, description="Length in days: a fortnight to learn from and a day to replay.")
    step_s: float = Field(60.0, gt=0, description="Simulated seconds per step of the rates.")
    time_compression: float = Field(
        1.0, ge=1, description="How many calendar seconds pass in a simulated one: 24 makes an hour of each day."
    )
    requests_per_s: float = Field(
        10.0, gt=0, description="Mean load of a working day, in requests per simulated second; some ten A100 replicas."
    )
    clients: tuple[ClientClass, ...] = Field(DEFAULT_CLIENTS, min_length=1, description="Who sends the requests.")
    noise_sd: float = Field(
        0.1, ge=0, le=1, description="Slow wandering of each class about its day, standard deviation of the logarithm."
    )
    noise_memory_s: float = Field(3600.0, gt=0, description="Seconds until two thirds of that wandering is forgotten.")
    day_level_sd: float = Field(
        0.12, ge=0, le=1, description="How much whole days differ, standard deviation of the logarithm."
    )
    bursts_per_day: float = Field(10.0, ge=0, le=200, description="Mean number of bursts a day, each of one class.")
    burst_magnitude: float = Field(0.5, ge=0, description="Median extra load of a burst, over its class's load.")
    burst_duration_s: float = Field(900.0, gt=0, description="Median seconds a burst lasts; some last five times that.")
    flash_crowd: FlashCrowd | None = Field(FlashCrowd(), description="On the last day; null for none.")
    deploy_drop: DeployDrop | None = Field(DeployDrop(), description="On the last day; null for none.")

    @model_validator(mode="after")
    def _bounded(self) -> GeneratorSettings:
        if self.days * self.day_s / self.step_s > _MOST_STEPS:
            raise ValueError(f"step_s {self.step_s:g} gives more than {_MOST_STEPS:,} steps: choose a longer one")
        return self

    @property
    def day_s(self) -> float:
        """Length of a day in simulated seconds."""
        return DAY_S / self.time_compression

    @property
    def replay_start_s(self) -> float:
        """When the last day starts, in simulated seconds: what comes before is there to learn from."""
        return (self.days - 1) * self.day_s

    @property
    def eventful_s(self) -> tuple[float, float]:
        """Return start and length of the part most worth replaying, in simulated seconds.

        Two hours of the day's clock around the flash crowd, or the whole last day when there is none.
        """
        if self.flash_crowd is None:
            return self.replay_start_s, self.day_s
        hour_s = self.day_s / 24
        start_s = min(max(self.flash_crowd.at_hour - 1.0, 0.0), 22.0) * hour_s
        return self.replay_start_s + start_s, 2 * hour_s


class GeneratedTrace(DrawnTrace):
    """Requests drawn from made-up rates; ``clients`` has one entry per client class, in their order.

    Args:
        settings: The service. The first day is a Monday.
        seed: Not negative. The same settings and seed give the same requests.
    """

    def __init__(self, settings: GeneratorSettings, seed: int) -> None:
        self.settings = settings
        factors = _common_factor(settings) * _burst_factors(settings, seed)
        total = sum(each.share for each in settings.clients)
        clients = [
            Client(
                RateCurve(
                    settings.step_s,
                    settings.requests_per_s
                    * each.share
                    / total
                    * _calendar(settings, each)
                    * factors[number]
                    * _wandering(settings, seed, number),
                ),
                ArrivalProcess(each.arrival_cv),
                token_shape_named(each.token_shape),
            )
            for number, each in enumerate(settings.clients)
        ]
        name = f"generated-{settings.days}d"
        classes = ", ".join(each.name for each in settings.clients)
        squeezed = f" squeezed {settings.time_compression:g} times" if settings.time_compression != 1 else ""
        origin = f"generated load, not recorded: {settings.days} days{squeezed} of {classes}"
        super().__init__(name, origin, True, clients, seed)


def generate_load(settings: GeneratorSettings, seed: int) -> LoadSeries:
    """Return the rates behind ``GeneratedTrace(settings, seed)``, free of the noise that single requests make.

    ``GeneratedTrace.observed`` gives what a controller would have counted.
    """
    trace = GeneratedTrace(settings, seed)
    return trace.expected(0.0, trace.end_s, settings.step_s)


def _centres_s(settings: GeneratorSettings) -> Float64:
    """Return the middle of each step, in calendar seconds."""
    steps = math.ceil(settings.days * settings.day_s / settings.step_s - 1e-9)
    return np.asarray((np.arange(steps) + 0.5) * (settings.step_s * settings.time_compression), dtype=np.float64)


def _calendar(settings: GeneratorSettings, client: ClientClass) -> Float64:
    """Return the class's rate by time of day and day of week, 1 on average over a working day."""
    day = _daily(np.arange(1440) / 60, client)
    at_s = _centres_s(settings)
    return np.asarray(_daily(at_s / 3600 % 24, client) / day.mean() * _weekly(at_s / DAY_S, client.weekend_ratio))


def _daily(hour: Float64, client: ClientClass) -> Float64:
    """Return the rate by time of day: steep mornings, a plateau with a dip after its first half, long evenings."""
    angle = 2 * np.pi * (hour - client.peak_hour) / 24
    # Bent so that the rise takes 10 hours and the fall 14, then flattened at both ends.
    wave = np.tanh(1.3 * np.cos(angle - 0.35 * np.sin(angle) - 0.2)) / math.tanh(1.3)
    from_lunch_h = (hour - client.peak_hour + 2.5 + 12) % 24 - 12
    dip = 0.12 * np.exp(-((from_lunch_h / 0.8) ** 2) / 2)
    return np.asarray(np.exp(math.log(client.day_peak_to_trough) / 2 * (wave - dip)))


def _weekly(day: Float64, weekend_ratio: float) -> Float64:
    """Return ``weekend_ratio`` on Saturday and Sunday (days 5 and 6), 1 otherwise, changing over six night hours."""
    of_week = day % 7
    # Distance into the weekend from either side, in days; Monday 0:00 is also day 7.
    inside = np.where(of_week < 1, -of_week, np.minimum(of_week - 5, 7 - of_week))
    part = np.clip((inside + 0.125) / 0.25, 0, 1)
    return np.asarray(1 + (weekend_ratio - 1) * part * part * (3 - 2 * part))


def _wandering(settings: GeneratorSettings, seed: int, number: int) -> Float64:
    """Return slow noise around 1: an AR(1) in the logarithm, and a level per day that is reached at noon."""
    at_s = _centres_s(settings)
    memory = math.exp(-settings.step_s * settings.time_compression / settings.noise_memory_s)
    shocks = np.random.default_rng([seed, _NOISE, number]).standard_normal(len(at_s))
    shocks[1:] *= math.sqrt(1 - memory**2)
    wander = np.fromiter(accumulate(shocks, lambda before, shock: memory * before + shock), np.float64, len(at_s))
    levels = np.random.default_rng([seed, _LEVELS, number]).standard_normal(settings.days)
    level = np.interp(at_s / DAY_S, np.arange(settings.days) + 0.5, levels)
    return np.asarray(np.exp(settings.noise_sd * wander + settings.day_level_sd * level))


def _burst_factors(settings: GeneratorSettings, seed: int) -> Float64:
    """Return ``float64[classes, T]``: what bursts multiply each class's rate by."""
    at_s = _centres_s(settings)
    factors = np.ones((len(settings.clients), len(at_s)))
    shares = np.array([each.share for each in settings.clients])
    for day in range(settings.days):
        rng = np.random.default_rng([seed, _BURSTS, day])
        for _ in range(rng.poisson(settings.bursts_per_day)):
            start_s = (day + rng.random()) * DAY_S
            magnitude, duration = rng.lognormal(0.0, (0.6, 0.9)) * (settings.burst_magnitude, settings.burst_duration_s)
            client = rng.choice(len(shares), p=shares / shares.sum())
            felt = slice(*np.searchsorted(at_s, (start_s, start_s + 10 * duration)))
            factors[client, felt] += magnitude * _burst(at_s[felt] - start_s, duration, rng.random() < _PLATEAU_RATIO)
    return factors


def _burst(since_s: Float64, duration_s: float, is_plateau: bool) -> Float64:
    """Return a burst of height 1: a job of constant rate that starts and ends within a minute, or a surge."""
    if is_plateau:
        return np.asarray(np.clip(since_s / 60, 0, 1) * np.clip((duration_s - since_s) / 60, 0, 1))
    return _surge(since_s, 0.15 * duration_s, 0.4 * duration_s)


def _surge(since_s: Float64, rise_s: float, fall_s: float) -> Float64:
    """Return a surge of height 1 that starts at 0, rises linearly and falls exponentially."""
    falling = np.exp(-np.clip(since_s - rise_s, 0, 50 * fall_s) / fall_s)
    return np.asarray(np.clip(since_s / rise_s, 0, 1) * falling)


def _common_factor(settings: GeneratorSettings) -> Float64:
    """Return what the flash crowd and the deploy-time drop multiply every class's rate by."""
    at_s = _centres_s(settings)
    last_day_s = (settings.days - 1) * DAY_S
    factor = np.ones(len(at_s))
    if settings.flash_crowd is not None:
        crowd = settings.flash_crowd
        since_s = at_s - last_day_s - crowd.at_hour * 3600
        factor += crowd.magnitude * _surge(since_s, crowd.ramp_s, crowd.fall_s)
    if settings.deploy_drop is not None:
        drop = settings.deploy_drop
        since_s = at_s - last_day_s - drop.at_hour * 3600
        factor *= np.where((since_s >= 0) & (since_s < drop.duration_s), 1 - drop.depth_ratio, 1.0)
    return factor
