"""How large are the arrays of a simulated fleet, and how do they grow?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from policies.engine_profile import EngineProfile
from policies.fleet import Role
from simulations.kernel.bins import COARSE_BITS, COARSE_OCTAVES, FINE_BITS, FINE_OCTAVES
from simulations.kernel.layout import (
    DECODE,
    EXTRA,
    GROUP_BITS,
    HASHED,
    LFU,
    LINE_BYTES,
    LRU,
    MOST_RECENT,
    MOST_REQUESTS_AT_ONCE,
    NEVER,
    NO_CACHE,
    NOBODY,
    POOL,
    PREFILL,
    PROFILE,
    REPLICA,
    REQUEST,
    RETURN,
    ROUTE,
    ROUTES,
    ROW,
    SAMPLE,
    TRAFFIC,
    UNIFIED,
    UNIT,
    WORLD,
    Floats,
    Records,
    State,
)
from simulations.routings import ROUTINGS
from simulations.serving import PLAIN, Serving

_numba: Any = numba  # its types do not know its settings
_ROLES = {Role.UNIFIED: UNIFIED, Role.PREFILL: PREFILL, Role.DECODE: DECODE}
_CACHES = {"off": NO_CACHE, "lru": LRU, "lfu": LFU}
_FIRST_REQUESTS, _FIRST_WATCHED, _FIRST_BINS, _FIRST_RECENT = 1_024, 4_096, 128, 256
_MOST_ROWS = 2**31 - 1
BIN_S = 60.0
MOST_BINS = 4_096
"""Bins by time of arrival; when they do not do, each becomes twice as long."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What of the simulated world's settings the kernel needs, in seconds."""

    hold_s: float
    patience_s: float
    scrape_interval_s: float
    ttft_s: float
    tpot_s: float
    connect_s: float = 5.0


def new_state(
    profiles: Sequence[EngineProfile],
    timing: Timing,
    replicas: int,
    samples: int,
    *,
    keep_rows: bool = False,
    requests: int = _FIRST_REQUESTS,
    serving: Serving = PLAIN,
) -> State:
    """Return the arrays of a fleet with one pool per profile and room for some replicas, all without an engine."""
    for profile in profiles:
        check_budget(profile)
    pools = len(profiles)
    roles = [_ROLES[serving.role(pool)] for pool in range(pools)]
    room = _whole_groups(replicas)
    state = State(
        world=_world(timing, keep_rows, serving),
        profiles=np.array([_profile(profile, serving.unit_tokens) for profile in profiles], PROFILE),
        pools=np.array([(0.0, 0.0, 0, 0, role, np.nan) for role in roles], POOL),
        replicas=aligned(_blank(room)),
        traffic=aligned(_out_of_traffic(room)),
        requests=aligned(_chained(0, requests)),
        ends=aligned(np.zeros((room, _whole_lines(max(profile.max_running for profile in profiles) + 1)), np.int64)),
        due=aligned(np.zeros((room, max(profile.block_tokens for profile in profiles)), np.int32)),
        **_timeline(np.full(room, NEVER)),
        first_ends=np.zeros(room, np.int32),
        heads=np.full((pools, requests + 1), NOBODY, np.int32),
        tails=np.full((pools, requests + 1), NOBODY, np.int32),
        recent_ttft_s=np.zeros((room, _FIRST_RECENT)),
        scratch=np.empty(MOST_RECENT),
        scrape_order=np.zeros(room, np.int32),
        samples=np.zeros((room, samples), SAMPLE),
        watched=np.full(_FIRST_WATCHED, NOBODY, np.int32),
        histograms=np.zeros((3, FINE_OCTAVES << FINE_BITS), np.int64),
        bins=np.zeros((_FIRST_BINS, 2), np.int64),
        bin_ttft=np.zeros((_FIRST_BINS, COARSE_OCTAVES << COARSE_BITS), np.int32),
        rows=np.zeros(_FIRST_REQUESTS if keep_rows else 0, ROW),
        arrival_s=np.zeros(0),
        prompt_tokens=np.zeros(0, np.int32),
        output_tokens=np.zeros(0, np.int32),
        extras=np.zeros(requests, EXTRA),
        members=np.full((pools + 1, room), NOBODY, np.int32),
        hashed=np.zeros(0, HASHED),
        offsets=np.zeros(1, np.int64),
        units=np.zeros((room, 0), UNIT),
        unit_index=np.zeros((room, 0), np.int32),
        routes=np.zeros(ROUTES if serving.routing == "prefix_aware" else 0, ROUTE),
        returns=np.zeros(0, RETURN),
    )
    state.world["free_head"] = 0
    state.world["apart"] = PREFILL in roles
    state.world["in_order"] = PREFILL in roles or serving.routing == "least_response_time"
    return for_plain_python(state)


