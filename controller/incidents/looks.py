"""What does one tick show of an incident's subject: where it is, whether it works, and what failed there?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from statistics import median

from controller.incidents.incident import Condition
from controller.incidents.ticks import Json, Subject, Tick
from policies.lead_time import LeadTimeSettings, lead_time
from policies.memory import PoolMemory

AT_ONCE_S = 60.0
"""How long an act takes to help that starts no replica, such as a cordon, in seconds: what passes by itself within a
minute needed none."""

AS_FAST_RATIO = 1.1
"""Up to this many times its peers' median time per token, a replica that was called slow keeps up with them."""

_COUNTERS = ("steps_total", "output_tokens_total", "prompt_tokens_total")
_AT_ONCE = ("cordon", "uncordon", "fail over", "pause", "resume", "avoid")
_BY_PHASE: Mapping[str, Condition] = {
    "pending": "starting",
    "loading": "starting",
    "failed": "failed",
    "draining": "draining",
}


def condition_of(tick: Tick, subject: Subject, since_at: float) -> Condition:
    """Return where ``subject`` is; one that is gone is replaced once its pool is whole or a later one serves.

    Args:
        tick: What was seen.
        subject: Of an incident.
        since_at: What was asked for since then may be its replacement.
    """
    if subject.scope != "replica":
        return "serving"
    pool = tick.pools.get(subject.pool)
    if pool is None:
        return "gone"
    replica = tick.replicas.get((subject.pool, subject.name))
    if replica is not None:
        if replica["phase"] in _BY_PHASE:
            return _BY_PHASE[replica["phase"]]
        return "out" if replica.get("cordoned") else "serving"
    serving = [r for r in pool.get("replicas") or () if r["phase"] == "ready" and not r.get("cordoned")]
    made_since = any((r.get("requested_at") or 0.0) >= since_at for r in serving)
    return "replaced" if made_since or len(serving) >= (pool.get("desired") or 0) else "missing"


def life_of(tick: Tick, subject: Subject) -> str:
    """Return what tells one life of a replica from the next, also where a new one has the name of the old.

    Of a pool and of a model it is the revision that new replicas get.
    """
    if subject.scope in ("pool", "model"):
        inside_it = (pool for key, pool in tick.pools.items() if subject.name in (key, key.rsplit("/", 2)[0]))
        return "revision " + ", ".join(str(pool.get("revision", "")) for pool in inside_it)
    replica = tick.replicas.get((subject.pool, subject.name)) if subject.scope == "replica" else None
    return "" if replica is None else f"{subject.name}#{replica.get('restarts', 0)}@{replica.get('requested_at', 0)}"


def remedy_s(tick: Tick, verb: str, pool: str) -> float:
    """Return how long an act takes to help: at once, or as long as 90 % of the pool's starts take, as then measured.

    Until enough starts were seen that is the default lead time.
    """
    if verb in _AT_ONCE:
        return AT_ONCE_S
    known: Json = (tick.memory_before.get("pools") or {}).get(pool) or {}
    starts, waits = known.get("lead_times_s") or (), known.get("placement_waits_s") or ()
    return lead_time(PoolMemory(lead_times_s=tuple(starts), placement_waits_s=tuple(waits)), LeadTimeSettings()).p90_s


def works(tick: Tick, before: Tick | None, subject: Subject, families: Collection[str]) -> bool:
    """Return whether a replica was seen to work since the tick before, by the measure that it was found ill by.

    One that stands still works when a counter of the same life has grown; a slow one when its time per token is that
    of its peers; one that fails requests when answers came and none failed. What is no replica is never seen to.
    """
    now = tick.replicas.get((subject.pool, subject.name)) if subject.scope == "replica" else None
    if now is None or now["phase"] != "ready":
        return False
    if "latency" in families:
        return _keeps_up(tick, subject, now)
    then = before.replicas.get((subject.pool, subject.name)) if before else None
    if before is None or then is None or life_of(before, subject) != life_of(tick, subject):
        return False
    if {"answers", "errors", "cohort"} & set(families):
        failed, answered = _grown(then, now, _failed), _grown(then, now, _answered)
        return failed == 0.0 and (answered or 0.0) > 0.0
    counts: list[Callable[[Json], float | None]] = [partial(_metric, name) for name in _COUNTERS]
    return any((_grown(then, now, counter) or 0.0) > 0.0 for counter in (*counts, _answered))


def failed_totals(tick: Tick, subject: Subject) -> Mapping[str, float]:
    """Return, by life, the failed answers so far of each replica that ``subject`` is or has, where they are told."""
    told = ((f"{key}/{r['id']}#{r.get('restarts', 0)}@{r.get('requested_at', 0)}", _failed(r))
            for key, r in _members(tick, subject))  # fmt: skip
    return {life: total for life, total in told if total is not None}


def inside(tick: Tick, subject: Subject) -> float | None:
    """Return the requests that the gateway saw inside a replica; None if untold."""
    replica = tick.replicas.get((subject.pool, subject.name)) if subject.scope == "replica" else None
    return None if replica is None else replica.get("in_flight_requests")


def _members(tick: Tick, subject: Subject) -> Iterator[tuple[str, Json]]:
    """Yield the replicas that ``subject`` is or has, each with its pool's key."""
    if subject.scope == "replica":
        found = tick.replicas.get((subject.pool, subject.name))
        yield from () if found is None else ((subject.pool, found),)
        return
    for (key, _), replica in tick.replicas.items():
        called = {"pool": key, "model": key.rsplit("/", 2)[0], "node": replica.get("node")}
        if called.get(subject.scope, subject.name) == subject.name:
            yield key, replica


def _keeps_up(tick: Tick, subject: Subject, replica: Json) -> bool:
    mine = (replica.get("metrics") or {}).get("tpot_mean_s")
    peers = [
        tpot
        for (key, name), r in tick.replicas.items()
        if key == subject.pool and name != subject.name and (tpot := (r.get("metrics") or {}).get("tpot_mean_s"))
    ]
    return bool(mine) and len(peers) > 1 and mine <= AS_FAST_RATIO * median(peers)


def _failed(replica: Json) -> float | None:
    told = replica.get("failed_answers_total")
    return (replica.get("metrics") or {}).get("failed_requests_total") if told is None else told


def _metric(name: str, replica: Json) -> float | None:
    found: float | None = (replica.get("metrics") or {}).get(name)
    return found


def _answered(replica: Json) -> float | None:
    told = replica.get("answered_requests_total")
    return (replica.get("metrics") or {}).get("finished_requests_total") if told is None else told


def _grown(then: Json, now: Json, count: Callable[[Json], float | None]) -> float | None:
    before, after = count(then), count(now)
    return None if before is None or after is None else after - before
