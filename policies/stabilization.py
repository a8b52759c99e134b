"""Is the change worth making now: the largest recent answer holds before anything is given up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from policies.capacity import whole_replicas
from policies.decisions import Reason
from policies.fleet import PoolState
from policies.memory import PoolMemory
from policies.tunable import Tunable


class StabilizationSettings(BaseModel):
    """How slowly capacity is given up. All in seconds, so that a longer tick changes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    down_window_s: Annotated[float, Tunable(15.0, 600.0, why="from a tick to twice what HPA waits", log=True)] = Field(
        60.0,
        ge=0,
        description="Before shrinking, the largest target of this window counts, in seconds. Shorter than the 300 s of "
        "HPA because the forecast of the peak already covers the lead time.",
    )
    unforecast_down_window_s: float = Field(
        300.0,
        ge=0,
        description="The same while there is no forecast to trust, and for what was there when Foresail came: whoever "
        "sized it may have known more. In seconds; what HPA waits.",
    )
    tolerance_replicas: Annotated[float, Tunable(0.0, 0.6, why="from none to most of a replica")] = Field(
        0.2, ge=0, lt=1, description="Spare, in replicas, that must be left after shrinking; stops 2-1-2 flapping."
    )
    start_patience_s: float = Field(
        900.0, ge=0, description="A replica that starts for longer than this, in seconds, no longer holds up shrinking."
    )


def stabilize(
    needed: float,
    roomy: float,
    pool: PoolState,
    memory: PoolMemory,
    at: float,
    settings: StabilizationSettings,
    *,
    starting: int,
    forecast: bool,
) -> tuple[int, PoolMemory, tuple[Reason, ...]]:
    """Return the replicas to ask for, the memory with this target added, and why a smaller target is held.

    Growing passes at once. Shrinking stops at ``roomy``, what the pool would need with ``tolerance_replicas`` more
    load, and at the largest target of the window, which is longer without a ``forecast`` and until a whole longer
    window was watched. While ``starting`` replicas of the model are on their way, in whichever pool, only such are
    called off, none that serves.
    """
    target = whole_replicas(needed)
    if target < pool.desired:
        target = min(pool.desired, whole_replicas(roomy))
    if not memory.targets:  # before the first target, what is there counts as asked for
        memory = remember_target(memory, pool.desired, at, settings)
    memory = remember_target(memory, target, at, settings)
    if target >= pool.desired:
        return target, memory, ()
    reasons: list[Reason] = []
    window_s = settings.down_window_s
    if not forecast or at - memory.targets[0][0] < settings.unforecast_down_window_s:
        window_s = settings.unforecast_down_window_s
    highest = min(pool.desired, max(n for _, n in _recent(memory.targets, at, window_s)))
    if highest > target:
        detail = f"the last {window_s:g} s asked for up to {highest}"
        reasons.append(Reason("stabilization", str(pool.key), target, highest, detail))
    kept = min(pool.desired, len(pool.roster) - len(pool.roster.starting))
    if starting and kept > highest:
        detail = f"{starting} replicas are still starting: only those are called off"
        reasons.append(Reason("no shrink while starting", str(pool.key), highest, kept, detail))
        highest = kept
    return highest, memory, tuple(reasons)


def on_their_way(pools: Iterable[PoolState], at: float, settings: StabilizationSettings) -> int:
    """Return how many replicas are starting and may be waited for."""
    return sum(at - r.begun_at <= settings.start_patience_s for pool in pools for r in pool.roster.starting)


def remember_target(memory: PoolMemory, target: int, at: float, settings: StabilizationSettings) -> PoolMemory:
    """Return ``memory`` with ``target`` added, and without what no longer counts."""
    longest_s = max(settings.down_window_s, settings.unforecast_down_window_s)
    return replace(memory, targets=(*_recent(memory.targets, at, longest_s), (at, target)))


def _recent(targets: tuple[tuple[float, int], ...], at: float, window_s: float) -> tuple[tuple[float, int], ...]:
    """Return the targets that held within the window: one holds until the next, so the last from before it counts."""
    opening = sum(at - t > window_s for t, _ in targets) - 1
    return targets[max(0, opening) :]