def for_plain_python(state: State) -> State:
    """Return the state so that records have their fields as attributes, where numba is switched off; else as it is."""
    if not _numba.config.DISABLE_JIT:
        return state
    plain = {name: array.view(np.recarray) for name, array in state._asdict().items() if array.dtype.names}
    return state._replace(**plain)


def check_budget(profile: EngineProfile) -> None:
    """Make sure that a full batch of decodes fits the token budget of a step.

    Raises:
        ValueError: If it does not.
    """
    if profile.max_running > profile.max_batched_tokens:
        raise ValueError(
            f"{profile.name}: max_running {profile.max_running} exceeds max_batched_tokens {profile.max_batched_tokens}"
        )


def with_more_replicas(state: State) -> State:
    """Return the state with room for twice as many replicas."""
    before = len(state.replicas)
    keys = np.full(2 * before, NEVER)
    keys[:before] = state.keys.reshape(-1).view(np.float64)
    order = np.zeros(2 * before, np.int32)
    w = state.world[0]
    places = (int(w["scrape_first"]) + np.arange(int(w["scrape_count"]))) % before
    order[: len(places)] = state.scrape_order[places]
    w["scrape_first"] = 0
    return state._replace(
        replicas=aligned(np.concatenate([state.replicas, _blank(before)])),
        traffic=aligned(np.concatenate([state.traffic, _out_of_traffic(before)])),
        ends=aligned(_longer(state.ends, 2 * before)),
        due=aligned(_longer(state.due, 2 * before)),
        **_timeline(keys),
        first_ends=_longer(state.first_ends, 2 * before),
        recent_ttft_s=_longer(state.recent_ttft_s, 2 * before),
        scrape_order=order,
        samples=_longer(state.samples, 2 * before),
        members=np.ascontiguousarray(_longer(state.members.T, 2 * before).T),
        units=_longer(state.units, 2 * before),
        unit_index=_longer(state.unit_index, 2 * before),
    )


