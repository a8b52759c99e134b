"""Which pool's traffic must go elsewhere until the pool is fit to serve again?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import FailOver, Reason
from policies.fleet import FleetState, PoolKey, PoolState
from policies.memory import PoolMemory
from policies.placement import PoolOption
from policies.traffic import TrafficSettings, ready_headroom


class FailoverSettings(BaseModel):
    """When a pool is given up for the time being."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    serving_ratio: float = Field(
        0.5, gt=0, le=1, description="A pool that serves with less than this share of its replicas fails over."
    )
    return_after_s: float = Field(
        60.0, ge=0, description="Time that it must have been sound again before traffic returns, in seconds."
    )


@dataclass(frozen=True, slots=True)
class Failover:
    """The options with failing pools marked, the moves that begin now, and the pools' memory."""

    options: tuple[PoolOption, ...]
    moves: tuple[FailOver, ...]
    reasons: tuple[Reason, ...]
    memory: Mapping[str, PoolMemory]


def fail_over(
    fleet: FleetState,
    model: str,
    options: Sequence[PoolOption],
    memory: Mapping[str, PoolMemory],
    settings: FailoverSettings,
    traffic: TrafficSettings,
    given_up: Collection[PoolKey] = (),
) -> Failover:
    """Return which pools of ``model`` are given up for now, and what to remember of it.

    A pool that lost all its replicas fails over wherever another serves. One that lost many fails over only when the
    others can carry the whole demand: half a pool is better than an overloaded one. What is new and growing has not
    failed. It stays given up until it has been sound for ``return_after_s``, or the others cannot carry the load.
    Those that a playbook has ``given_up`` are not sound as long as it does. Of those that the platform cannot be asked
    about, the others stay as they were found.
    """
    marked: list[PoolOption] = []
    moves: list[FailOver] = []
    reasons: list[Reason] = []
    remembered = dict(memory)
    out: set[PoolKey] = set()
    for option in options:
        pool, name, before = option.state, str(option.state.key), memory[str(option.state.key)]
        others = [o for o in options if o.state.key not in out | {pool.key} and o.state.roster.serving_count]
        # What nobody reaches serves nothing, however well it is: its traffic is better off anywhere, as a dead pool's.
        out_already = pool.untold and before.unsound_at is not None
        lost = pool.key in given_up or out_already
        possible = bool(others) if lost else _possible(fleet, pool, before, others, traffic)
        sound = not lost and (pool.untold or _sound(pool, settings))
        remembered[name] = after = _judged(pool, before, possible, fleet.at, settings, sound=sound)
        failing = after.unsound_at is not None
        marked.append(option if option.failing == failing else replace(option, failing=failing))
        detail = f"serves with {pool.roster.serving_count} of {_expected(pool)} replicas"
        detail = "given up before, and the platform cannot be asked about it" if out_already else detail
        detail = "a playbook gives it up for now" if pool.key in given_up else detail
        if failing:
            out.add(pool.key)
        if failing and pool.weight > 0:
            best = max(others, key=lambda o: (ready_headroom(o, fleet.at, traffic), o.state.key)).state.key
            moves.append(FailOver(model, pool.key, best, detail))
            reasons.append(Reason("fail over", name, pool.weight, 0.0, f"{detail}; to {best}"))
        elif not failing and before.unsound_at is not None:
            reasons.append(Reason("fail back", name, pool.weight, pool.weight, detail))
        elif not sound and pool.weight > 0 and len(options) > 1:
            reasons.append(Reason("no failover", name, pool.weight, pool.weight, f"{detail}; no room elsewhere"))
    return Failover(tuple(marked), tuple(moves), tuple(reasons), remembered)


def _possible(
    fleet: FleetState, pool: PoolState, known: PoolMemory, others: Sequence[PoolOption], traffic: TrafficSettings
) -> bool:
    """Return whether the others could take the traffic; what a dead pool has is better off anywhere.

    Where the load is not observed, what was found before stands.
    """
    if not others or not pool.roster.serving_count:
        return bool(others)
    demand = fleet.demand.get(pool.key.model)
    if demand is None:
        return known.unsound_at is not None
    return sum(ready_headroom(o, fleet.at, traffic) for o in others) >= demand.requests_per_s


def _judged(
    pool: PoolState, known: PoolMemory, possible: bool, at: float, settings: FailoverSettings, *, sound: bool
) -> PoolMemory:
    """Return the pool's memory, with ``unsound_at`` set while it is given up."""
    if not possible:
        return known if known.unsound_at is None else replace(known, unsound_at=None)
    if not sound:
        begins = known.unsound_at is not None or pool.weight > 0
        return replace(known, unsound_at=at if begins else None)
    if known.unsound_at is not None and at - known.unsound_at >= settings.return_after_s:
        return replace(known, unsound_at=None)
    return known


def _expected(pool: PoolState) -> int:
    return min(pool.desired, len(pool.roster)) or min(pool.desired, 1)


def _sound(pool: PoolState, settings: FailoverSettings) -> bool:
    """Enough of it serves, or all that is missing is on its way beside something that serves."""
    expected, serving, starting = _expected(pool), pool.roster.serving_count, len(pool.roster.starting)
    return serving >= settings.serving_ratio * expected or (serving > 0 and serving + starting >= expected)
