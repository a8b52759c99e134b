"""What is remembered between ticks: the only state of a policy, immutable, with a JSON round trip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What is remembered of one pool.

    Attributes:
        targets: ``(at, replicas)`` that the rules asked for before stabilization, one per tick of its window and the
            last from before it, oldest first.
        desired: ``(at, replicas)`` that were decided, the same way over the window of the rate limits.
        lead_times_s: Latest measured times from request to READY, oldest first.
        seen_ready: Lives (``id#restarts``) whose lead time has been counted, as long as they are there.
        unsound_at: Last instant at which the pool, failed over, was not yet fit to serve again; None when its traffic
            is its own.
    """

    targets: tuple[tuple[float, int], ...] = ()
    desired: tuple[tuple[float, int], ...] = ()
    lead_times_s: tuple[float, ...] = ()
    seen_ready: tuple[str, ...] = ()
    unsound_at: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaMemory:
    """What is remembered of one life of a replica while it is watched.

    Attributes:
        life: ``id#restarts``; another life starts from nothing.
        steps_total, prompt_tokens_total, output_tokens_total, in_flight: As last observed; None when never.
        observed_at: Scrape instant of the newest counters.
        prompt_tokens_per_s, output_tokens_per_s: Work done between the last two scrapes; None while unknown.
        progress_at: Instant at which it last made progress, or was not known to have work.
        busy: Whether it was known to have work at ``observed_at``.
        slow_at: Scrape instants, within the look-back, at which it was slower than its peers.
    """

    life: str
    steps_total: float | None
    prompt_tokens_total: float | None
    output_tokens_total: float | None
    in_flight: float | None
    observed_at: float
    progress_at: float
    busy: bool = False
    prompt_tokens_per_s: float | None = None
    output_tokens_per_s: float | None = None
    slow_at: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class CordonMemory:
    """A replica that we took out of traffic, and how far it had come by then: only more shows that it works again."""

    at: float
    cause: str
    life: str
    steps_total: float | None = None
    output_tokens_total: float | None = None


@dataclass(frozen=True, slots=True)
class ActionMemory:
    """A disruptive act: it counts against the budget until verified or past its deadline, then as a cooldown.

    ``target`` is the replica that it was done to; the replacement may have another name or the same.
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

    Keys are text (pool key, model name, replica id, page) so that the JSON form is plain. ``pages`` holds the instant
    at which each page was last wanted, so that it goes out once per episode.
    """

    generation: int = 0
    pools: Mapping[str, PoolMemory] = field(default_factory=dict)
    models: Mapping[str, ModelMemory] = field(default_factory=dict)
    replicas: Mapping[str, ReplicaMemory] = field(default_factory=dict)
    actions: tuple[ActionMemory, ...] = ()
    cordons: Mapping[str, CordonMemory] = field(default_factory=dict)
    pages: Mapping[str, float] = field(default_factory=dict)

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
