"""What is one replica of the simulated fleet to the platform: its phase, its place, its lives and what ails it?

Its engine, queue and counters are a record of the compiled kernel, which this speaks to.
"""

from __future__ import annotations

import math

import numpy as np

from policies.fleet import Phase, ReplicaState
from simulations.fleet_kernel import FleetKernel

_TOLD = frozenset(
    (
        "id", "phase", "requested_at", "since_at", "revision", "node", "restarts", "cordoned", "placed_at",
        "exit_reason", "waiting_reason",
    )
)  # fmt: skip
"""What the platform tells of a replica."""


class FleetReplica:
    """One replica: what the platform knows of it, and where the kernel has the rest.

    Attributes:
        row: Its number in the kernel, as long as it is not removed.
        placed_at: When it got its GPUs; NaN while it waits for them.
        ready_at: When it last became READY; NaN before.
        alive: Whether an engine runs (READY or DRAINING).
        lives: Grows with each start; planned events of an earlier life are void.
    """

    def __init__(
        self, name: str, pool: int, revision: str, at: float, rng: np.random.Generator, kernel: FleetKernel
    ) -> None:
        self._state: ReplicaState | None = None
        self.id = name
        self.pool = pool
        self.revision = revision
        self.rng = rng
        self.phase = Phase.PENDING
        self.requested_at = at
        self.since_at = at
        self.placed_at = math.nan
        self.ready_at = math.nan
        self.node = ""
        self.restarts = 0
        self.backoffs = 0
        self.cordoned = False
        self.removed = False
        self.exit_reason = ""
        self.waiting_reason = ""
        self.alive = False
        self.lives = 0
        self.row = kernel.add_replica(pool, self)
        self._kernel = kernel
        self._slowed_by: list[float] = []

    def __setattr__(self, name: str, value: object) -> None:
        """Set it, and forget how the platform told of the replica before."""
        object.__setattr__(self, name, value)
        if name in _TOLD:
            object.__setattr__(self, "_state", None)

    def enter(self, phase: Phase, at: float) -> None:
        """Change phase."""
        self.phase = phase
        self.since_at = at
        self._kernel.traffic(self.row)["draining"] = phase is Phase.DRAINING

    def begin_life(self) -> None:
        """Let a fresh engine serve; its counters begin at zero."""
        self.alive = True
        self._kernel.begin_life(self.row)

    def end_life(self) -> None:
        """Let the engine, if there is one, be gone, and void what was planned for this life."""
        self.lives += 1
        self.alive = False
        self._kernel.end_life(self.row)

    @property
    def in_flight(self) -> int:
        """Requests that it was sent and that have not ended."""
        return int(self._kernel.traffic(self.row)["in_flight"])

    def hang(self, *, shows_zero: bool) -> None:
        """Let the engine stop stepping, the step under way included; ``shows_zero`` empties its running gauge."""
        if self.alive:
            self._kernel.hang(self.row, shows_zero=shows_zero)

    def go_dark(self) -> None:
        """Let the engine, or what was about to start, be dead without the platform's knowledge, for good."""
        self.lives += 1
        self.hang(shows_zero=False)
        self.lose_scrapes(math.inf)

    def fail_requests(self, share: float, until: float) -> None:
        """Answer that share of what this life gets with an error until then, evenly spread."""
        record = self._kernel.replica(self.row)
        record["failing_share"], record["failures_due"] = share, 0.0
        record["failing_until"] = until - self._kernel.epoch_at

    def lose_scrapes(self, until: float) -> None:
        """Let no scrape of it succeed until then."""
        self._kernel.replica(self.row)["scrape_lost_until"] = until - self._kernel.epoch_at

    def freeze_exporter(self, until: float) -> None:
        """Let each scrape of this life say what the one before said, until then."""
        self._kernel.replica(self.row)["exporter_stuck_until"] = until - self._kernel.epoch_at

    def slow_down(self, factor: float) -> None:
        """Let every step take ``factor`` times as long, on top of what slows it already."""
        self._slowed_by.append(factor)
        self._kernel.change_speed(self.row, math.prod(self._slowed_by))

    def recover_from(self, factor: float) -> None:
        """End one slow-down of that factor, unless the replica is gone."""
        if not self.removed:
            self._slowed_by.remove(factor)
            self._kernel.change_speed(self.row, math.prod(self._slowed_by))

    @property
    def stays(self) -> bool:
        """Whether it counts towards the pool's desired replicas."""
        return self.phase is not Phase.DRAINING

    def state(self) -> ReplicaState:
        """Return it as the platform tells it: without metrics and without what the gateway knows.

        As long as nothing changes, this is the same object.
        """
        if self._state is None:
            self._state = ReplicaState(
                id=self.id,
                phase=self.phase,
                requested_at=self.requested_at,
                since_at=self.since_at,
                revision=self.revision,
                node=self.node,
                restarts=self.restarts,
                cordoned=self.cordoned,
                placed_at=self.placed_at,
                exit_reason=self.exit_reason,
                waiting_reason=self.waiting_reason,
            )
        return self._state

    @property
    def ailment(self) -> str:
        """What is wrong with it in truth: ``starting``, ``exited``, ``hung``, ``errors`` or ``slow``; empty if nothing."""
        if not self.alive:
            return "exited" if self.phase is Phase.FAILED else "starting"
        record = self._kernel.replica(self.row)
        if record["hung"]:
            return "hung"
        if record["failing_share"] > 0 and record["failing_until"] > self._kernel.now:
            return "errors"
        return "slow" if self._slowed_by else ""
