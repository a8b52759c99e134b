"""Which replicas were asked for and must not be counted on: the platform has had no place for them for too long."""

from __future__ import annotations

from policies.fleet import Phase, PoolState, ReplicaState
from policies.lead_time import LeadTime
from policies.memory import PoolMemory


def out_of_place(replica: ReplicaState, at: float, patience_s: float) -> bool:
    """Return whether the replica has waited for a node for longer than starts take: no GPUs, or no quota for them."""
    return replica.unplaced and at - replica.requested_at > patience_s


def not_coming(pool: PoolState, memory: PoolMemory, lead: LeadTime, at: float) -> int:
    """Return how many of the pool's desired replicas wait for GPUs, or were never made, beyond what starts take.

    Where a quota refuses replicas the platform takes the count and lists fewer: what is missing of every count of the
    remembered window, a minute as set by default, was not merely asked for a moment ago.
    """
    waiting = sum(out_of_place(replica, at, lead.p90_s) for replica in pool.replicas)
    there = sum(replica.phase is not Phase.DRAINING for replica in pool.replicas)
    asked = min([pool.desired, *(count for _, count in memory.desired)]) if memory.desired else 0
    return min(pool.desired, waiting + max(0, asked - there))
