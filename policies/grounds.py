"""On what does a piece of evidence rest: how old is the newest of it, and how much of what was due was seen?

    ========  ==============================  ======================================================================
    source    age                             coverage: share of
    ========  ==============================  ======================================================================
    platform  of its newest reading           all that it lists: 1; 0 where it cannot be asked now
    engine    of its newest counters          looks of late at which they were there, and no older than allowed
    peers     of its own newest scrape        the pool's READY replicas that were scraped of late
    counts    of the newest count of answers  READY replicas of whom the same witness counted of late; as the gateway
    gateway   of its sample (record 0048)     READY replicas that it tells of; 1 for one that it tells of
    canary    of the newest outcome           requests to replicas of the pool whose outcome was told
    gpu       of the newest report            replicas on the node whose GPUs are told of; 1 where the node's are
    pool      of its newest scrape            the serving replicas that were scraped of late
    load      of the load, that of this look  the model's load that was told: all or nothing
    ========  ==============================  ======================================================================

What has just become READY is due once it was seen, or had the time that metrics may be old. What is too old, or rests
on less than half of what was due, stays on record and counts for no cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from policies.canary_evidence import STANDS_S
from policies.decisions import Anomaly
from policies.fleet import FleetState, PoolKey, PoolState
from policies.gpu_faults import KEPT_S
from policies.healing_memory import CanaryBooks, XidMemory
from policies.roster import Bools, Floats
from policies.watched import ANSWER_ROW, WatchedReplicas

LEAST_COVERAGE_RATIO: Final = 0.5
"""What rests on a smaller share of what was due is evidence of missing data more than of anything else."""

_AGES_S: Mapping[str, float] = {
    "canary": STANDS_S,
    "canary-errors": STANDS_S,
    "canary-unreached": STANDS_S,
    "gpu": KEPT_S,
}
"""What is kept for longer than metrics, since it comes seldom or from what says nothing any more."""

_WHATEVER_IS_SEEN = frozenset(("gpu", "store"))
"""One report of a GPU is enough, and that metrics are missing is what ``store`` says."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """How old the newest sample is, in seconds, and which share of those that were due was there, in [0, 1]."""

    age_s: float
    coverage_ratio: float


_READ_NOW = Grounds(0.0, 1.0)
"""A platform lists all there is whenever it is asked, and is asked at every look."""


def grounded(
    fleet: FleetState,
    anomalies: Sequence[Anomaly],
    watched: WatchedReplicas,
    books: CanaryBooks,
    xids: Mapping[str, XidMemory],
    max_age_s: float,
) -> tuple[Anomaly, ...]:
    """Return the evidence with what each piece rests on, and whether that is enough for it to count.

    Args:
        fleet: What is there.
        anomalies: Evidence; what knows its own grounds keeps them.
        watched: What is remembered of replicas as of this look, those of the fleet first, in its order.
        books: Of canaries, as of this look.
        xids: What GPUs reported of late, by node.
        max_age_s: Older metrics are no evidence.
    """
    sights = {pool.key: sight for pool, sight in _sights(fleet, watched, max_age_s)} if anomalies else {}
    tells = _gpus_told_of(fleet) if any(anomaly.family == "gpu" for anomaly in anomalies) else {}
    of_pools: dict[PoolKey, set[str]] = {}
    for anomaly in anomalies:
        if not anomaly.replica:
            of_pools.setdefault(anomaly.pool, set()).add(anomaly.family)
    found = []
    for anomaly in anomalies:
        sight = sights[anomaly.pool]
        if anomaly.family.startswith("canary"):
            grounds = _canary(sight, anomaly, books)
        elif anomaly.family == "gpu":
            grounds = _gpu(sight, anomaly, tells, xids)
        elif anomaly.replica:
            grounds = _OF_REPLICA.get(anomaly.family, _Sight.engine)(sight, sight.places[anomaly.replica])
        elif anomaly.family == "demand":
            grounds = Grounds(0.0, float(anomaly.pool.model in fleet.demand))
        else:
            grounds = _of_pool(sight, anomaly.family, of_pools[anomaly.pool])
        age_s = grounds.age_s if math.isnan(anomaly.age_s) else anomaly.age_s
        seen = grounds.coverage_ratio if math.isnan(anomaly.coverage_ratio) else anomaly.coverage_ratio
        enough = anomaly.family in _WHATEVER_IS_SEEN or seen >= LEAST_COVERAGE_RATIO
        counts = enough and age_s <= _AGES_S.get(anomaly.family, max_age_s)
        found.append(replace(anomaly, age_s=round(age_s, 3), coverage_ratio=round(seen, 4), counts=counts))
    return tuple(found)


class _Sight:
    """What was seen of one pool, worked out once where several pieces of evidence rest on it."""

    def __init__(
        self,
        at: float,
        pool: PoolState,
        part: slice,
        watched: WatchedReplicas,
        stage: Sequence[_Sight],
        max_age_s: float,
        heard_at: float,
    ) -> None:
        self.at, self.pool, self._part, self._watched = at, pool, part, watched
        self._stage, self.max_age_s, self.heard_at = stage, max_age_s, heard_at

    @cached_property
    def places(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.pool.roster.ids)}

    @cached_property
    def observed_at(self) -> Floats:
        """``float64[R]``, when the newest counters of each were read, or else when it was scraped; NaN where never."""
        known: Floats = self._watched.of_row("observed_at")[self._part]
        return np.where(np.isnan(known), self.pool.told.of("observed_at"), known)

    @cached_property
    def covered(self) -> Floats:
        return np.nan_to_num(self._watched.of_row("covered")[self._part])

    @cached_property
    def told_at(self) -> Floats:
        """``float64[2, R]``, when gateway and engine last counted answers; the gateway told them of its sample."""
        told_at = self._watched.answers[:, ANSWER_ROW["told_at"], self._part]
        return np.stack((np.minimum(told_at[0], self.heard_at), told_at[1]))

    @cached_property
    def scraped_ratio(self) -> float:
        return _share([self._due(self.pool.roster.ready, self.pool.told.fresh(self.at, self.max_age_s))])

    @cached_property
    def serving_ratio(self) -> float:
        return _share([self._due(self.pool.roster.serving, self.pool.told.fresh(self.at, self.max_age_s))])

    @cached_property
    def by_gateway(self) -> Bools:
        """``bool[R]``, of whom the gateway tells anything at this look."""
        told = self.pool.told
        tells: Bools = ~(np.isnan(told.in_flight) & np.isnan(told.answered) & np.isnan(told.unreached))
        return tells

    @cached_property
    def gateway_ratio(self) -> float:
        return _share([self._due(self.pool.roster.ready, self.by_gateway)])

    def counted(self, witness: int) -> tuple[int, int]:
        """Return of how many READY replicas answers were counted of late, and of how many they should have been."""
        return self._due(self.pool.roster.ready, self.at - self.told_at[witness] <= self.max_age_s)

    def _due(self, where: Bools, seen: Bools) -> tuple[int, int]:
        due = where & (seen | (self.at - self.pool.roster.since_at > self.max_age_s))
        return int(np.count_nonzero(due & seen)), int(np.count_nonzero(due))

    def age_s(self, instant: float, place: int) -> float:
        """Return how old that is; of what was never seen, for how long it could have been."""
        since_at = float(self.pool.roster.since_at[place])
        return max(0.0, self.at - (since_at if math.isnan(instant) else instant))

    def newest_s(self, instants: Floats) -> float:
        """Return how old the newest of these ``float64[R]`` is, by the rule of ``age_s``."""
        place = int(np.argmax(np.where(np.isnan(instants), -np.inf, instants))) if len(instants) else None
        return 0.0 if place is None else self.age_s(float(instants[place]), place)

    @property
    def listed(self) -> Grounds:
        """What the platform says: nothing, as of this look, where it cannot be asked."""
        return Grounds(max(0.0, self.at - self.pool.last_told_at), 0.0) if self.pool.untold else _READ_NOW

    def platform(self, _place: int) -> Grounds:
        return self.listed

    def engine(self, place: int) -> Grounds:
        return Grounds(self.age_s(float(self.observed_at[place]), place), float(self.covered[place]))

    def peers(self, place: int) -> Grounds:
        return Grounds(self.age_s(float(self.observed_at[place]), place), self.scraped_ratio)

    def unscraped(self, _place: int) -> Grounds:
        return Grounds(self.newest_s(self.observed_at), self.scraped_ratio)

    def gateway(self, place: int) -> Grounds:
        """Of one replica all is there if it is told of: of others the gateway may have no series before a request."""
        if self.by_gateway[place]:
            return Grounds(self.age_s(self.heard_at, place), 1.0)
        return Grounds(self.age_s(float(self.told_at[0, place]), place), self.gateway_ratio)

    def answers(self, place: int) -> Grounds:
        """As of ``gateway``; that others were counted is what ``cohort`` rests on."""
        age_s = self.age_s(float(self.told_at[0, place]), place)
        return Grounds(age_s, 1.0 if age_s <= self.max_age_s else _share([self.counted(0)]))

    def errors(self, place: int) -> Grounds:
        return Grounds(self.age_s(float(self.told_at[1, place]), place), float(self.covered[place]))

    def cohort(self, place: int) -> Grounds:
        """Those that get the same requests, by whoever counted last."""
        witness = int(np.argmax(np.nan_to_num(self.told_at[:, place], nan=-np.inf)))
        seen = _share([sight.counted(witness) for sight in self._stage])
        return Grounds(self.age_s(float(self.told_at[witness, place]), place), seen)


_OF_REPLICA: Mapping[str, Callable[[_Sight, int], Grounds]] = {
    "platform": _Sight.platform,
    "exit": _Sight.platform,
    "young": _Sight.platform,
    "peers": _Sight.peers,
    "latency": _Sight.peers,
    "clock": _Sight.peers,
    "unscraped": _Sight.unscraped,
    "gateway": _Sight.gateway,
    "unreached": _Sight.gateway,
    "answers": _Sight.answers,
    "answering": _Sight.answers,
    "errors": _Sight.errors,
    "cohort": _Sight.cohort,
}
"""All others rest on the engine's own counters."""

