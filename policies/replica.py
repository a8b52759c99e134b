"""What is one replica right now: what the platform says of it, and what its engine said when it was last scraped?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a replica is in its life, as the platform tells it."""

    PENDING = "pending"  # asked for, not placed or image not there yet
    LOADING = "loading"  # process up, weights loading, not serving
    READY = "ready"  # serving
    DRAINING = "draining"  # finishing what it has, takes nothing new
    FAILED = "failed"  # exited; the platform may or may not restart it


@dataclass(frozen=True, slots=True)
class ReplicaMetrics:
    """What one engine said of itself at its last scrape. NaN means that it was scraped but gave no such value.

    Counters (``*_total``) only grow, except that a restarted engine begins again at zero.
    Latencies are over the requests that finished in the scrape window; NaN when none did. ``failed_requests_total``
    are those that the engine could not serve through a fault of its own; what it refused is not among them;
    ``aborted_requests_total`` those that their clients gave up. ``preemptions_total`` counts requests that lost their
    KV cache to others. Of its GPUs, where they are exported: ``gpu_xid`` is the newest Xid error (0 for none),
    ``gpu_power_ratio`` and ``gpu_clock_ratio`` are power and SM clock as shares of their limits, the least of several.
    """

    observed_at: float
    running_requests: float
    queued_requests: float
    kv_cache_ratio: float
    steps_total: float
    prompt_tokens_total: float
    output_tokens_total: float
    finished_requests_total: float
    failed_requests_total: float = math.nan
    ttft_p95_s: float = math.nan
    tpot_mean_s: float = math.nan
    preemptions_total: float = math.nan
    aborted_requests_total: float = math.nan
    gpu_xid: float = math.nan
    gpu_power_ratio: float = math.nan
    gpu_clock_ratio: float = math.nan


class CanaryOutcome(StrEnum):
    """What became of a request for one token that we sent to an engine."""

    ANSWERED = "answered"  # the token came
    ERROR = "error"  # it was taken, and answered with an error
    LATE = "late"  # it was taken, and not answered in time
    UNREACHED = "unreached"  # no connection, or one that was cut
    REFUSED = "refused"  # busy, or asked in the wrong way: that says nothing of the engine


@dataclass(frozen=True, slots=True)
class CanaryAnswer:
    """What became of the canary that was sent by the decision of ``asked_at``; ``took_s`` is how long that took."""

    asked_at: float
    outcome: CanaryOutcome
    took_s: float = math.nan


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One serving engine: what the platform says of it, and its metrics where it has been scraped.

    Attributes:
        requested_at: When the platform was asked for it (or for its latest restart).
        since_at: When it entered its phase.
        cordoned: Alive but taken out of traffic.
        in_flight_requests: Requests that the gateway has sent and not seen end; NaN where no gateway reports it.
            Known to exist whatever the engine says of itself.
        answered_requests_total: Responses of this life that the gateway saw end as they should; those that a client, a
            time-out or an error cut short do not count. NaN where no gateway counts them.
        failed_answers_total: Responses with which it owned up to an error of its own, as the gateway saw them (500, 502
            or 504 from the replica itself; not 4xx, nor 503, which says busy). NaN where no gateway counts them.
        metrics: None when it has never been scraped in this life.
        placed_at: When it was given its GPUs; NaN while it has none, and where the platform does not tell.
        unreached_requests_total: Requests that the gateway could not hand to this life: no connection to it. NaN where
            no gateway counts them.
        exit_reason: Why its engine last exited, in the platform's words (``OOMKilled``, ``Error``); empty when it never
            did, or nobody says.
        waiting_reason: Why it is not on its way to READY, in the platform's words (``CrashLoopBackOff``,
            ``ImagePullBackOff``, ``Unschedulable``); empty when nothing is known to hold it.
        address: Where its engine can be asked, as ``host:port``; empty where the platform does not tell.
        incarnation: What tells it from an earlier replica of its id, where the platform gives an id again.
    """

    id: str
    phase: Phase
    requested_at: float
    since_at: float
    revision: str = "1"
    node: str = ""
    restarts: int = 0
    cordoned: bool = False
    in_flight_requests: float = math.nan
    metrics: ReplicaMetrics | None = None
    answered_requests_total: float = math.nan
    failed_answers_total: float = math.nan
    placed_at: float = math.nan
    unreached_requests_total: float = math.nan
    exit_reason: str = ""
    waiting_reason: str = ""
    address: str = ""
    incarnation: str = ""

    @property
    def begun_at(self) -> float:
        """Since when it has been starting: without its wait for GPUs, as far as the platform tells of it.

        A restart in place begins when it is asked for.
        """
        return max(self.requested_at, self.placed_at)  # the first where the second is NaN

    @property
    def life(self) -> str:
        """What names one life of a replica within its pool; a restart in place begins another."""
        return self.life_after(self.restarts)

    def life_after(self, restarts: int) -> str:
        """Return what names the life that it had, or has, after so many restarts in place."""
        return f"{self.id}#{self.incarnation}{restarts}"

    @property
    def serving(self) -> bool:
        """Ready and in traffic."""
        return self.phase is Phase.READY and not self.cordoned

    @property
    def starting(self) -> bool:
        """Asked for and on its way to READY."""
        return self.phase in (Phase.PENDING, Phase.LOADING)

    @property
    def empty(self) -> bool:
        """Whether nothing is inside, by the gateway's word or, without one, the engine's."""
        if self.in_flight_requests >= 0:
            return self.in_flight_requests == 0
        seen = self.metrics
        return seen is not None and seen.running_requests == 0 and seen.queued_requests == 0

    @property
    def unplaced(self) -> bool:
        """Not on any node yet; also what is PENDING on a platform that tells no nodes."""
        return self.phase is Phase.PENDING and not self.node
