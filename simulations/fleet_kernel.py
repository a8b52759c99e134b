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
    with_room_for_returns,
)
from simulations.kernel.compiled import announce
from simulations.kernel.layout import (
    DECODE,
    HASHED,
    HELD,
    MOVING,
    NEEDS_ROOM,
    NEVER,
    NOBODY,
    PAUSED,
    PREFILLED,
    RUNNING,
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

    @property
    def returning(self) -> int:
        """How many requests are going to be sent again."""
        return int(self.world["returning"])

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
        """Let the engine stop in the middle of its step."""
        self._act(platform.HANG_SHOWING_ZERO if shows_zero else platform.HANG, r)

    def go_on(self, r: int) -> None:
        """Let a hung engine go on where it stopped."""
        self._act(platform.GO_ON, r)

    def keep_blocks(self, r: int, kept_ratio: float) -> None:
        """Let the engine, in this life and others, have that share of its KV cache; who no longer fits is refused."""
        state = self.state
        requests, profile = state.requests, state.profiles[state.replicas["pool"][r]]
        most = max(1, int(profile["blocks"] * kept_ratio))
        size = profile["block_tokens"]
        inside = np.isin(requests["place"], (WAITING, RUNNING, PREFILLED)) & (requests["ended"] == 0)
        blocks = -(-(requests["prompt"] + requests["output"] - 1) // size)
        too_long = np.flatnonzero((requests["replica"] == r) & inside & (blocks > most))
        in_order = too_long[np.argsort(requests["row"][too_long])].tolist()
        self._act(platform.KEEP_BLOCKS, r, in_order, kept_ratio)

    def kv_cache_ratio(self, r: int) -> float:
        """Return how full the KV cache of a living engine is, in [0, 1]."""
        self._act(platform.LOOK, r)
        return float(self.world["looked_at"])

    def reset_counters(self, r: int) -> None:
        """Let the counters that the engine shows begin again at zero."""
        self._act(platform.RESET_COUNTERS, r)

    def change_speed(self, r: int, slowdown: float) -> None:
        """Let steps that begin from now on take ``slowdown`` times as long."""
        self._act(platform.CHANGE_SPEED, r, number=slowdown)

    # Clients that come again

    def let_clients_return(self, until: float, times: int, after_s: float) -> None:
        """Let what fails before ``until`` be sent again, up to ``times`` each, so many seconds later."""
        self.state = with_room_for_returns(self.state)
        world = self.world
        world["return_until"], world["return_most"], world["return_after_s"] = until, times, after_s

    def send_poison(self, number: int, prompt: int, output: int, attempt: int) -> None:
        """Let a request come now that ``poisoned`` tells of by its number, from 1 on."""
        self.state = with_room_for_returns(self.state)
        world, returns = self.world, self.state.returns
        first = world["return_first"] = (int(world["return_first"]) - 1) % len(returns)
        returns[first] = (self.now, prompt, output, attempt, number)
        world["returning"] += 1

    def poisoned(self, number: int) -> tuple[bool, Any]:
        """Return whether the poison of that number is anywhere, and the owner of the replica that has admitted it."""
        state = self.state
        ring = (int(self.world["return_first"]) + np.arange(self.returning)) % max(len(state.returns), 1)
        if (state.returns["poison"][ring] == number).any():
            return True, None
        requests = state.requests
        there = (state.extras["poison"] == number) & (requests["place"] > 0) & (requests["ended"] == 0)
        for i in np.flatnonzero(there).tolist():
            r = int(requests["replica"][i])
            if requests["place"][i] != HELD:
                self._act(platform.PLAN, r)  # which lets its engine come up to now
            return True, self.owners[r] if requests["place"][i] in (RUNNING, MOVING) else None
        return False, None

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
