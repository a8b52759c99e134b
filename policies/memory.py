"""What is remembered between ticks: the only state of a policy, immutable, with a JSON round trip.

Instants are Unix seconds. A new one must also be moved by ``policies.set_back`` when the clock goes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from policies.healing_memory import (
    ActionMemory,
    CanaryBooks,
    CordonMemory,
    MoveMemory,
    RunMemory,
    TroubleMemory,
    XidMemory,
)
from policies.remembered import STRICT, Count, PoolText, Total
from policies.residual_memory import LatencyMemory, LoadMemory

VERSION: Literal[1] = 1
"""Of the JSON form: grows when a text written by an older program would be misread."""

Seconds: TypeAlias = Annotated[float, Field(gt=0)]


class UnknownVersion(ValueError):
    """The text is a memory in a form that this program does not know."""


@dataclass(frozen=True, slots=True)
class RevisionMemory:
    """What is known of a revision of a pool.

    Attributes:
        seen_at: When a replica of it was first seen.
        healthy_s: How long replicas of it served and none was sick, in seconds of the clock.
        looked_at: Until when that was counted.
        rolled_back_at: When the pool left it by our roll-back; None when it never did.
        tpot_s: What TPOT its replicas showed of late, the median of several; None while unknown.
        failed_ratio: Share of its answers that were errors of late; None while unknown.
    """

    __pydantic_config__ = STRICT

    seen_at: float
    healthy_s: Total = 0.0
    looked_at: float = 0.0
    rolled_back_at: float | None = None
    tpot_s: Total | None = None
    failed_ratio: Total | None = None


@dataclass(frozen=True, slots=True)
class FailureMemory:
    """Something that went wrong with one life of a replica.

    Attributes:
        at: When it was seen.
        life: Of the replica; ``node`` and ``revision`` are its own.
        kind: ``exit``, or the name of what was believed to be wrong.
        reason: In the platform's words, of an exit.
        serving: Whether it had served before.
    """

    __pydantic_config__ = STRICT

    at: float
    life: str
    revision: str
    node: str
    kind: str
    reason: str = ""
    serving: bool = False


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """What is remembered of one pool.

    Attributes:
        targets: ``(at, replicas)`` that the rules asked for before stabilization, one per tick of its window and the
            last from before it, oldest first.
        desired: ``(at, replicas)`` that were decided, the same way over the window of the rate limits.
        lead_times_s: Latest measured times that starts took, from placement to READY where placement is known, else
            from the request; oldest first.
        seen_ready: Lives (``id#restarts``) whose lead time has been counted, as long as they are there.
        unsound_at: Last instant at which the pool, failed over, was not yet fit to serve again; None when its traffic
            is its own.
        listed_at: Last instant at which the platform listed the pool.
        placement_waits_s: Latest measured times from request to placement, those of shortages aside; oldest first.
        revisions: What is known of its revisions, by name; those of late.
        failures: What went wrong with its replicas of late, oldest first.
        restarts: How often replicas had been restarted in place at the last look, of those that were.
        signs: Instants of late at which something was seen of the pool as a whole, by the name of the sign.
        served_at: When a replica of it last became READY after a start that was seen; None when none did.
        given: When most of its replicas last gave each figure that engines always give.
        nodes: How many of its replicas, but for those that leave, are on each node that the platform told of.
        lost: When a node went away with replicas of it, and with how many, by the node's name; those of late.
        moves: How its weight and its size moved of late; ``weight`` and ``size`` are as last observed.
        asked_weight: What we last asked its weight to be; None when we never did.
        troubles: What is believed of it and of its replicas, by the replica's id and the name of the cause.
        latency: How slow it usually is for its load; None while nothing is known.
    """

    __pydantic_config__ = STRICT

    targets: tuple[tuple[float, Count], ...] = ()
    desired: tuple[tuple[float, Count], ...] = ()
    lead_times_s: tuple[Seconds, ...] = ()
    seen_ready: tuple[str, ...] = ()
    unsound_at: float | None = None
    listed_at: float | None = None
    placement_waits_s: tuple[Total, ...] = ()
    revisions: Mapping[str, RevisionMemory] = field(default_factory=dict)
    failures: tuple[FailureMemory, ...] = ()
    restarts: Mapping[str, Count] = field(default_factory=dict)
    signs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    served_at: float | None = None
    given: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, Count] = field(default_factory=dict)
    moves: tuple[MoveMemory, ...] = ()
    weight: Total | None = None
    size: Count | None = None
    asked_weight: Total | None = None
    troubles: Mapping[str, TroubleMemory] = field(default_factory=dict)
    lost: Mapping[str, tuple[float, Count]] = field(default_factory=dict)
    latency: LatencyMemory | None = None


@dataclass(frozen=True, slots=True)
class AnswerMemory:
    """What one witness, the gateway or the engine itself, counted of a replica's answers.

    Attributes:
        answered_total, failed_total: As last told.
        told_at: When that was.
        ended_at: When an answer, good or failed, was last seen among them; None when never.
        answered, failed: Growth, of which half counts after each half-life.
        worse_at: Looks, within the look-back, at which it failed far more than its peers.
        answered_long, failed_long: The same growth with the longer half-life.
        run_level: How far errors outweigh good answers now; 0 while there is no run of errors.
        run_answered, run_failed: Growth since the run began, all of it.
        peers_answered, peers_failed: That of all others of its stage in the same time.
        run_at: When the run began; None while there is none.
    """

    __pydantic_config__ = STRICT

    answered_total: Total
    failed_total: Total
    told_at: float
    ended_at: float | None = None
    answered: Total = 0.0
    failed: Total = 0.0
    worse_at: tuple[float, ...] = ()
    answered_long: Total = 0.0
    failed_long: Total = 0.0
    run_level: Total = 0.0
    run_answered: Total = 0.0
    run_failed: Total = 0.0
    peers_answered: Total = 0.0
    peers_failed: Total = 0.0
    run_at: float | None = None

    @property
    def ended(self) -> float:
        """Answers that count now, good or failed."""
        return self.answered + self.failed

    @property
    def failed_ratio(self) -> float:
        """Share of them that failed; 0 when there are none."""
        return self.failed / self.ended if self.ended > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ReplicaMemory:
    """What is remembered of one life of a replica while it is watched.

    Attributes:
        life: ``id#restarts``; another life starts from nothing.
        steps_total, prompt_tokens_total, output_tokens_total: Of the engine, as last observed; None when never.
        in_flight: Of the gateway, as last observed; None when never.
        observed_at: Scrape instant of the newest counters.
        stepped_at: Scrape instant at which its counters last moved, or it was not known to have work.
        busy: Whether it was known to have work at ``observed_at``.
        prompt_tokens_per_s, output_tokens_per_s: Work done between the last two scrapes; None while unknown.
        slow_at: Scrape instants, within the look-back, at which it was slower than its peers.
        explained_at: Last scrape at which it was, and the work that it did explained that; None when never.
        answered_total: Responses that the gateway saw end, as last observed; None when never.
        answered_at: When that count was last seen to grow; None when never.
        fell_at: When ``in_flight`` was last seen to fall while no answers were counted, so that something ended,
            answered or given up; None when never.
        by_gateway, by_itself: Its answers as the gateway and as its engine counted them; None when never.
        preemptions_total, aborted_total, unreached_total: As last told, the last by the gateway; None when never.
        preempted, aborted, unreached: By how much these grew at the last look; None while unknown.
        unreached_at: When the last of them last grew; None when it never did.
        tpot_s: TPOT as last told, at the scrape of ``tpot_at``; None when never.
        moved_at: Scrape instant at which its counters were last seen to grow, or were seen at all.
        covered: Share of the looks of late at which its counters were there and no older than they may be.
    """

    __pydantic_config__ = STRICT

    life: str
    steps_total: Total | None
    prompt_tokens_total: Total | None
    output_tokens_total: Total | None
    in_flight: Total | None
    observed_at: float
    stepped_at: float
    busy: bool = False
    prompt_tokens_per_s: Total | None = None
    output_tokens_per_s: Total | None = None
    slow_at: tuple[float, ...] = ()
    answered_total: Total | None = None
    answered_at: float | None = None
    fell_at: float | None = None
    by_gateway: AnswerMemory | None = None
    by_itself: AnswerMemory | None = None
    preemptions_total: Total | None = None
    aborted_total: Total | None = None
    unreached_total: Total | None = None
    preempted: Total | None = None
    aborted: Total | None = None
    unreached: Total | None = None
    unreached_at: float | None = None
    tpot_s: Total | None = None
    tpot_at: float | None = None
    moved_at: float | None = None
    explained_at: float | None = None
    covered: Total | None = None

    @property
    def progress_at(self) -> float:
        """Latest instant at which anything spoke for it: its own counters, idleness, or requests that ended."""
        return max(at for at in (self.stepped_at, self.answered_at, self.fell_at) if at is not None)


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What is remembered of one workload.

    Attributes:
        margin_ratio: The extra capacity that attainment has asked for, last steered at ``margin_at``.
        usual_per_s: Requests per second as they usually are, as of ``usual_at``; learned since ``usual_from``, slowly,
            and not while something is wrong.
        levels: ``(at, finished, within)`` of windows of the objective that do not overlap, oldest first.
        seen_at: When it was last observed well enough for something of it to be given up; None when it never was.
        load: What was forecast for now and soon, and how right that usually is; None while nothing is known.
    """

    __pydantic_config__ = STRICT

    margin_ratio: Annotated[float, Field(gt=-1)] = 0.0
    margin_at: float | None = None
    usual_per_s: Total | None = None
    usual_at: float | None = None
    levels: tuple[tuple[float, Total, Total], ...] = ()
    usual_from: float | None = None
    seen_at: float | None = None
    load: LoadMemory | None = None


@dataclass(frozen=True, slots=True)
class PolicyMemory:
    """All that survives from one tick to the next, and across a restart.

    Keys are text so that the JSON form is plain: of a pool its key, of a replica its name (``PoolKey.replica``), of a
    run the one or the other that it is about, of a page what ``paging.page_key`` says, of an Xid its node. ``pages``
    holds the instant at which each page was last wanted, so that it goes out once per episode; ``decided_at`` is the
    instant of the last decision. ``blind_since_at`` is the first of the latest ticks at which nothing could be
    observed, None after a decision, and ``blind_told`` whether a human was told of it.
    """

    __pydantic_config__ = STRICT

    generation: Count = 0
    pools: Mapping[PoolText, PoolMemory] = field(default_factory=dict)
    models: Mapping[str, ModelMemory] = field(default_factory=dict)
    replicas: Mapping[str, ReplicaMemory] = field(default_factory=dict)
    actions: tuple[ActionMemory, ...] = ()
    cordons: Mapping[str, CordonMemory] = field(default_factory=dict)
    pages: Mapping[str, float] = field(default_factory=dict)
    decided_at: float | None = None
    version: Literal[1] = VERSION
    runs: Mapping[str, RunMemory] = field(default_factory=dict)
    xids: Mapping[str, XidMemory] = field(default_factory=dict)
    blind_since_at: float | None = None
    blind_told: bool = False
    canaries: CanaryBooks = field(default_factory=CanaryBooks)

    def to_json(self) -> str:
        """Return a JSON text that ``from_json`` turns back into an equal memory.

        Raises:
            ValueError: If a value is impossible (NaN, a negative count): such a text could not be read again.
        """
        text = _ADAPTER.dump_json(replace(self, replicas=dict(self.replicas.items()))).decode()
        self.from_json(text)
        return text

    @classmethod
    def from_json(cls, text: str) -> PolicyMemory:
        """Return the memory written by ``to_json``.

        Raises:
            UnknownVersion: If the text is a memory of another version, or tells none.
            ValueError: If the text is not a memory.
        """
        version = _HEADER.validate_json(text).get("version")
        if version != VERSION:
            raise UnknownVersion(f"policy memory has version {version!r}, this program reads version {VERSION}")
        return _ADAPTER.validate_json(text)


_ADAPTER: TypeAdapter[PolicyMemory] = TypeAdapter(PolicyMemory)
_HEADER: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])
