"""Is the change worth making now: the largest recent answer holds before anything is given up."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from policies.capacity import whole_replicas
from policies.decisions import Reason
from policies.fleet import PoolState
from policies.memory import PoolMemory


class StabilizationSettings(BaseModel):
    """How slowly capacity is given up. All in seconds, so that a longer tick changes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    down_window_s: float = Field(
        120.0,
        ge=0,
        description="Before shrinking, the largest target of this window counts, in seconds. Shorter than the 300 s of "
        "HPA because the forecast already covers the lead time.",
    )
    tolerance_replicas: float = Field(
        0.2, ge=0, lt=1, description="Spare, in replicas, that must be left after shrinking; stops 2-1-2 flapping."
    )


def stabilize(
    needed: float, pool: PoolState, memory: PoolMemory, at: float, settings: StabilizationSettings
) -> tuple[int, PoolMemory, tuple[Reason, ...]]:
    """Return the replicas to ask for, the memory with this target added, and why a smaller target is held.

    Growing passes at once. Shrinking needs ``tolerance_replicas`` to spare, no replica still starting, and every
    target of the last ``down_window_s`` to agree.
    """
    target = whole_replicas(needed)
    if target < pool.desired:
        target = min(pool.desired, whole_replicas(needed + settings.tolerance_replicas))
    recent = tuple((t, n) for t, n in memory.targets if at - t <= settings.down_window_s) + ((at, target),)
    memory = replace(memory, targets=recent)
    if target >= pool.desired:
        return target, memory, ()
    highest = max(n for _, n in recent)
    if pool.starting:
        detail = f"{len(pool.starting)} replicas are still starting"
        return pool.desired, memory, (Reason("no shrink while starting", str(pool.key), target, pool.desired, detail),)
    if highest > target:
        held = min(highest, pool.desired)
        detail = f"the last {settings.down_window_s:g} s asked for up to {highest}"
        return held, memory, (Reason("stabilization", str(pool.key), target, held, detail),)
    return target, memory, ()
