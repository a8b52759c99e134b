"""Which replicas are slower than their peers, with no more to do than they?

Peers are those of the pool that are past their cold start: what has just started is slow by itself, and what it has
taken on so far says nothing of how long requests of others have been decoding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Anomaly
from policies.fleet import PoolState
from policies.memory import ReplicaMemory
from policies.roster import Floats
from policies.watched import WatchedReplicas


class SlowSettings(BaseModel):
    """When a replica counts as slow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slow_z: float = Field(
        5.0, gt=0, description="Robust z-score of TPOT against peers from which a replica counts as slow."
    )
    slow_ratio: float = Field(
        1.6, gt=1, description="TPOT must also be this many times the peers' median: tiny spreads make large z-scores."
    )
    min_peers: int = Field(4, ge=2, description="Fewer reporting peers give no median worth comparing with.")
    slow_scrapes: int = Field(4, ge=1, description="Scrapes within the look-back that must agree (k of n).")
    look_back_s: float = Field(
        300.0,
        gt=0,
        description="Look-back of the k-of-n rule, in seconds: at little load a replica ends one request a minute. "
        "Scrapes on time make slow ones forgotten sooner.",
    )
    worked_off_s: float = Field(
        60.0,
        ge=0,
        description="Time in seconds for which the work that a replica did goes on explaining its TPOT: requests that "
        "end now decoded in the larger batches of a minute ago, of a backlog that its peers did not have.",
    )
    cold_s: float = Field(
        300.0,
        ge=0,
        description="Time in seconds since READY in which a replica may be slow: caches, graphs and kernels are cold.",
    )


BUSIEST = 1.5
"""Whoever does this many times the work of its peers holds the large batches of a backlog, and is not throttled."""

UNEXPLAINED = 1.25
"""Times the TPOT that its work explains from which on it is more than that."""

FORGIVEN = 2
"""Slow scrapes that one on time makes forgotten: few requests beside a long prefill are slow too."""


def slower(
    at: float,
    pool: PoolState,
    memory: WatchedReplicas,
    looked_before: Mapping[str, ReplicaMemory],
    tpot_s: Floats,
    settings: SlowSettings,
    one_prompt_s: float = 0.0,
) -> tuple[list[Anomaly], dict[str, ReplicaMemory]]:
    """TPOT far above the peers' at k of the last n scrapes; more than its load explains is the second family.

    Args:
        at: Instant of the look.
        pool: As it is.
        memory: What is known of the fleet's replicas now.
        looked_before: What was known of them before this look, by name.
        tpot_s: ``float64[2, R]`` of the pool's, as told now, NaN where nothing ended, and as last told of late: at a
            low load hardly any two replicas end a request at the same look.
        settings: When it counts.
        one_prompt_s: What the prefill of one prompt adds to the TPOT of those who decode beside it. Where that is much,
            requests are of two kinds, and a few of the slow kind say nothing of the engine.

    Returns:
        The evidence, and memory of those of whom something else is to be remembered than before.
    """
    now_s, lately_s = np.where(pool.roster.ready, tpot_s, np.nan)
    warm = (at - pool.roster.since_at >= settings.cold_s) & ~np.isnan(lately_s)
    ascending = sorted(lately_s[warm].tolist())
    # Whoever is not far above the median of all is not far above its peers': nothing to compare one by one.
    enough = len(ascending) > settings.min_peers
    limit_s = settings.slow_ratio * _least_median(ascending) if enough else math.inf
    far = now_s > limit_s
    if not memory.slow_at and not np.count_nonzero(far):
        return [], {}
    names = pool.roster.names(str(pool.key))
    worth_a_look = set(np.flatnonzero(far).tolist())
    if memory.slow_at:
        worth_a_look |= {p for p, name in enumerate(names) if name in memory.slow_at and not math.isnan(now_s[p])}
    found: list[Anomaly] = []
    changed: dict[str, ReplicaMemory] = {}
    for place in sorted(worth_a_look):
        name = names[place]
        observed_at = float(pool.told.of("observed_at")[place])
        before = memory[name]
        after = replace(before, slow_at=tuple(t for t in before.slow_at if at - t <= settings.look_back_s))
        if far[place]:
            peers = np.flatnonzero(warm & (np.arange(len(now_s)) != place))
            mine_s = float(now_s[place])
            middle, z = _robust_z(mine_s, lately_s[peers].tolist())
            if z > settings.slow_z and mine_s > settings.slow_ratio * middle:
                busier = _busier(before, [memory[names[peer]] for peer in peers.tolist()])
                most_s = middle * busier + one_prompt_s if busier <= BUSIEST else math.inf
                explained = busier < math.inf and mine_s <= UNEXPLAINED * most_s
                after = _looked(after, observed_at, explained=explained)
                if _lately_explained(after, observed_at, settings):
                    most_s = math.inf
                if len(after.slow_at) >= settings.slow_scrapes:
                    age_s = at - float(pool.roster.since_at[place])
                    found += _evidence(pool, place, mine_s, (middle, z, most_s), age_s, after.slow_at[0], settings)
        elif _newer(observed_at, looked_before.get(name)):
            after = replace(after, slow_at=after.slow_at[FORGIVEN:])
        if after != before:
            changed[name] = after
    return found, changed


