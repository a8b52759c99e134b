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
        self._slowed_by: list[tuple[float, float]] = []
        self._hung_until = -math.inf

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
        self._hung_until = -math.inf
        self._kernel.end_life(self.row)

    @property
    def in_flight(self) -> int:
        """Requests that it was sent and that have not ended."""
        return int(self._kernel.traffic(self.row)["in_flight"])

    def hang(self, *, shows_zero: bool, until: float = math.inf) -> None:
        """Let the engine stop stepping, the step under way included; ``shows_zero`` empties its running gauge.

        It is for ``go_on`` to end it.
        """
        if self.alive:
            self._hung_until = max(self._hung_until, until)
            self._kernel.hang(self.row, shows_zero=shows_zero)

    def go_on(self, lives: int, at: float) -> None:
        """Let the engine step again, if it is in the same life and nothing makes it hang for longer."""
        if self.lives == lives and at >= self._hung_until:
            self._kernel.go_on(self.row)

    def go_dark(self) -> None:
        """Let the engine, or what was about to start, be dead without the platform's knowledge, for good."""
        self.lives += 1
        self.hang(shows_zero=False)
        self.lose_scrapes(math.inf)
        self.be_unreachable(math.inf)

    def be_unreachable(self, until: float) -> None:
        """Let the gateway find no connection to it until then."""
        until_s = until - self._kernel.epoch_at
        record = self._kernel.replica(self.row)
        record["unreached_until"] = max(float(record["unreached_until"]), until_s)

    def keep_kv_cache(self, ratio: float) -> None:
        """Let it have that share of its KV cache, in this life and others."""
        self._kernel.keep_blocks(self.row, ratio)

    def get_kv_cache_back(self, _at: float) -> None:
        """Let it have all of its KV cache again, unless it is gone."""
        if not self.removed:
            self._kernel.keep_blocks(self.row, 1.0)

    @property
    def kv_cache_ratio(self) -> float:
        """How full the KV cache of a living engine is."""
        return self._kernel.kv_cache_ratio(self.row)

    def reset_counters(self) -> None:
        """Let the counters of this life begin again at zero, but for those of the gateway."""
        if self.alive:
            self._kernel.reset_counters(self.row)

    def export_gpus(self, power_scale: float) -> None:
        """Let its GPUs be exported from now on, whose power is so many times that of others."""
        record = self._kernel.replica(self.row)
        record["gpu_scale"], record["gpu_clock"], record["gpu_xid"] = power_scale, 1.0, 0.0

    def report_xid(self, code: int) -> None:
        """Let its GPUs, if they are exported, tell of an Xid error."""
        record = self._kernel.replica(self.row)
        if not math.isnan(record["gpu_xid"]):
            record["gpu_xid"] = code

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

    def slow_down(self, factor: float, clock_ratio: float = 1.0) -> None:
        """Let every step take ``factor`` times as long, on top of what slows it already, at that share of the clock."""
        self._slowed_by.append((factor, clock_ratio))
        self._change_speed()

    def recover_from(self, factor: float, clock_ratio: float = 1.0) -> None:
        """End one such slow-down, unless the replica is gone."""
        if not self.removed:
            self._slowed_by.remove((factor, clock_ratio))
            self._change_speed()

    def _change_speed(self) -> None:
        record = self._kernel.replica(self.row)
        if not math.isnan(record["gpu_clock"]):
            record["gpu_clock"] = min((clock for _, clock in self._slowed_by), default=1.0)
        self._kernel.change_speed(self.row, self.slowdown)

    @property
    def slowdown(self) -> float:
        """How many times as long as usual its steps take."""
        return math.prod(factor for factor, _ in self._slowed_by)

    @property
    def hung(self) -> bool:
        """Whether its engine has stopped stepping."""
        return bool(self._kernel.replica(self.row)["hung"])

    @property
    def unreachable(self) -> bool:
        """Whether no connection to it is found."""
        return bool(self._kernel.replica(self.row)["unreached_until"] > self._kernel.now)

    @property
    def failing_share(self) -> float:
        """Of what it gets, the share that it answers with an error."""
        record = self._kernel.replica(self.row)
        return float(record["failing_share"]) if record["failing_until"] > self._kernel.now else 0.0

    def count_canary(self, prompt_tokens: int) -> None:
        """Let the counters of the engine show one more request, of one token, that went round the gateway."""
        record = self._kernel.replica(self.row)
        record["steps_hidden"] -= 1
        record["finished_hidden"] -= 1
        record["prompt_total"] += prompt_tokens
        record["output_total"] += 1

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
                address=self.id if self.node else "",
            )
        return self._state

    @property
    def ailment(self) -> str:
        """What ails it in truth: ``starting``, ``exited``, ``hung``, ``cut off``, ``errors``, ``slow``, or nothing."""
        if not self.alive:
            return "exited" if self.phase is Phase.FAILED else "starting"
        if self.hung:
            return "hung"
        if self.unreachable:
            return "cut off"
        if self.failing_share > 0:
            return "errors"
        return "slow" if self._slowed_by else ""
