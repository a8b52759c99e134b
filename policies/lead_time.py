"""How long does a replica take from requested to READY, as measured?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from policies.fleet import Phase, PoolState
from policies.memory import PoolMemory


class LeadTimeSettings(BaseModel):
    """What to believe before and after replicas have been seen to start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_s: float = Field(
        300.0,
        gt=0,
        le=86400,
        description="Assumed lead time in seconds until enough starts were observed; 5 min suits 70B models.",
    )
    enough_starts: int = Field(3, ge=1, description="Observed starts after which the measured quantiles replace it.")
    kept_starts: int = Field(20, ge=1, le=1000, description="Latest starts kept per pool; older ones no longer count.")
    longest_s: float = Field(
        3600.0,
        gt=0,
        le=86400,
        description="A longer time from requested to READY, in seconds, is not a start: the replica was READY before "
        "and came back, or it waited for a GPU.",
    )


@dataclass(frozen=True, slots=True)
class LeadTime:
    """Time from requested to READY of one pool, in seconds; ``measured`` when enough starts have been seen."""

    p50_s: float
    p90_s: float
    starts: int
    measured: bool


def lead_time(memory: PoolMemory, settings: LeadTimeSettings) -> LeadTime:
    """Return the pool's lead time: the default until ``enough_starts`` were seen, then quantiles of those kept.

    The quantile is the nearest rank: of ten starts the 9th fastest is the p90.
    """
    starts = sorted(memory.lead_times_s)
    if len(starts) < settings.enough_starts:
        return LeadTime(settings.default_s, settings.default_s, len(starts), measured=False)
    return LeadTime(_nearest_rank(starts, 0.5), _nearest_rank(starts, 0.9), len(starts), measured=True)


def observe_starts(pool: PoolState, memory: PoolMemory, settings: LeadTimeSettings) -> PoolMemory:
    """Return ``memory`` with the lead times of replicas that became READY since it was last updated.

    A replica restarted in place counts again; one that was there before the controller counts only if the platform
    knows when it was requested; one that lost and regained READY within a life has started only once.
    """
    roster = pool.roster
    if memory.seen_ready == roster.ready_lives and len(memory.lead_times_s) <= settings.kept_starts:
        return memory
    lives = dict(zip(roster.lives, roster.replicas, strict=True))
    known = set(memory.seen_ready)
    fresh = [r for life, r in lives.items() if r.phase is Phase.READY and life not in known]
    measured = tuple(s for r in fresh if 0 < (s := r.since_at - r.requested_at) <= settings.longest_s)
    return replace(
        memory,
        lead_times_s=(memory.lead_times_s + measured)[-settings.kept_starts :],
        seen_ready=tuple(life for life, r in lives.items() if r.phase is Phase.READY or life in known),
    )


def _nearest_rank(ascending: list[float], level: float) -> float:
    rank = max(1, -(-int(level * 1000) * len(ascending) // 1000))
    return ascending[min(rank, len(ascending)) - 1]