_BY_THE_PLATFORM = frozenset(("platform", "node", "revision", "starts", "memory", "sequence"))


def _of_pool(sight: _Sight, family: str, families: set[str]) -> Grounds:
    """Return the grounds of what shows at a pool; how revisions compare rests on what is told beside it."""
    if family == "cluster":
        return _READ_NOW
    if family in _BY_THE_PLATFORM:
        return sight.listed
    if family == "store":
        settled = sight.pool.roster.ready & (sight.at - sight.pool.roster.since_at > sight.max_age_s)
        return Grounds(0.0, _share([(int(np.count_nonzero(settled)), sight.pool.roster.ready_count)]))
    if family == "gateway":
        told_at = np.where(sight.by_gateway, sight.heard_at, sight.told_at[0])
        return Grounds(sight.newest_s(told_at), sight.gateway_ratio)
    if family == "answers":
        return Grounds(sight.newest_s(sight.told_at[0]), _share([sight.counted(0)]))
    if family == "cohort":
        beside = [_of_pool(sight, name, families) for name in ("answers", "latency") if name in families]
        if not beside:
            return sight.listed
        return Grounds(max(each.age_s for each in beside), min(each.coverage_ratio for each in beside))
    return Grounds(sight.newest_s(sight.pool.told.of("observed_at")), sight.serving_ratio)


