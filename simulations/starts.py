"""How does a replica come to serve: its image comes, it loads, warms up, fails, and is started again in place?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from policies.fleet import Phase
from simulations.clock import EventQueue
from simulations.fleet_replica import FleetReplica
from simulations.nodes import Node
from simulations.pool_spec import PoolSpec
from simulations.revisions import Behaviour, CrashesAfter, CrashesAtStart, HangsAfter, HasErrors, IsSlow
from simulations.scheduling import Scheduler
from simulations.settings import FleetSettings
from simulations.startup import StartTimes, draw_start

ERROR, OUT_OF_MEMORY = "Error", "OOMKilled"
"""Reasons of an exit, in the words of Kubernetes."""

CRASH_LOOP, IMAGE_PULL, UNSCHEDULABLE = "CrashLoopBackOff", "ImagePullBackOff", "Unschedulable"
"""Reasons why a replica waits, in those words."""

_FAILS_AFTER_RATIO = 0.5
"""Share of loading and warming up after which a start fails that is bound to."""


class Starts:
    """The starts of one pool's replicas, and what its revisions do once they serve.

    Args:
        spec: Lead time and start-up model of the pool.
        events: Where phases are planned.
        settings: Back-offs.
        scheduler: Knows the node of a replica.
        ready: Called with each replica that serves from now on.
        crash: Called with each replica whose engine exits because its revision is like that.

    Attributes:
        behaviours: What revisions do that are not fine.
        failing_until: Until when no start succeeds, by the reason that replicas then wait for.
        met_when_ready: What happens until when to each replica that becomes READY.
    """

    def __init__(
        self,
        spec: PoolSpec,
        events: EventQueue,
        settings: FleetSettings,
        scheduler: Scheduler,
        ready: Callable[[FleetReplica, float], None],
        crash: Callable[[FleetReplica, float], None],
    ) -> None:
        self.behaviours: dict[str, Behaviour] = {}
        self.failing_until = {CRASH_LOOP: -math.inf, IMAGE_PULL: -math.inf}
        self.met_when_ready: list[tuple[float, Callable[[FleetReplica, float], None]]] = []
        self._spec, self._events, self._settings, self._scheduler = spec, events, settings, scheduler
        self._ready_pool, self._crash = ready, crash

    def placed(self, replica: FleetReplica, node: Node, at: float) -> None:
        """Let a replica that has its GPUs start on its node."""
        self._occupy(replica, node, at)
        times = self._draw(replica)
        container_at = at + times.schedule_s
        image_at = container_at + times.pull_s
        if self._spec.startup.keeps_image:
            node.image_at = min(node.image_at, image_at)
            image_at = max(container_at, node.image_at)
        self._events.plan(image_at, partial(self._pulled, replica, replica.lives, times, 0))

    def begin(self, replica: FleetReplica, node: Node, at: float) -> None:
        """Let a replica serve that was there before the simulation began."""
        self._occupy(replica, node, at)
        node.image_at = node.weights_at = at
        self._ready(replica, replica.lives, at)

    def exit(self, replica: FleetReplica, reason: str, at: float) -> None:
        """Let the engine be gone; unless something else becomes of it, it is started again after a back-off."""
        wait_s = self._backoff_s(replica.backoffs)
        replica.end_life()
        replica.waiting_reason = CRASH_LOOP if replica.backoffs else ""
        replica.exit_reason = reason
        replica.backoffs += 1
        replica.restarts += 1
        replica.requested_at = at
        replica.enter(Phase.FAILED, at)
        self._events.plan(at + wait_s, partial(self._restarted, replica, replica.lives))

    def _backoff_s(self, failures: int) -> float:
        return min(self._settings.restart_backoff_s * 2.0**failures, self._settings.restart_backoff_cap_s)

    def _draw(self, replica: FleetReplica) -> StartTimes:
        return draw_start(self._spec.startup, self._spec.lead_time_s, replica.rng)

    def _occupy(self, replica: FleetReplica, node: Node, at: float) -> None:
        replica.placed_at = at
        replica.node = node.name
        replica.waiting_reason = ""
        replica.report_xid(node.xid)

    def _pulled(self, replica: FleetReplica, lives: int, times: StartTimes, failures: int, at: float) -> None:
        """Have the image, or wait and try to get it again."""
        if replica.lives != lives:
            return
        if at >= self.failing_until[IMAGE_PULL]:
            self._loading(replica, lives, times, at)
            return
        replica.waiting_reason = IMAGE_PULL
        again = partial(self._pulled, replica, lives, times, failures + 1)
        self._events.plan(at + self._backoff_s(failures), again)

    def _loading(self, replica: FleetReplica, lives: int, times: StartTimes, at: float) -> None:
        """Load, warm up, and be READY or exit."""
        if replica.lives != lives:
            return
        replica.waiting_reason = ""
        replica.enter(Phase.LOADING, at)
        node = self._scheduler.node_of(replica)
        load_s = times.load_s * (self._spec.startup.warm_load_ratio if node.weights_at <= at else 1.0)
        starting_s = load_s + times.warm_up_s
        failing = node.broken or at < self.failing_until[CRASH_LOOP]
        bound_to_fail = failing or self._behaviour(replica) == CrashesAtStart()
        fails_after_ratio = _FAILS_AFTER_RATIO if bound_to_fail and not times.fails else times.fails_after_ratio
        if not math.isnan(fails_after_ratio):
            self._events.plan(at + starting_s * fails_after_ratio, partial(self._failed_to_start, replica, lives))
        else:
            node.weights_at = min(node.weights_at, at + load_s)
            self._events.plan(at + starting_s, partial(self._ready, replica, lives))

    def _failed_to_start(self, replica: FleetReplica, lives: int, at: float) -> None:
        if replica.lives == lives:
            self.exit(replica, ERROR, at)

    def _restarted(self, replica: FleetReplica, lives: int, at: float) -> None:
        """Start again in place: it is placed and has its image, the rest is drawn anew."""
        if replica.lives == lives and self._scheduler.node_of(replica).ready:
            self._loading(replica, lives, self._draw(replica), at)

    def _ready(self, replica: FleetReplica, lives: int, at: float) -> None:
        if replica.lives != lives:
            return
        if self._scheduler.node_of(replica).broken:
            self.exit(replica, ERROR, at)
            return
        replica.enter(Phase.READY, at)
        replica.ready_at = at
        replica.begin_life()
        self._behave(replica, at)
        for until, meet in self.met_when_ready:
            if at < until:
                meet(replica, at)
        self._ready_pool(replica, at)

    def _behaviour(self, replica: FleetReplica) -> Behaviour | None:
        return self.behaviours.get(replica.revision)

    def _behave(self, replica: FleetReplica, at: float) -> None:
        """Let a life that begins to serve be as its revision is."""
        match self._behaviour(replica):
            case IsSlow(factor):
                if not replica.restarts:  # what slows a replica outlives its engine
                    replica.slow_down(factor)
            case HasErrors(share):
                replica.fail_requests(share, math.inf)
            case CrashesAfter(after_s):
                self._events.plan(at + after_s, partial(self._crashed, replica, replica.lives))
            case HangsAfter(after_s):
                self._events.plan(at + after_s, partial(_hung, replica, replica.lives))

    def _crashed(self, replica: FleetReplica, lives: int, at: float) -> None:
        if replica.lives == lives:
            self._crash(replica, at)


def _hung(replica: FleetReplica, lives: int, _at: float) -> None:
    if replica.lives == lives:
        replica.hang(shows_zero=False)
