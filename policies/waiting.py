"""Which replicas were asked for and must not be counted on: the platform has had no node for them for too long."""

from __future__ import annotations

from policies.fleet import PoolState, ReplicaState
from policies.lead_time import LeadTime


def out_of_place(replica: ReplicaState, at: float, patience_s: float) -> bool:
    """Return whether the replica has been without a node for longer than ``patience_s``.

    A node that comes late, as a cluster autoscaler's does, is part of the lead times that are measured.
    """
    return replica.unplaced and at - replica.requested_at > patience_s


def not_coming(pool: PoolState, lead: LeadTime, at: float) -> int:
    """Return how many replicas of the pool have been without a node for longer than nine of ten whole starts take."""
    return sum(out_of_place(replica, at, lead.p90_s) for replica in pool.roster.unplaced)
