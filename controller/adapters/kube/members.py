"""How are several clusters one fleet? A ``Cluster`` put together from members.

A member that cannot be reached is held, never emptied: its pools are told as they were last seen, with the instant of
that (``PoolState.last_told_at``), and whatever is asked of them is refused. Once it is reached again, the look is as
before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from controller.adapters.kube.json_reading import Refused
from controller.errors import ActuationError, ObservationError
from controller.ports import Cluster
from policies.fleet import NodeState, PoolKey, PoolState

HOLD_S = 86_400.0

_POOL_PREFIX_END = "."  # names of members have none
_NODE_PREFIX_END = "/"  # names of nodes have none


class Member(Cluster, Protocol):
    """One cluster, which has to be started before use and closed after it."""

    def start(self) -> None:
        """Begin to watch; returns when everything was listed, or after a while."""
        ...

    def close(self) -> None:
        """Give up the connections."""
        ...


@dataclass(frozen=True, slots=True)
class _Sight:
    """What a member told when it was last reached, in its own names."""

    pools: tuple[PoolState, ...]
    nodes: Mapping[str, NodeState]
    at: float


@dataclass(frozen=True, slots=True)
class _Made:
    """A pool as the fleet knows it, and of what it was made."""

    source: PoolState
    nodes: Mapping[str, str]
    last_told_at: float | None
    pool: PoolState


class MemberClusters:
    """``Cluster`` over several members. Start it before use and close it after; for one thread at a time.

    Any other may ask where something is, as of the last look: ``home_of``, ``home_of_node``, ``unreached``.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        now: Callable[[], float],
        *,
        optional: Collection[str] = (),
        pool_prefix: bool = True,
        hold_s: float = HOLD_S,
    ) -> None:
        """Take the members by name, and seconds since the epoch from ``now``.

        Args:
            members: The clusters by name.
            now: Returns the time.
            optional: Members that the fleet may begin without.
            pool_prefix: Whether pools are called ``MEMBER.POOL``.
            hold_s: For how long a member that cannot be reached is told as it was last seen.
        """
        self._members, self._now = dict(members), now
        self._optional, self._pool_prefix, self._hold_s = frozenset(optional), pool_prefix, hold_s
        self._threads = ThreadPoolExecutor(max(1, len(self._members)), "member")
        self._seen: dict[str, _Sight] = {}
        self._lost: dict[str, ObservationError] = {}
        self._made: dict[tuple[str, PoolKey], _Made] = {}
        self._homes: dict[PoolKey, str] = {}
        self._twice: tuple[PoolKey, ...] = ()

    def start(self) -> None:
        """Start all members at once: those that cannot be reached keep the others waiting for no longer than one."""
        list(self._threads.map(lambda member: member.start(), self._members.values()))

    def close(self) -> None:
        """Close all members at once."""
        list(self._threads.map(lambda member: member.close(), self._members.values()))
        self._threads.shutdown()

    # Looking

    def pools(self) -> tuple[PoolState, ...]:
        """Return the pools of all members in key order; see the module for those that cannot be reached.

        A pool of which nothing has changed is the same object as before.

        Raises:
            ObservationError: If a member cannot be reached, and was not for too long or since the start.
        """
        self._look()
        renamed = self._renamed_nodes()
        made = {
            (name, pool.key): self._pool(name, pool, renamed.get(name, {}))
            for name, sight in self._seen.items()
            for pool in sight.pools
        }
        counts = Counter(one.pool.key for one in made.values())
        self._made = made
        self._twice = tuple(sorted(key for key, count in counts.items() if count > 1))
        self._homes = {one.pool.key: name for (name, _), one in made.items() if counts[one.pool.key] == 1}
        return tuple(sorted((one.pool for one in made.values() if counts[one.pool.key] == 1), key=lambda p: p.key))

    def nodes(self) -> Mapping[str, NodeState]:
        """Return the nodes of all members, those of one that cannot be reached as they were last seen.

        A name that two members have is told as ``MEMBER/NODE`` of each.

        Raises:
            ObservationError: As ``pools``.
        """
        if not self._seen:
            self._look()
        seen, lost = dict(self._seen), dict(self._lost)
        for name in [name for name in seen if name not in lost]:
            try:
                seen[name] = replace(seen[name], nodes=self._members[name].nodes())
            except ObservationError as error:
                lost[name] = error
        self._seen, self._lost = seen, lost
        renamed = self._renamed_nodes()
        return {
            renamed.get(name, {}).get(node, node): state
            for name, sight in self._seen.items()
            for node, state in sight.nodes.items()
        }

    def notes(self) -> tuple[Refused, ...]:
        """Return what is to be said of the last look: members that cannot be reached, pools that two tell of."""
        lost = [Refused(f"member {name}", f"cannot be reached: {error.what}") for name, error in self._lost.items()]
        twice = [
            Refused(f"pool {key}", "two members tell of it: rename one, or set pool_prefix") for key in self._twice
        ]
        return (*lost, *twice)

    def home_of(self, pool: PoolKey) -> tuple[str, PoolKey]:
        """Return the member that has a pool, as of the last look, and what the pool is called there.

        Raises:
            ActuationError: If none has it.
        """
        name = self._homes.get(pool)
        if name is None:
            raise ActuationError(f"no member has a pool {pool}", str(pool))
        if not self._pool_prefix:
            return name, pool
        return name, PoolKey(pool.model, pool.pool.removeprefix(f"{name}{_POOL_PREFIX_END}"), pool.role)

    def home_of_node(self, node: str) -> tuple[str, str]:
        """Return the member that has a node, as of the last look, and what the node is called there.

        Raises:
            ActuationError: If none has it.
        """
        renamed = self._renamed_nodes()
        for name, sight in self._seen.items():
            for known in sight.nodes:
                if renamed.get(name, {}).get(known, known) == node:
                    return name, known
        raise ActuationError(f"no member has a node {node}", node)

    @property
    def unreached(self) -> Collection[str]:
        """Members that could not be reached at the last look."""
        return self._lost.keys()

    # Acting: each verb as in controller.ports.Cluster; refused where the member cannot be reached

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        """Ask for ``replicas``; raises StalePlan and ActuationError."""
        member, key = self._reached(pool)
        member.scale(key, replicas, version, retire_first)

    def cordon(self, pool: PoolKey, replica: str) -> None:
        """Send the replica no new requests; raises ActuationError."""
        member, key = self._reached(pool)
        member.cordon(key, replica)

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        """Send it new requests again; raises ActuationError."""
        member, key = self._reached(pool)
        member.uncordon(key, replica)

    def restart(self, pool: PoolKey, replica: str) -> None:
        """Delete the replica; the platform starts another in its place. Raises ActuationError."""
        member, key = self._reached(pool)
        member.restart(key, replica)

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        """Give the pool's replicas the template of ``revision``; raises ActuationError."""
        member, key = self._reached(pool)
        member.roll_back(key, revision)

    def pause(self, pool: PoolKey) -> None:
        """Let a rollout of the pool go no further; raises ActuationError."""
        member, key = self._reached(pool)
        member.pause(key)

    def resume(self, pool: PoolKey) -> None:
        """Let the rollout of the pool go on; raises ActuationError."""
        member, key = self._reached(pool)
        member.resume(key)

    def avoid(self, node: str) -> None:
        """Place no replica on that node any more; raises ActuationError."""
        member, name = self._reached_node(node)
        member.avoid(name)

    def stop_avoiding(self, node: str) -> None:
        """Place replicas there again; raises ActuationError."""
        member, name = self._reached_node(node)
        member.stop_avoiding(name)

    # Within

    def _look(self) -> None:
        """Ask all members at once, and keep what was seen of those that do not answer."""
        at = self._now()
        looks = dict(zip(self._members, self._threads.map(self._sight_of, self._members.values()), strict=True))
        self._lost = {name: look for name, look in looks.items() if isinstance(look, ObservationError)}
        told = {name: _Sight(*look, at) for name, look in looks.items() if not isinstance(look, ObservationError)}
        self._seen = self._seen | told  # another one: whoever asks meanwhile goes through the one before
        for name, error in self._lost.items():
            sight = self._seen.get(name)
            if sight is None and name not in self._optional:
                raise ObservationError(
                    f"member {name} was not reached since the start: {error.what}",
                    error.where,
                    error.remedy or "set its optional, or take it out of platform.members",
                )
            if sight is not None and at - sight.at > self._hold_s:
                raise ObservationError(
                    f"member {name} was last reached {at - sight.at:.0f} s ago: {error.what}",
                    error.where,
                    "repair it, take it out of platform.members, or raise platform.hold_s",
                )

    def _sight_of(self, member: Member) -> tuple[tuple[PoolState, ...], Mapping[str, NodeState]] | ObservationError:
        try:
            return member.pools(), member.nodes()
        except ObservationError as error:
            return error

    def _renamed_nodes(self) -> Mapping[str, Mapping[str, str]]:
        """Return, by member, what the fleet calls nodes whose names two members have."""
        names = {
            name: sight.nodes.keys() | {node for pool in sight.pools for node in pool.roster.by_node}
            for name, sight in self._seen.items()
        }
        counts = Counter(node for nodes in names.values() for node in nodes)
        shared = {node for node, count in counts.items() if count > 1}
        if not shared:
            return {}
        return {
            name: {node: f"{name}{_NODE_PREFIX_END}{node}" for node in sorted(nodes & shared)}
            for name, nodes in names.items()
        }

    def _pool(self, member: str, source: PoolState, renamed: Mapping[str, str]) -> _Made:
        """Return a pool as the fleet knows it: with its names there, and since when it is told from memory."""
        nodes = {node: renamed[node] for node in source.roster.by_node if node in renamed} if renamed else {}
        last_told_at = self._seen[member].at if member in self._lost else None
        before = self._made.get((member, source.key))
        if before and (before.source is source, before.nodes, before.last_told_at) == (True, nodes, last_told_at):
            return before
        key, replicas = source.key, source.roster.replicas
        if self._pool_prefix:
            key = PoolKey(key.model, f"{member}{_POOL_PREFIX_END}{key.pool}", key.role)
        if nodes:
            replicas = tuple([replace(r, node=nodes.get(r.node, r.node)) for r in replicas])
        at = math.nan if last_told_at is None else last_told_at
        return _Made(source, nodes, last_told_at, replace(source, key=key, replicas=replicas, last_told_at=at))

    def _reached(self, pool: PoolKey) -> tuple[Member, PoolKey]:
        name, key = self.home_of(pool)
        return self._if_reached(name), key

    def _reached_node(self, node: str) -> tuple[Member, str]:
        name, known = self.home_of_node(node)
        return self._if_reached(name), known

    def _if_reached(self, name: str) -> Member:
        error = self._lost.get(name)
        if error is not None:
            raise ActuationError(f"member {name} cannot be reached: {error.what}", error.where, error.remedy)
        return self._members[name]
