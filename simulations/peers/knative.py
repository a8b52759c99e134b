"""What would Knative's pod autoscaler (KPA) do, on requests in flight?

Follows ``pkg/autoscaler/scaling/autoscaler.go`` of knative/serving 1.19 with the defaults of ``config-autoscaler``: a
stable window of 60 s, a panic window of a tenth of it, panic from 200 % of what the ready replicas can take, a target
utilisation of 70 %. In panic nothing shrinks, and panic ends when a whole stable window has passed without reason for
it. A pool of more than one replica begins in panic, so that a new autoscaler keeps what there is until it has seen
enough.

It decides every 2 s on the requests that the queue proxies count, and those that the activator holds while there is no
replica. The original samples proxies every second and averages within it; here the gateway's count at each tick is
taken, no older than that tick. The hard limit of requests per replica is what one held in its load test; requests are
not held back at it, as they are not with a ``containerConcurrency`` of 0. When no count comes nothing is decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field, model_validator

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.answer import Sized, each_pool
from simulations.peers.rhythm import Rhythm
from simulations.peers.signals import ongoing
from simulations.peers.spans import Span


class WindowSettings(Rhythm):
    """The two windows and how fast the count may move; AIBrix has taken them over with other defaults."""

    stable_window_s: float = Field(60.0, ge=6, le=3600, description="Window of the ordinary average, in seconds.")
    panic_window_s: float = Field(6.0, ge=1, le=3600, description="Window that notices a burst, in seconds.")
    panic_ratio: float = Field(
        2.0, gt=1, description="Replicas wanted by the panic window over those ready from which on it panics."
    )
    up_factor: float = Field(1000.0, gt=1, description="Most replicas at once, as a multiple of those ready.")
    down_factor: float = Field(2.0, gt=1, description="Fewest replicas at once: those ready divided by this.")

    @model_validator(mode="after")
    def _windows_nest(self) -> WindowSettings:
        if self.panic_window_s > self.stable_window_s:
            raise ValueError(
                f"panic_window_s {self.panic_window_s:g} is more than stable_window_s {self.stable_window_s:g}"
            )
        return self


class KnativeSettings(WindowSettings):
    """Defaults of ``config-autoscaler``."""

    tick_s: float = Field(2.0, ge=1, le=3600, description="Seconds between decisions (``tickInterval``).")
    scrape_interval_s: float | None = Field(2.0, ge=0.5, le=3600, description="Seconds between looks at the proxies.")
    scrape_delay_s: float | None = Field(0.0, ge=0, le=60, description="It asks the proxies itself.")
    target_ratio: float = Field(
        0.7,
        gt=0,
        le=2,
        description="Requests per replica to aim at, over those that one held in its load test "
        "(``container-concurrency-target-percentage``).",
    )
    scale_down_delay_s: float = Field(
        0.0, ge=0, le=3600, description="Seconds over which the largest count is kept (``scale-down-delay``)."
    )


@dataclass(slots=True)
class PanicWindows:
    """State of one pool's autoscaler: two windows, and since when it panics."""

    settings: WindowSettings
    panic_at: float | None = None
    most_in_panic: int = 0
    _span: Span = field(init=False)
    _started: bool = False

    def __post_init__(self) -> None:
        self._span = Span(max(self.settings.stable_window_s, self.settings.panic_window_s))

    def scale(self, at: float, observed: float | None, target: float, ready: int) -> int | None:
        """Return the replicas for ``observed``, the pool's total now, at ``target`` per replica; None without data.

        Worked: 4 ready replicas, 60 in flight over the stable and 130 over the panic window, target 12. Stable wants
        ceil(60 / 12) = 5, panic ceil(130 / 12) = 11; 11 / 4 is over 2.0, so it panics and asks for 11.
        """
        settings = self.settings
        if not self._started:
            self._started = True
            self.panic_at, self.most_in_panic = (at, ready) if ready > 1 else (None, 0)
        if observed is not None:
            self._span.add(at, observed)
        stable, burst = self._span.mean(at, settings.stable_window_s), self._span.mean(at, settings.panic_window_s)
        if math.isnan(stable) or math.isnan(burst):
            return None
        base = max(1, ready)
        most, least = math.ceil(settings.up_factor * base), math.floor(base / settings.down_factor)
        by_stable, by_burst = math.ceil(stable / target), math.ceil(burst / target)
        wanted = min(max(by_stable, least), most)
        if by_burst / base >= settings.panic_ratio:
            self.panic_at = at
        elif self.panic_at is not None and self.panic_at + settings.stable_window_s < at:
            self.panic_at, self.most_in_panic = None, 0
        if self.panic_at is None:
            return wanted
        self.most_in_panic = max(self.most_in_panic, wanted, min(max(by_burst, least), most))
        return self.most_in_panic


@dataclass(slots=True)
class Knative:
    """One autoscaler per pool, which lives as long as the run.

    Attributes:
        pools: Bounds per pool, by key text.
        targets: Requests per replica to aim at, by the same keys.
    """

    pools: Mapping[str, PoolSettings]
    targets: Mapping[str, float]
    settings: KnativeSettings
    name: str = "knative"
    _windows: dict[str, PanicWindows] = field(default_factory=dict)
    _wanted: dict[str, Span] = field(default_factory=dict)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each pool's autoscaler asks for."""
        return each_pool(fleet, memory, self.pools, lambda pool, _: self._sized(fleet, pool))

    def _sized(self, fleet: FleetState, pool: PoolState) -> Sized:
        name = str(pool.key)
        windows = self._windows.setdefault(name, PanicWindows(self.settings))
        wanted = windows.scale(fleet.at, ongoing(fleet, pool), self.targets[name], pool.roster.serving_count)
        if wanted is None:
            return Sized(pool.desired, "no metrics", "nothing to go by")
        if self.settings.scale_down_delay_s > 0:
            span = self._wanted.setdefault(name, Span(self.settings.scale_down_delay_s))
            span.add(fleet.at, float(wanted))
            wanted = int(max(span.within(fleet.at)))
        return Sized(wanted, "stable" if windows.panic_at is None else "panic")
