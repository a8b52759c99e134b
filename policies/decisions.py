"""What was decided, and why: plans, remedies and the reasons that each rule left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from forecasting.forecast import LoadForecast
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
    ``errors``, ``cohort`` or ``canary``; ``score`` is 1 at the firing threshold.
    """

    family: str
    replica: str
    pool: PoolKey
    score: float
    since_at: float
    detail: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is believed to be wrong, after the failure catalogue (F1 to F20, or ``unknown``), in one sentence.

    ``subject`` is the id of a replica, or empty where it is about the whole pool. ``name`` is that of the cause.
    """

    cause: str
    subject: str
    pool: PoolKey
    since_at: float
    families: tuple[str, ...]
    sentence: str
    scope: Literal["replica", "pool"] = "replica"
    name: str = ""


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