def _evidence(
    pool: PoolState,
    place: int,
    mine_s: float,
    peers: tuple[float, float, float],
    age_s: float,
    since_at: float,
    settings: SlowSettings,
) -> list[Anomaly]:
    """Return what speaks against one replica, given its peers' median, its z-score and what its work explains."""
    middle_s, z, most_s = peers
    replica = pool.roster.ids[place]
    detail = f"TPOT {mine_s * 1000:.0f} ms, its peers' median is {middle_s * 1000:.0f} ms"
    found = [Anomaly("peers", replica, pool.key, z / settings.slow_z, since_at, detail)]
    if mine_s > UNEXPLAINED * most_s:
        detail = f"the work that it does explains a TPOT of {most_s * 1000:.0f} ms at most"
        found.append(Anomaly("latency", replica, pool.key, mine_s / most_s, since_at, detail))
    if age_s < settings.cold_s:
        found.append(Anomaly("young", replica, pool.key, 1.0, since_at, f"it is READY for {age_s:.0f} s"))
    return found


def _looked(known: ReplicaMemory, observed_at: float, *, explained: bool) -> ReplicaMemory:
    """Return ``known`` with a scrape at which it was slow."""
    slow_at = known.slow_at if observed_at in known.slow_at else (*known.slow_at, observed_at)
    return replace(known, slow_at=slow_at, explained_at=observed_at if explained else known.explained_at)


def _lately_explained(known: ReplicaMemory, observed_at: float, settings: SlowSettings) -> bool:
    return known.explained_at is not None and observed_at - known.explained_at < settings.worked_off_s


def _newer(observed_at: float, earlier: ReplicaMemory | None) -> bool:
    return earlier is not None and observed_at > earlier.observed_at


def _busier(own: ReplicaMemory, peers: Sequence[ReplicaMemory]) -> float:
    """Return how many times the peers' work it does, at least 1; infinity where that is not known.

    Step time grows at most in proportion to the work, so that a busier replica may be slower by this much. What is
    *inside* is no measure: requests pile up just where they are worked off slowly.
    """
    ratios = []
    for mine, theirs in (
        (own.prompt_tokens_per_s, [p.prompt_tokens_per_s for p in peers]),
        (own.output_tokens_per_s, [p.output_tokens_per_s for p in peers]),
    ):
        known = [rate for rate in theirs if rate is not None]
        if mine is not None and known and median(known) > 0:
            ratios.append(mine / median(known))
    return max(1.0, *ratios) if ratios else math.inf


def _least_median(ascending: Sequence[float]) -> float:
    """Return the least that the median can become by leaving one value out, of three or more."""
    return (ascending[(len(ascending) - 2) // 2] + ascending[(len(ascending) - 1) // 2]) / 2


def _robust_z(value: float, peers: Sequence[float]) -> tuple[float, float]:
    """Return the peers' median and the z-score of ``value`` by their median absolute deviation (times 1.4826)."""
    middle = median(peers)
    spread = 1.4826 * median(abs(p - middle) for p in peers)
    return middle, (value - middle) / max(spread, 0.05 * middle, 1e-9)
