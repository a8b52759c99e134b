"""How long does a replica take from requested to READY, as measured?

The wait for a place and the start on it are measured apart. Where nodes come late as a rule, that wait is part of what
has to be planned ahead for. A wait for GPUs that nobody has is not: it says nothing of the next replica, and planning
an hour ahead does not make GPUs.
"""

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
        description="A longer time to READY, in seconds, from placement or from the request where placement is not "
        "known, is not a start: the replica was READY before and came back, or it waited for a GPU.",
    )
    longest_wait_s: float = Field(
        900.0,
        ge=0,
        le=86400,
        description="A longer wait for a place, in seconds, is a shortage and does not count towards the lead time. "
        "Where a GPU node can be had, cloud and cluster autoscaler bring it within 10 min.",
    )


@dataclass(frozen=True, slots=True)
class LeadTime:
    """Time from requested to READY of one pool, in seconds; ``measured`` when enough starts have been seen.

    Attributes:
        wait_p90_s: How much of ``p90_s`` is for a place; 0 where no wait was measured.
    """

    p50_s: float
    p90_s: float
    starts: int
    measured: bool
    wait_p90_s: float = 0.0


def lead_time(memory: PoolMemory, settings: LeadTimeSettings) -> LeadTime:
    """Return the pool's lead time: the default until ``enough_starts`` were seen, then quantiles of those kept.

    The quantile is the nearest rank: of ten starts the 9th fastest is the p90. That of the ordinary waits for a place
    is added to that of the starts proper, which errs on the long side where the two do not go together.
    """
    starts = sorted(memory.lead_times_s)
    if len(starts) < settings.enough_starts:
        return LeadTime(settings.default_s, settings.default_s, len(starts), measured=False)
    waits = sorted(memory.placement_waits_s) or [0.0]
    wait_p50_s, wait_p90_s = _nearest_rank(waits, 0.5), _nearest_rank(waits, 0.9)
    p50_s, p90_s = _nearest_rank(starts, 0.5) + wait_p50_s, _nearest_rank(starts, 0.9) + wait_p90_s
    return LeadTime(p50_s, p90_s, len(starts), measured=True, wait_p90_s=wait_p90_s)


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
    starts = [r for r in fresh if 0 < r.since_at - r.begun_at <= settings.longest_s]
    measured = tuple(r.since_at - r.begun_at for r in starts)
    # Negative for a restart in place, which needs no placement; NaN where the platform does not tell.
    waits = tuple(s for r in starts if 0 <= (s := r.placed_at - r.requested_at) <= settings.longest_wait_s)
    return replace(
        memory,
        lead_times_s=(memory.lead_times_s + measured)[-settings.kept_starts :],
        placement_waits_s=(memory.placement_waits_s + waits)[-settings.kept_starts :],
        seen_ready=tuple(life for life, r in lives.items() if r.phase is Phase.READY or life in known),
    )


def _nearest_rank(ascending: list[float], level: float) -> float:
    rank = max(1, -(-int(level * 1000) * len(ascending) // 1000))
    return ascending[min(rank, len(ascending)) - 1]
