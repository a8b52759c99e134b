"""Which pools does the platform no longer list, and what is kept of them for the case that it only failed to?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from policies.decisions import Reason
from policies.fleet import FleetState, PoolKey
from policies.memory import ModelMemory, PolicyMemory, PoolMemory


@dataclass(frozen=True, slots=True)
class Vanished:
    """What is kept of pools that are not listed, by key, and of models without any other pool."""

    pools: Mapping[str, PoolMemory]
    models: Mapping[str, ModelMemory]
    reasons: tuple[Reason, ...]

    @property
    def incomplete(self) -> frozenset[str]:
        """Models of which a pool is missing: what is left of them must neither shrink nor take its traffic."""
        return frozenset(PoolKey.parse(key).model for key in self.pools)


def vanished(fleet: FleetState, memory: PolicyMemory, keep_s: float) -> Vanished:
    """Return the memory of known pools that were listed at most ``keep_s`` seconds ago and are not listed now."""
    listed = {str(pool.key) for pool in fleet.pools}
    if listed and listed.issuperset(memory.pools):
        return _NOTHING
    absent = {
        key: replace(known, listed_at=fleet.at if known.listed_at is None else known.listed_at)
        for key, known in memory.pools.items()
        if key not in listed
    }
    pools = {key: known for key, known in absent.items() if fleet.at - (known.listed_at or 0.0) <= keep_s}
    models = {PoolKey.parse(key).model for key in pools} - set(fleet.models)
    detail = f"the platform does not list it; its model is held, and what is known of it kept, for {keep_s:.0f} s"
    reasons = [Reason("vanished", key, 0, 0, detail) for key in sorted(pools)]
    if not fleet.pools:
        reasons.append(Reason("empty fleet", "fleet", 0, 0, "the platform lists no pool: nothing to decide"))
    return Vanished(pools, {m: memory.models[m] for m in sorted(models & set(memory.models))}, tuple(reasons))


_NOTHING = Vanished({}, {}, ())
