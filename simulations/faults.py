"""What can go wrong in a simulated fleet? How it is written is in ``fault_syntax``, what it does in ``strikes``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from simulations.revisions import Behaviour, Fine


@dataclass(frozen=True, slots=True)
class ReplicaTarget:
    """Which replica is hit: a position among the READY replicas of a pool ("" is the first), oldest first.

    Positions beyond the last wrap around, so that a fault always hits something while anything serves. None is all of
    them, and those that become READY while the fault lasts.
    """

    pool: str = ""
    replica: int | None = 0


_ALL = ReplicaTarget(replica=None)
_FINE = Fine()


@dataclass(frozen=True, slots=True)
class Crash:
    """The engine exits at ``at_s``."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()


@dataclass(frozen=True, slots=True)
class Hang:
    """The engine stops stepping while its process stays; ``running_zero`` empties its running gauge (F1).

    A finite ``duration_s`` makes it a stall: the step under way goes on where it stopped.
    """

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    running_zero: bool = False
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class SlowDown:
    """Steps of one replica take ``factor`` times as long (F8).

    ``clock_ratio`` is what its GPUs tell of their clock: one for a slow bus or host, less for a throttled GPU.
    """

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    factor: float = 3.0
    duration_s: float = math.inf
    clock_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Errors:
    """Of the requests that one replica gets, ``share`` is answered with a 500 at once, evenly spread (F2)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    share: float = 1.0
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class NodeLoss:
    """The node of the target is gone with all replicas on it (F11).

    For ``grace_s`` it is only not ready: its engines are dead, and its replicas still listed as they were.
    """

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    grace_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A node, the one named or else that of the target, is drained and gone ``notice_s`` later (F11)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    node: str = ""
    notice_s: float = 120.0


@dataclass(frozen=True, slots=True)
class StockOut:
    """The cloud has no further node to give for the target's pool, or for any when it names none."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class XidError:
    """The driver reports an Xid error on the node of the target; with ``exits`` the engines on it exit (F9, F10)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    code: int = 79
    exits: bool = False


@dataclass(frozen=True, slots=True)
class Rollout:
    """Somebody else gives the target's pool a new revision, and the platform rolls it out (F3).

    An empty ``revision`` takes the next number.
    """

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    revision: str = ""
    behaviour: Behaviour = _FINE


StartFailure: TypeAlias = Literal["CrashLoopBackOff", "ImagePullBackOff"]


@dataclass(frozen=True, slots=True)
class StartFailures:
    """No start in the target's pool, or in any when it names none, succeeds, whatever the revision (F4)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    reason: StartFailure = "CrashLoopBackOff"
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """An engine of the target's pool whose KV cache is full to ``ratio`` exits with OOMKilled (F5)."""

    at_s: float
    target: ReplicaTarget = _ALL
    ratio: float = 0.95
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class KvShrink:
    """Only ``kept_ratio`` of the KV cache is left, so that requests take it from each other (F6)."""

    at_s: float
    target: ReplicaTarget = _ALL
    kept_ratio: float = 0.1
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Partition:
    """The gateway finds no connection to replicas that are well and are scraped (F12)."""

    at_s: float
    target: ReplicaTarget = _ALL
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class MetricsLoss:
    """The metrics store does not answer, or with a target, one replica cannot be scraped (F13)."""

    at_s: float
    target: ReplicaTarget | None = None
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class MetricsFreeze:
    """The metrics store answers with what it had at ``at_s`` (F13)."""

    at_s: float
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class ExporterFreeze:
    """Every scrape of one replica says what the one before said, with a new instant, while it works on (F13)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class MetricLoss:
    """No engine exports ``metric``, a field of ``ReplicaMetrics``, any more: it was renamed (F13)."""

    at_s: float
    metric: str
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class CounterReset:
    """The counters of one engine begin again at zero while it works on (F14)."""

    at_s: float
    target: ReplicaTarget = ReplicaTarget()


@dataclass(frozen=True, slots=True)
class Retries:
    """Clients send a request that failed or that they gave up again, up to ``times``, ``backoff_s`` later (F17)."""

    at_s: float
    times: int = 3
    backoff_s: float = 1.0
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class ColdStarts:
    """Replicas of the target's pool that become READY are slow by ``factor`` for ``lasting_s`` seconds (F19)."""

    at_s: float
    target: ReplicaTarget = _ALL
    factor: float = 3.0
    lasting_s: float = 120.0
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Poison:
    """A request comes that makes the engine exit that admits it; its client sends it again up to ``times`` (F20)."""

    at_s: float
    times: int = 3
    prompt_tokens: int = 1000


Fault: TypeAlias = (
    Crash
    | Hang
    | SlowDown
    | Errors
    | NodeLoss
    | Reclaim
    | StockOut
    | XidError
    | Rollout
    | StartFailures
    | OutOfMemory
    | KvShrink
    | Partition
    | MetricsLoss
    | MetricsFreeze
    | ExporterFreeze
    | MetricLoss
    | CounterReset
    | Retries
    | ColdStarts
    | Poison
)