def _canary(sight: _Sight, anomaly: Anomaly, books: CanaryBooks) -> Grounds:
    known = books.replicas[sight.pool.key.replica(anomaly.replica)]
    told_at = known.told_at if known.told_at is not None else known.first_at
    of_pool = [books.replicas.get(name) for name in sight.pool.roster.names(str(sight.pool.key))]
    due = [one.outcome for one in of_pool if one is not None and one.outcome]
    share = _share([(sum(outcome != "unheard" for outcome in due), len(due))])
    return Grounds(sight.age_s(math.nan if told_at is None else told_at, sight.places[anomaly.replica]), share)


def _gpu(
    sight: _Sight, anomaly: Anomaly, tells: Mapping[str, Sequence[bool]], xids: Mapping[str, XidMemory]
) -> Grounds:
    place = sight.places[anomaly.replica]
    node = sight.pool.roster.replicas[place].node
    age_s = sight.age_s(xids[node].seen_at if node in xids else math.nan, place)
    return Grounds(age_s, _share([(sum(tells[node]), len(tells[node]))]))


def _gpus_told_of(fleet: FleetState) -> Mapping[str, Sequence[bool]]:
    """Return by node of which replicas there the GPUs are told of; a node that tells of its own tells of all."""
    of_nodes = {name for name, node in fleet.nodes.items() if not math.isnan(node.xid)}
    tells: dict[str, list[bool]] = {}
    for pool in fleet.pools:
        for replica, code in zip(pool.roster.replicas, pool.told.of("gpu_xid").tolist(), strict=True):
            tells.setdefault(replica.node, []).append(replica.node in of_nodes or not math.isnan(code))
    return tells


def _sights(fleet: FleetState, watched: WatchedReplicas, max_age_s: float) -> list[tuple[PoolState, _Sight]]:
    found, first = [], 0
    heard_at, _ = fleet.gateway_heard_at
    stages: dict[object, list[_Sight]] = {}
    for pool in fleet.pools:
        part = slice(first, first + len(pool.roster))
        first = part.stop
        together = stages.setdefault(pool.key.stage, [])
        sight = _Sight(fleet.at, pool, part, watched, together, max_age_s, heard_at)
        together.append(sight)
        found.append((pool, sight))
    return found


def _share(counts: Sequence[tuple[int, int]]) -> float:
    """Return the share that was seen of what was due, of several places together; 1 where nothing was."""
    seen, due = sum(each[0] for each in counts), sum(each[1] for each in counts)
    return seen / due if due else 1.0