def with_prefixes(state: State, caches: Sequence[int]) -> State:
    """Return the state with room for the prefixes that the replicas of each pool can hold, given each pool's cache.

    Raises:
        ValueError: If what a hash covers is not whole blocks of an engine.
    """
    w = state.world[0]
    state.profiles["cache"] = caches
    profiles = state.profiles[state.profiles["cache"] != NO_CACHE]
    for size in profiles["block_tokens"].tolist():
        if int(w["unit_tokens"]) % size:
            raise ValueError(f"a hash covers {w['unit_tokens']} tokens, which are no whole blocks of {size}")
    w["hashed"] = w["in_order"] = 1
    if not len(profiles):
        return state
    # Of the step that is going on, units are kept before idle ones make room for them.
    in_step = profiles["max_batched_tokens"] // int(w["unit_tokens"]) + 2
    most = int((profiles["blocks"] // profiles["unit_blocks"] + in_step).max())
    w["table_size"] = 1 << (2 * most - 1).bit_length()
    replicas = len(state.replicas)
    return state._replace(
        units=np.zeros((replicas, most), UNIT),
        unit_index=np.zeros((replicas, int(w["table_size"]) + most), np.int32),
    )


def with_more_room(state: State) -> State:
    """Return the state with room for the next arrival, whatever was full.

    Raises:
        OverflowError: If more requests are in the system, or in the trace, than their numbers can tell apart.
    """
    w = state.world[0]
    if w["recent_short"]:
        w["recent_short"] = 0
        longer = min(4 * state.recent_ttft_s.shape[1], MOST_RECENT)
        state = state._replace(recent_ttft_s=np.ascontiguousarray(_longer(state.recent_ttft_s.T, longer).T))
    if w["cursor"] == w["batch"] and not w["returning"]:
        return state
    if w["free_head"] == NOBODY:
        state = _more_requests(state)
    if w["arrivals"] - w["oldest"] >= len(state.watched):
        state = _more_watched(state)
    if w["keep_rows"] and w["arrivals"] >= len(state.rows):
        state = state._replace(rows=_longer(state.rows, 2 * len(state.rows)))
    if w["arrivals"] >= _MOST_ROWS:
        raise OverflowError(f"more than {_MOST_ROWS:,} requests in one run")
    if w["anyone_returns"]:
        state = with_room_for_returns(state)
    arrives_at = state.arrival_s[w["cursor"]] if w["cursor"] < w["batch"] else w["now"]
    if w["returning"]:
        arrives_at = max(w["now"], min(arrives_at, state.returns["at"][w["return_first"]]))
    while arrives_at >= len(state.bins) * w["bin_s"]:
        state = _more_bins(state)
    return state


def with_room_for_returns(state: State) -> State:
    """Return the state with room for every request in the system to be sent again."""
    w = state.world[0]
    needed = int(w["returning"]) + len(state.requests) + 1
    if not w["anyone_returns"]:
        w["anyone_returns"] = 1
        state.extras["attempt"] = state.extras["poison"] = 0
    if needed <= len(state.returns):
        return state
    returns = np.zeros(2 * needed, RETURN)
    count = int(w["returning"])
    if count:
        returns[:count] = state.returns[(int(w["return_first"]) + np.arange(count)) % len(state.returns)]
    w["return_first"] = 0
    return state._replace(returns=returns)


def _more_requests(state: State) -> State:
    before = len(state.requests)
    if 2 * before > MOST_REQUESTS_AT_ONCE:
        raise OverflowError(f"more than {before:,} requests are in the simulated system at once")
    heads, tails = (np.full((len(state.pools), 2 * before + 1), NOBODY, np.int32) for _ in range(2))
    heads[:, : before + 1] = state.heads
    tails[:, : before + 1] = state.tails
    state.world["free_head"] = before
    requests = aligned(np.concatenate([state.requests, _chained(before, before)]))
    extras = _longer(state.extras, 2 * before)
    return state._replace(requests=requests, extras=extras, heads=heads, tails=tails)


def _more_watched(state: State) -> State:
    w = state.world[0]
    before = len(state.watched)
    watched = np.full(2 * before, NOBODY, np.int32)
    rows = np.arange(int(w["oldest"]), int(w["arrivals"]))
    watched[rows % (2 * before)] = state.watched[rows % before]
    return state._replace(watched=watched)


def _more_bins(state: State) -> State:
    """Double the bins, up to ``MOST_BINS``; from there on their length."""
    before = len(state.bins)
    if before < MOST_BINS:
        return state._replace(bins=_longer(state.bins, 2 * before), bin_ttft=_longer(state.bin_ttft, 2 * before))
    state.world["bin_s"] *= 2
    for column in (state.bins, state.bin_ttft):
        column[: before // 2] = column[::2] + column[1::2]
        column[before // 2 :] = 0
    return state


def _world(timing: Timing, keep_rows: bool, serving: Serving) -> Records:
    world = np.zeros(1, WORLD)
    world["hold_s"], world["patience_s"] = timing.hold_s, timing.patience_s
    world["scrape_interval_s"] = timing.scrape_interval_s
    world["ttft_s"], world["tpot_s"] = timing.ttft_s, timing.tpot_s
    for name in ("next_end_at", "next_other_at", "next_scrape_at", "next_patience_at"):
        world[name] = NEVER
    for name in ("only_pool", "only_decode_pool", "held_head", "held_tail", "free_head", "drained"):
        world[name] = NOBODY
    world["connect_s"], world["return_until"] = timing.connect_s, -NEVER
    for name in ("connecting_head", "connecting_tail"):
        world[name] = NOBODY
    world["recording_from"] = -NEVER
    world["bin_s"] = BIN_S
    world["keep_rows"] = keep_rows
    world["routing"], world["draws"] = ROUTINGS.index(serving.routing), serving.seed
    world["match_ratio"] = serving.prefix_match_ratio
    world["most_ahead"], world["most_ratio"] = serving.prefix_most_ahead, serving.prefix_most_ratio
    world["kv_bytes_per_s"], world["kv_latency_s"] = serving.kv_bytes_per_s, serving.kv_latency_s
    world["unit_tokens"] = serving.unit_tokens
    return world


def cache_of(profile: EngineProfile, role: Role) -> int:
    """Return the prefix cache of an engine; decode replicas get no prompts to look up."""
    return NO_CACHE if role is Role.DECODE else _CACHES[profile.prefix_cache]


def _profile(profile: EngineProfile, unit_tokens: int) -> tuple[float, ...]:
    return (
        profile.decode_base_s,
        profile.decode_per_sequence_s,
        profile.decode_per_kv_token_s,
        profile.prefill_base_s,
        profile.prefill_per_token_s,
        profile.prefill_per_token2_s,
        profile.kv_cache_tokens // profile.block_tokens,
        profile.max_running,
        profile.max_batched_tokens,
        profile.block_tokens,
        profile.kv_bytes_per_token,
        NO_CACHE,
        unit_tokens // profile.block_tokens,
    )


def _whole_lines(numbers: int) -> int:
    """Return so many 8-byte numbers or more, in an odd number of lines: rows then spread over the sets of a cache."""
    lines = -(-numbers // 8)
    return 8 * (lines + 1 - lines % 2)


def _whole_groups(replicas: int) -> int:
    """Return so many replicas or more, in whole groups."""
    return max(1, -(-replicas // (1 << GROUP_BITS))) << GROUP_BITS


def _timeline(at: Floats) -> dict[str, Any]:
    """Return the arrays that tell whose instant is the earliest, given one per replica."""
    keys = aligned(at.view(np.int64).reshape(-1, 1 << GROUP_BITS))
    winners = keys.argmin(axis=1) + (np.arange(len(keys)) << GROUP_BITS)
    return {"keys": keys, "group_keys": keys.min(axis=1), "group_winners": winners.astype(np.int32)}


def _blank(count: int) -> Records:
    """Return records of replicas that have no engine and no scrapes."""
    blank = np.zeros(count, REPLICA)
    blank["end_at"] = blank["scrape_at"] = NEVER
    blank["slowdown"] = 1.0
    blank["transfer_at"] = NEVER
    blank["response_s"] = np.nan
    for name in ("partial", "done", "wait_head", "wait_tail", "moving_head", "moving_tail", "unit_free"):
        blank[name] = NOBODY
    for name in ("failing_until", "scrape_lost_until", "exporter_stuck_until", "unreached_until"):
        blank[name] = -NEVER
    for name in ("gpu_xid", "gpu_clock", "gpu_scale"):
        blank[name] = np.nan
    return blank


def blank_replica() -> Records:
    """Return one such record."""
    return _blank(1)


def _out_of_traffic(count: int) -> Records:
    """Return records of replicas that are in no list."""
    blank = np.zeros(count, TRAFFIC)
    blank["next"] = blank["before"] = NOBODY
    return blank


def blank_traffic() -> Records:
    """Return one such record."""
    return _out_of_traffic(1)


def aligned(array: Any) -> Any:
    """Return the array at an address that begins a line of the cache, so that no record lies across two."""
    room = np.zeros(array.nbytes + LINE_BYTES, np.uint8)
    first = -room.ctypes.data % LINE_BYTES
    copy = room[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _chained(first: int, count: int) -> Records:
    """Return free records of requests, numbered from ``first`` on, each of which names the next."""
    requests = np.zeros(count, REQUEST)
    requests["next"] = np.arange(first + 1, first + count + 1)
    requests["next"][-1] = NOBODY
    return requests


def _longer(array: Any, length: int) -> Any:
    longer = np.zeros((length, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer
