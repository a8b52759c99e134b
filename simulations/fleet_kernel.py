"""Who owns the arrays of a simulated fleet, lets them grow, and calls the compiled functions over them?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.engine_profile import EngineProfile
from simulations.block_hashes import BlockHashes
from simulations.kernel import platform
from simulations.kernel.arrays import (
    Timing,
    blank_replica,
    blank_traffic,
    cache_of,
    for_plain_python,
    new_state,
    with_more_replicas,
    with_more_room,
    with_prefixes,
)
from simulations.kernel.compiled import announce
from simulations.kernel.layout import (
    DECODE,
    HASHED,
    NEEDS_ROOM,
    NEVER,
    NOBODY,
    PAUSED,
    WAITING,
    State,
)
from simulations.kernel.run import run
from simulations.serving import PLAIN, Serving

_EVENTS_PER_CALL = 400_000
"""A quarter of a second's worth: an interrupt waits for a compiled call to return."""


class FleetKernel:
    """The compiled fleet. Time is seconds since the start of the run and stands at ``now``; verbs take effect then.

    Args:
        profiles: One per pool.
        timing: Time-outs and rhythms.
        samples: Scrapes kept of each replica.
        epoch_at: Instant of second 0, for those who think in instants.
        keep_rows: Whether a row per request is kept.
        replicas: For how many there is room before arrays grow.
        serving: Roles of the pools, routing, prefixes and transfers.
    """

    def __init__(
        self,
        profiles: Sequence[EngineProfile],
        timing: Timing,
        samples: int,
        *,
        epoch_at: float = 0.0,
        keep_rows: bool = False,
        replicas: int = 8,
        serving: Serving = PLAIN,
    ) -> None:
        announce(platform.act)
        self.state = new_state(profiles, timing, replicas, samples, keep_rows=keep_rows, serving=serving)
        self._caches = [cache_of(profile, serving.role(pool)) for pool, profile in enumerate(profiles)]
        self.world: Any = self.state.world[0]
        self.epoch_at = epoch_at
        self.owners: dict[int, Any] = {}
        self._free = list(range(len(self.state.replicas)))[::-1]

    @property
    def state(self) -> State:
        """All arrays; others take their place as they grow."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = for_plain_python(state)

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return float(self.world["now"])

    # Load

    def feed(
        self,
        arrival_s: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        hashes: BlockHashes | None = None,
    ) -> None:
        """Let these requests, in order of arrival, follow those that have arrived. The batch before must be used up.

        Raises:
            ValueError: If what a hash covers is not whole blocks of an engine.
        """
        self._feed_hashes(hashes)
        self.state = self.state._replace(
            arrival_s=np.array(arrival_s, np.float64, ndmin=1),
            prompt_tokens=np.array(prompt_tokens, np.int32, ndmin=1),
            output_tokens=np.array(output_tokens, np.int32, ndmin=1),
        )
        self.world["cursor"], self.world["batch"] = 0, len(self.state.arrival_s)

    def _feed_hashes(self, hashes: BlockHashes | None) -> None:
        """Let go of the hashes of requests that have left the system, and take in those of the batch."""
        state, world = self.state, self.world
        if hashes is not None and not world["hashed"]:
            state = with_prefixes(state, self._caches)
        world["batch_hashed"] = hashes is not None
        if hashes is not None or len(state.hashed):
            extras = state.extras
            there = (state.requests["place"] > 0) & (extras["hashes"] > 0)
            kept_from = int(extras["hash_from"][there].min()) if there.any() else len(state.hashed)
            extras["hash_from"] -= kept_from
            kept, more = state.hashed[kept_from:], 0 if hashes is None else len(hashes.hashes)
            hashed = np.zeros(len(kept) + more, HASHED)
            hashed[: len(kept)] = kept
            offsets = np.zeros(1, np.int64)
            if hashes is not None:
                hashed["hash"][len(kept) :] = hashes.hashes
                offsets = hashes.offsets + len(kept)
            state = state._replace(hashed=hashed, offsets=offsets)
        self.state = state

    def no_more_arrivals(self) -> None:
        """Let no batch follow."""
        self.world["exhausted"] = 1

    @property
    def batch_used_up(self) -> bool:
        """Whether all requests of the last batch have arrived."""
        return bool(self.world["cursor"] == self.world["batch"])

    @property
    def exhausted(self) -> bool:
        """Whether no batch will follow."""
        return bool(self.world["exhausted"])

    @property
    def last_arrival_at(self) -> float:
        """When the last request of the batch arrives, which must not be empty."""
        return float(self.state.arrival_s[-1])

    # Time

    def run(self, until: float, *, arrivals_too: bool, until_empty: bool = False) -> int:
        """Go on to ``until``; return why it stopped: done, empty, drained (see ``world``) or needing arrivals."""
        while True:
            why = int(run(self.state, until, arrivals_too, until_empty, _EVENTS_PER_CALL))
            if why == NEEDS_ROOM:
                self.state = with_more_room(self.state)
            elif why != PAUSED:
                return why

    # Replicas

    def add_replica(self, pool: int, owner: object = None) -> int:
        """Return the number of a new replica without an engine; ``owners`` tells whose it is."""
        if not self._free:
            before = len(self.state.replicas)
            self.state = with_more_replicas(self.state)
            self._free = list(range(before, 2 * before))[::-1]
        r = self._free.pop()
        lives = self.state.replicas["life"][r]
        self.state.replicas[r] = blank_replica()[0]
        self.state.replicas["life"][r] = lives
        self.state.traffic[r] = blank_traffic()[0]
        self.state.replicas["pool"][r] = self.state.traffic["pool"][r] = pool
        self.owners[r] = owner
        return r

    def remove_replica(self, r: int) -> None:
        """Let the number of a replica, which has neither engine nor traffic nor requests, be used again."""
        self.unwatch(r)
        del self.owners[r]
        self._free.append(r)

    @property
    def drained_owner(self) -> Any:
        """Whose replica it was that made ``run`` stop with ``DRAINED``."""
        return self.owners[int(self.world["drained"])]

    def replica(self, r: int) -> Any:
        """Return the record of a replica; it must not be kept while time goes on."""
        return self.state.replicas[r]

    def traffic(self, r: int) -> Any:
        """Return what routing knows of a replica; it must not be kept while time goes on."""
        return self.state.traffic[r]

    def begin_life(self, r: int) -> None:
        """Let a fresh engine run."""
        self._act(platform.BEGIN_LIFE, r)

    def end_life(self, r: int) -> None:
        """Let the engine be gone."""
        self._act(platform.END_LIFE, r)

    def open(self, r: int) -> None:
        """Send the replica requests from now on; those held for its pool go first."""
        requests = self.state.requests
        held = [i for i in self._held() if requests["pool"][i] == self.state.replicas["pool"][r]]
        self._act(platform.OPEN, r, held)

    def close(self, r: int) -> None:
        """Send the replica no more requests."""
        self._act(platform.CLOSE, r)

    def lose(self, r: int, *, retry: bool) -> None:
        """Take note that the replica is gone with its requests; with ``retry`` some are sent elsewhere."""
        requests = self.state.requests
        mine = np.flatnonzero((requests["replica"] == r) & (requests["place"] >= WAITING))
        had = mine[np.lexsort((requests["row"][mine], requests["timed_at"][mine]))].tolist()
        self._act(platform.LOSE_WITH_RETRY if retry else platform.LOSE, r, had)

    def hang(self, r: int, *, shows_zero: bool) -> None:
        """Let the engine stop for good in the middle of its step."""
        self._act(platform.HANG_SHOWING_ZERO if shows_zero else platform.HANG, r)

    def change_speed(self, r: int, slowdown: float) -> None:
        """Let steps that begin from now on take ``slowdown`` times as long."""
        self._act(platform.CHANGE_SPEED, r, number=slowdown)

    def watch(self, r: int, first_at: float) -> None:
        """Scrape the replica at ``first_at``, which is at most an interval ahead, and each interval from then on."""
        order = self._scrape_order()
        self.state.replicas["scrape_at"][r] = first_at
        at = self.state.replicas["scrape_at"][order]
        self._set_scrape_order(np.insert(order, int(np.searchsorted(at, first_at, side="right")), r))

    def unwatch(self, r: int) -> None:
        """Scrape the replica no more."""
        order = self._scrape_order()
        self._set_scrape_order(order[order != r])

    # Pools

    def set_weights(self, weights: Sequence[float]) -> None:
        """Replace the weights of the pools; earlier choices are forgotten and held requests assigned anew."""
        pools, world = self.state.pools, self.world
        pools["weight"], pools["credit"] = weights, 0.0
        for total, only, stage in (
            ("total_weight", "only_pool", pools["role"] != DECODE),
            ("total_decode_weight", "only_decode_pool", pools["role"] == DECODE),
        ):
            world[total] = math.fsum(pools["weight"][stage])
            some = np.flatnonzero(stage & (pools["weight"] > 0))
            world[only] = some[0] if len(some) == 1 else NOBODY
        self._act(platform.ASSIGN, requests=self._held())

    def _act(self, verb: int, r: int = NOBODY, requests: Sequence[int] = (), number: float = 0.0) -> None:
        platform.act(self.state, verb, r, np.array(requests, np.int32), float(number))

    def _held(self) -> list[int]:
        """Return the requests held at the gateway, those held for longest first."""
        held = []
        i = int(self.world["held_head"]) if self.world["held"] else NOBODY
        while i != NOBODY:
            held.append(i)
            i = int(self.state.requests["next"][i])
        return held

    def _scrape_order(self) -> npt.NDArray[np.int32]:
        first, count = int(self.world["scrape_first"]), int(self.world["scrape_count"])
        return self.state.scrape_order[(first + np.arange(count)) % len(self.state.scrape_order)]

    def _set_scrape_order(self, order: npt.NDArray[np.int32]) -> None:
        self.state.scrape_order[: len(order)] = order
        self.world["scrape_first"], self.world["scrape_count"] = 0, len(order)
        at = float(self.state.replicas["scrape_at"][order[0]]) if len(order) else NEVER
        self.world["next_scrape_at"] = at
        self._act(platform.PLAN)
