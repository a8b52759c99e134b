"""Is the hardware of a GPU at fault: what did the driver report there of late, and what does that ask for?

An Xid that asks for a reset of the GPU or a restart of its node is evidence against the replicas there, of the family
``gpu``: an engine that exits, hangs or slows down on such a GPU does so because of it. One that asks for a restart of
the engine points at the application instead. All others, remapped rows (63) and contained errors (92) among them, are
evidence of nothing.

Once an engine has exited its own exporter says nothing, and the GPU belongs to nobody. So what was reported is
remembered by node, which stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from policies.decisions import Anomaly
from policies.fleet import FleetState, PoolState
from policies.healing_memory import XidMemory
from policies.xid import XidAction, xid_action

KEPT_S = 1800.0
"""How long a report counts after it was last told: an engine that starts again takes minutes to meet the same GPU."""

MOST_NODES = 256
"""Of which reports are remembered; more at once are no faults of single GPUs."""

TOLD_WITHIN_S = 45.0
"""After what ended engines a report is there by then: exporters look every 30 s, and are scraped 15 s later at most."""

FRESH_S = 60.0
"""How old what an engine's exporter says of its GPUs may be."""

THROTTLED_RATIO = 0.7
"""Of its peers' clock, below which a GPU is held back: what boost and temperature alone cost is some 10 %."""

LEAST_PEERS = 3


def with_reports(fleet: FleetState, known: Mapping[str, XidMemory]) -> Mapping[str, XidMemory]:
    """Return by node the newest Xid of late that asks for more than a restart of the engine.

    What the platform's nodes and the replicas on them tell counts alike. A node that is known to be gone is forgotten.
    """
    told = dict(_told(fleet))
    if not known and not told:
        return known
    at = fleet.at
    kept = {
        name: seen
        for name, seen in known.items()
        if at - seen.seen_at <= KEPT_S and (name in fleet.nodes or not fleet.nodes)
    }
    for name, code in told.items():
        before = kept.get(name)
        same = before is not None and before.code == code
        kept[name] = replace(before, seen_at=at) if same and before else XidMemory(code, at, at)
    newest = sorted(kept.items(), key=lambda item: (-item[1].seen_at, item[0]))[:MOST_NODES]
    return dict(sorted(newest))


def _told(fleet: FleetState) -> Iterator[tuple[str, int]]:
    for name, node in fleet.nodes.items():
        if node.xid > 0 and xid_action(node.xid).elsewhere:
            yield name, int(node.xid)
    for pool in fleet.pools:
        codes = pool.told.of("gpu_xid")
        for place in np.flatnonzero(codes > 0).tolist():
            replica, code = pool.roster.replicas[place], float(codes[place])
            if replica.node and _fresh(fleet.at, pool, place) and xid_action(code).elsewhere:
                yield replica.node, int(code)


def _fresh(at: float, pool: PoolState, place: int) -> bool:
    return bool(pool.told.scraped[place]) and at - float(pool.told.of("observed_at")[place]) <= FRESH_S


def may_yet_tell(fleet: FleetState, node: str, since_at: float) -> bool:
    """Return whether an Xid behind what happened on ``node`` at ``since_at`` may not have been told yet.

    Nothing is to be waited for where GPUs of that node are not exported.
    """
    known = fleet.nodes.get(node)
    return known is not None and not math.isnan(known.xid) and fleet.at - since_at < TOLD_WITHIN_S


def gpu_evidence(fleet: FleetState, reports: Mapping[str, XidMemory], others: Sequence[Anomaly]) -> tuple[Anomaly, ...]:
    """Return what GPUs say against replicas.

    Args:
        fleet: What is there.
        reports: By node, this look's among them.
        others: All other evidence. A clock that is held back and an error of the application mean something only where
            something else is wrong.
    """
    found: list[Anomaly] = []
    families: dict[tuple[object, str], set[str]] = {}
    for anomaly in others:
        if anomaly.replica:
            families.setdefault((anomaly.pool, anomaly.replica), set()).add(anomaly.family)
    for pool in fleet.pools:
        found += _of_nodes(fleet.at, pool, reports)
        suspects = [p for p, name in enumerate(pool.roster.ids) if (pool.key, name) in families] if families else []
        for place in suspects:
            found += _of_application(fleet.at, pool, place)
            if "peers" in families[pool.key, pool.roster.ids[place]]:
                found += _throttled(fleet.at, pool, place)
    return tuple(found)


def _of_nodes(at: float, pool: PoolState, reports: Mapping[str, XidMemory]) -> Iterator[Anomaly]:
    """An Xid of its own GPUs or, of a replica whose GPUs nobody tells of just now, of its node."""
    if not reports:
        return
    codes = pool.told.of("gpu_xid")
    for place, replica in enumerate(pool.roster.replicas):
        seen = reports.get(replica.node) if replica.node else None
        if seen is None:
            continue
        own = float(codes[place]) if _fresh(at, pool, place) else math.nan
        if not math.isnan(own) and not xid_action(own).elsewhere:
            continue  # it was another GPU of the node
        code = seen.code if math.isnan(own) else int(own)
        action = xid_action(code)
        detail = f"Xid {code} on {replica.node} {at - seen.since_at:.0f} s ago, which asks to {action.value}"
        yield Anomaly("gpu", replica.id, pool.key, 1.0, seen.since_at, detail)


def _of_application(at: float, pool: PoolState, place: int) -> Iterator[Anomaly]:
    code = float(pool.told.of("gpu_xid")[place])
    if not code > 0 or not _fresh(at, pool, place) or xid_action(code) is not XidAction.RESTART_ENGINE:
        return
    detail = f"its GPU reports Xid {code:.0f}, which asks to restart the engine and says nothing against the node"
    yield Anomaly("application", pool.roster.ids[place], pool.key, 1.0, at, detail)


def _throttled(at: float, pool: PoolState, place: int) -> Iterator[Anomaly]:
    """A clock far below those of peers at work: why a replica is slow, and weaker than an Xid, for it may pass."""
    clocks = pool.told.of("gpu_clock_ratio")
    mine = float(clocks[place])
    working = pool.roster.ready & pool.told.fresh(at, FRESH_S) & (pool.told.of("running_requests") > 0)
    working[place] = False
    peers = clocks[working & ~np.isnan(clocks)].tolist()
    if not _fresh(at, pool, place) or len(peers) < LEAST_PEERS:
        return
    usual = median(peers)
    if mine < THROTTLED_RATIO * usual:
        detail = f"its GPU runs at {mine:.0%} of its clock, those of its {len(peers)} peers at {usual:.0%}"
        yield Anomaly("clock", pool.roster.ids[place], pool.key, usual / max(mine, 1e-3), at, detail)
