"""What was decided, and why: plans, remedies and the reasons that each rule left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from forecasting.forecast import LoadForecast
from policies.burn import Burn
from policies.fleet import FleetState, PoolKey
from policies.memory import PolicyMemory
from policies.wire import Digest


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that changed, refused or held something.

    ``subject`` is a model, a pool or a replica; ``before`` and ``after`` are what the rule was given and what it
    left (equal when it held).
    """

    rule: str
    subject: str
    before: float
    after: float
    detail: str

    def __str__(self) -> str:
        change = f"{self.before:g} -> {self.after:g}" if self.before != self.after else f"{self.after:g}"
        return f"{self.rule} [{self.subject}] {change}: {self.detail}"


@dataclass(frozen=True, slots=True)
class ScalingPlan:
    """Replicas that a pool is to have. ``retire_first`` names replicas to drain before others when shrinking."""

    pool: PoolKey
    current: int
    desired: int
    version: int
    retire_first: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """Shares of a model's requests per pool; those of each stage sum to one."""

    model: str
    weights: Mapping[PoolKey, float]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One family of evidence against one replica.

    ``family`` is ``progress``, ``peers``, ``gateway``, ``exporter``, ``platform``, ``latency``, ``answers``,
    ``errors``, ``cohort``, ``canary`` and so on; ``score`` is 1 at the firing threshold. What it rests on is
    worked out in ``grounds``, unless whoever found it knows better.

    Attributes:
        age_s: Seconds from the newest sample that it rests on to the look; NaN while that is not worked out.
        coverage_ratio: Share of the samples that were due, in its window or of its cohort, that were there.
        counts: Whether that is new and complete enough to count for a cause.
    """

    family: str
    replica: str
    pool: PoolKey
    score: float
    since_at: float
    detail: str
    age_s: float = math.nan
    coverage_ratio: float = math.nan
    counts: bool = True


def with_beside(sentence: str, beside: Sequence[str], ours: str) -> str:
    """Return what is believed, with what came shortly before and whether that was our own movement.

    >>> with_beside("more load than capacity", ["35 s after we gave up 2 replicas"], "size")
    'more load than capacity (35 s after we gave up 2 replicas; that may be why)'
    """
    told = "; ".join([*beside, "that may be why"] if ours else beside)
    return f"{sentence} ({told})" if told else sentence


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is believed to be wrong, after the failure catalogue (F1 to F20, or ``unknown``), in one sentence.

    ``subject`` is the id of a replica, or empty where it is about the whole pool. ``name`` is that of the cause.
    ``beside`` says what happened shortly before the first evidence, the latest first, and ``ours`` which movement of
    our own, of ``traffic`` or ``size``, it followed within minutes.
    """

    cause: str
    subject: str
    pool: PoolKey
    since_at: float
    families: tuple[str, ...]
    sentence: str
    scope: Literal["replica", "pool"] = "replica"
    name: str = ""
    beside: tuple[str, ...] = ()
    ours: str = ""

    @property
    def told(self) -> str:
        """The sentence, with what came shortly before."""
        return with_beside(self.sentence, self.beside, self.ours)


@dataclass(frozen=True, slots=True)
class CordonReplica:
    """Take a replica out of traffic; it stays alive."""

    replica: str
    pool: PoolKey
    cause: str


@dataclass(frozen=True, slots=True)
class UncordonReplica:
    """Give a recovered replica its traffic back."""

    replica: str
    pool: PoolKey
    cause: str


@dataclass(frozen=True, slots=True)
class RestartReplica:
    """Delete a replica and let the platform start another in its place."""

    replica: str
    pool: PoolKey
    cause: str


@dataclass(frozen=True, slots=True)
class SendCanary:
    """Ask an idle replica for one token, to see whether it answers: a look, and no remedy."""

    replica: str
    pool: PoolKey
    address: str
    asked_at: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class AvoidNode:
    """Place nothing on a node any more; what is there stays."""

    node: str
    cause: str


@dataclass(frozen=True, slots=True)
class PauseRollout:
    """Let the rollout of a pool go no further."""

    pool: PoolKey
    cause: str


@dataclass(frozen=True, slots=True)
class ResumeRollout:
    """Let the rollout of a pool go on."""

    pool: PoolKey
    cause: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Give the replicas of a pool the template of ``revision`` again, instead of that of ``bad``."""

    pool: PoolKey
    revision: str
    bad: str
    cause: str


@dataclass(frozen=True, slots=True)
class FailOver:
    """Move the traffic of a failing pool to another one; carried out by the traffic plan of the same decision."""

    model: str
    origin: PoolKey
    destination: PoolKey
    cause: str


@dataclass(frozen=True, slots=True)
class Page:
    """Tell a human: automation has stopped here."""

    subject: str
    cause: str
    message: str


Remediation: TypeAlias = (
    CordonReplica
    | UncordonReplica
    | RestartReplica
    | AvoidNode
    | PauseRollout
    | ResumeRollout
    | RollBack
    | FailOver
    | Page
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one tick decided, with the memory that the next tick starts from.

    ``burn`` has the models whose error budget would not last, at the rate of any window.
    ``generation`` grows by one per decision; ``input_digest`` names all that it was made from: fleet, forecasts,
    memory and settings, and ``settings_digest`` the last of them; after ``expires_at`` the plans are stale and are
    dropped.
    """

    at: float
    generation: int
    input_digest: str | Digest
    expires_at: float
    scaling: tuple[ScalingPlan, ...]
    traffic: tuple[TrafficPlan, ...]
    anomalies: tuple[Anomaly, ...]
    diagnoses: tuple[Diagnosis, ...]
    remediations: tuple[Remediation, ...]
    reasons: tuple[Reason, ...]
    memory: PolicyMemory
    settings_digest: str | Digest = ""
    burn: Mapping[str, Burn] = field(default_factory=dict)
    canaries: tuple[SendCanary, ...] = ()


class Policy(Protocol):
    """Anything that can decide: Foresail itself, or a rival behind the same loop."""

    @property
    def name(self) -> str:
        """The word used on the command line."""
        ...

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what to do about ``fleet``. A model absent from ``forecasts`` has no trustworthy forecast."""
        ...
