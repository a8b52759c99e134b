"""How often did the fleet change, and how much of what it held served nobody? Told from what each tick saw."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.roster import Bools, Roster

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Turnover:
    """Replicas that came and went, and GPUs held for nothing, up to an instant.

    Attributes:
        started: Replicas that were not there at the first look. A restart in place is the same replica.
        stopped: Replicas that were there at one look and not at the next.
        unused_starts: Of those that came, the ones that held GPUs and went again without ever being seen READY.
        loading_gpu_hours: Held by replicas on their way to READY.
        idle_gpu_hours: Held by READY replicas without a single request in flight.
        unproductive_usd: What both cost.
    """

    started: int
    stopped: int
    unused_starts: int
    loading_gpu_hours: float
    idle_gpu_hours: float
    unproductive_usd: float


@dataclass(slots=True)
class _Seen:
    """What was seen of one replica so far."""

    first: bool
    held: bool = False
    served: bool = False


@dataclass(slots=True)
class TurnoverWatch:
    """Looks at the fleet once per tick.

    What was seen is taken to last until the next look: a figure of GPU hours is right to about half a tick per change,
    in either direction. A replica that comes and goes between two looks is not seen at all.
    """

    _seen: dict[PoolKey, dict[str, _Seen]] = field(default_factory=dict)
    _last: dict[PoolKey, tuple[Roster | None, int]] = field(default_factory=dict)  # what was seen, and how many loaded
    _looked: bool = False
    _at_s: float = 0.0
    _loading_gpus: int = 0
    _idle_gpus: int = 0
    _usd_per_h: float = 0.0
    _loading_gpu_s: float = 0.0
    _idle_gpu_s: float = 0.0
    _usd: float = 0.0
    _started: int = 0
    _stopped: int = 0
    _unused: int = 0

    def look(self, fleet: FleetState, at_s: float) -> None:
        """See the fleet as it is at ``at_s``."""
        self._lasted_until(at_s)
        self._loading_gpus = self._idle_gpus = 0
        self._usd_per_h = 0.0
        for pool in fleet.pools:
            loading, idle = self._pool(pool)
            self._loading_gpus += loading * pool.gpus_per_replica
            self._idle_gpus += idle * pool.gpus_per_replica
            self._usd_per_h += (loading + idle) * pool.usd_per_replica_hour
        self._looked = True

    def until(self, at_s: float) -> Turnover:
        """Return what there was up to ``at_s``, the last look or later."""
        self._lasted_until(at_s)
        return Turnover(
            self._started,
            self._stopped,
            self._unused,
            self._loading_gpu_s / _HOUR_S,
            self._idle_gpu_s / _HOUR_S,
            self._usd,
        )

    def _pool(self, pool: PoolState) -> tuple[int, int]:
        """Note who came, who is gone, and return how many load and how many idle."""
        roster, loading = self._last.get(pool.key, (None, 0))
        if pool.roster is not roster:
            loading = self._changed(pool)
            self._last[pool.key] = pool.roster, loading
        return loading, int(np.count_nonzero(_idle(pool)))

    def _changed(self, pool: PoolState) -> int:
        """Note who came and who is gone, and return how many load."""
        seen = self._seen.setdefault(pool.key, {})
        loading = 0
        for replica in pool.roster.replicas:
            mine = seen.get(replica.id)
            if mine is None:
                mine = seen[replica.id] = _Seen(first=not self._looked)
                self._started += self._looked
            held = _holds_gpus(replica)
            mine.held |= held
            mine.served |= replica.phase is Phase.READY
            loading += replica.starting and held
        if len(seen) > len(pool.roster):
            there = set(pool.roster.ids)
            for gone in [name for name in seen if name not in there]:
                was = seen.pop(gone)
                self._stopped += 1
                self._unused += was.held and not was.served and not was.first
        return loading

    def _lasted_until(self, at_s: float) -> None:
        lasted_s, self._at_s = at_s - self._at_s, at_s
        self._loading_gpu_s += lasted_s * self._loading_gpus
        self._idle_gpu_s += lasted_s * self._idle_gpus
        self._usd += lasted_s / _HOUR_S * self._usd_per_h


def _holds_gpus(replica: ReplicaState) -> bool:
    """A replica that waits for a place holds none."""
    return replica.phase is not Phase.PENDING or replica.node != ""


def _idle(pool: PoolState) -> Bools:
    """READY and known to have nothing in flight: at the gateway, or by its own word where no gateway tells."""
    told, ready = pool.told, pool.roster.ready
    idle: Bools = ready & (told.in_flight == 0)
    unknown = ready & np.isnan(told.in_flight)
    if np.count_nonzero(unknown):
        idle |= unknown & (told.of("running_requests") == 0) & (told.of("queued_requests") == 0)
    return idle
