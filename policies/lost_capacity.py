"""How many replicas that the platform counts must the planner not count on?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from policies.decisions import CordonReplica, UncordonReplica
from policies.fleet import Phase, PoolKey
from policies.ledger import Ledger
from policies.playbook import Hold
from policies.revisions import on_trial


def lost_capacity(ledger: Ledger, holding: Mapping[PoolKey, Iterable[Hold]]) -> Mapping[str, int]:
    """Return how many replicas of each pool the platform counts, and will not serve soon.

    What keeps exiting is made good only as long as it is an exception: more of what does not start helps nobody. Nor is
    anything of a revision that is on trial: what takes its place would be of the same. What has exited on a GPU at
    fault does not come back there. A playbook may ask for one more than the load needs.
    """
    back = {r.pool.replica(r.replica) for r in ledger.remedies if isinstance(r, UncordonReplica)}
    out = {r.pool.replica(r.replica) for r in ledger.remedies if isinstance(r, CordonReplica)} | ledger.waiting
    lost = dict.fromkeys((str(pool.key) for pool in ledger.fleet.pools), 0)
    for pool in ledger.fleet.pools:
        known = ledger.known.get(str(pool.key))
        trial = pool.revision if known is not None and on_trial(pool, known, ledger.settings) else None
        for r in pool.roster.replicas if out or ledger.broken else pool.roster.troubled:
            if r.revision == trial:
                continue
            name = pool.key.replica(r.id)
            away = r.phase is Phase.READY and (r.cordoned or name in out) and name not in back
            looping = r.phase is Phase.FAILED and r.restarts > 1 and pool.key.model not in ledger.stopped
            lost[str(pool.key)] += away or looping or name in ledger.broken
        lost[str(pool.key)] += "one more" in holding.get(pool.key, ())
    return lost
