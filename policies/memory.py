"""What is remembered between ticks: the only state of a policy, immutable, with a JSON round trip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What is remembered of one pool.

    Attributes:
        targets: ``(at, replicas)`` that the rules asked for before stabilization, oldest first.
        desired: ``(at, replicas)`` that were decided, oldest first, one entry per change of the last window.
        lead_times_s: Latest measured times from request to READY, oldest first.
        seen_ready: Lives (``id#restarts``) whose lead time has been counted.
    """

    targets: tuple[tuple[float, int], ...] = ()
    desired: tuple[tuple[float, int], ...] = ()
    lead_times_s: tuple[float, ...] = ()
    seen_ready: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaMemory:
    """What is remembered of one life of a replica while it is watched.

    Attributes:
        life: ``id#restarts``; another life starts from nothing.
        steps_total, output_tokens_total, in_flight: As last observed.
        progress_at: Scrape instant at which it last made progress, or had nothing to do.
        slow_at: Scrape instants, within the look-back, at which it was slower than its peers.
        cordoned_at: When we took it out of traffic; None when we did not.
        cordoned_steps_total: Engine steps it had made by then; only more of them show that it works again.
    """

    life: str
    steps_total: float
    output_tokens_total: float
    in_flight: float
    observed_at: float
    progress_at: float
    slow_at: tuple[float, ...] = ()
    cordoned_at: float | None = None
    cordoned_steps_total: float = 0.0


@dataclass(frozen=True, slots=True)
class ActionMemory:
    """A disruptive act: it counts against the budget until verified or past its deadline, then as a cooldown.

    ``target`` is the pool for acts that replace a replica, since the replacement has another name.
    """

    target: str
    kind: str
    model: str
    pool: str
    started_at: float
    deadline_at: float
    open: bool = True
    verified: bool = False


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What is remembered of one workload.

    ``margin_ratio`` is the extra capacity that realised attainment has asked for; ``weights`` the traffic shares
    last asked for, by pool key text.
    """

    margin_ratio: float = 0.0
    margin_at: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyMemory:
    """All that survives from one tick to the next, and across a restart.

    Keys are text (pool key, model name, replica id) so that the JSON form is plain.
    """

    generation: int = 0
    pools: Mapping[str, PoolMemory] = field(default_factory=dict)
    models: Mapping[str, ModelMemory] = field(default_factory=dict)
    replicas: Mapping[str, ReplicaMemory] = field(default_factory=dict)
    actions: tuple[ActionMemory, ...] = ()

    def to_json(self) -> str:
        """Return a JSON text that ``from_json`` turns back into an equal memory."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> PolicyMemory:
        """Return the memory written by ``to_json``.

        Raises:
            ValueError: If the text is not such a memory.
        """
        return _ADAPTER.validate_json(text)


_ADAPTER: TypeAdapter[PolicyMemory] = TypeAdapter(PolicyMemory)
